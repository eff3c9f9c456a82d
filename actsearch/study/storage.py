"""Opens Optuna's storage, with clear errors if it cannot be opened; holds a study for one process."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import filelock
import optuna

from actsearch.errors import ActSearchError, one_line
from actsearch.study import optuna_private

SQLITE = "sqlite:///"
LOCKS = {  # by database: takes the lock if it is free and says whether it did; it goes when its connection ends
    "postgresql": "SELECT pg_try_advisory_lock(:key)",
    "mysql": "SELECT GET_LOCK(:key, 0)",
    "mariadb": "SELECT GET_LOCK(:key, 0)",
}


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """The storage at a URL. Raises ActSearchError for a bad URL and a database that is damaged or does not answer."""
    import sqlalchemy.event
    import sqlalchemy.exc

    path = sqlite_path(url)
    with _explained(url):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        written = url.replace("{", "{{").replace("}", "}}")  # Optuna formats it
        try:
            storage = optuna.storages.RDBStorage(written)
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.OperationalError):
            time.sleep(0.5)  # another study may be creating the tables at this moment: of two that do, one fails
            storage = optuna.storages.RDBStorage(written)
        if path is not None:
            sqlalchemy.event.listen(storage.engine, "connect", _cheap_commits)
            storage.engine.dispose()  # close the connections that were opened before this listener existed
        return optuna.storages.get_storage(storage)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turns what is raised while a database is opened into an ActSearchError."""
    import sqlalchemy.exc

    path = sqlite_path(url)
    try:
        yield
    except ActSearchError:
        raise
    except sqlalchemy.exc.DatabaseError as error:
        if path is not None and isinstance(error, sqlalchemy.exc.OperationalError):
            raise ActSearchError(
                f"storage.url={url}: {path} cannot be written ({one_line(error.orig or error)}). Is the disk full, or "
                "the folder read-only?"
            ) from None
        if path is not None and path.exists():
            raise ActSearchError(
                f"storage.url={url}: {path} is damaged or no Optuna database ({one_line(error.orig or error)}). "
                "Move it away and run again, or choose another storage.url."
            ) from None
        raise ActSearchError(
            f"storage.url={url}: the database does not answer ({one_line(error.orig or error)}). "
            "Start it, or choose another storage.url."
        ) from None
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError, RuntimeError, OSError) as error:
        raise ActSearchError(
            f"storage.url={url} cannot be opened ({one_line(error)}). Write e.g. sqlite:///study.db or "
            "postgresql+psycopg://user@host/database, with the password in the variable PGPASSWORD."
        ) from None


def _cheap_commits(connection: Any, _: Any) -> None:
    """Makes SQLite write to a log beside the file instead of waiting for the disk at each commit.

    A commit then takes 0.2 ms instead of 5, and a trial makes a dozen. What was committed survives the end of the
    process, however it ends.
    """
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def close_storage(storage: optuna.storages.BaseStorage) -> None:
    """Closes the database. SQLite then removes its log beside the file."""
    storage.remove_session()
    engine = optuna_private.engine(storage)
    if engine is not None:
        engine.dispose()


def sole_leader(url: str, study_name: str) -> AbstractContextManager[Callable[[], None]]:
    """Holds a study for this process, until it ends in whatever way: two would train one study to two answers.

    Yields a function that raises ActSearchError if the study is held no longer. Raises ActSearchError if another
    process holds it, or if nobody can hold a study in such a storage.
    """
    path = sqlite_path(url)
    return _held_in_database(url, study_name) if path is None else _held_by_file(path, url, study_name)


# what a driver cannot close after a Ctrl-C is no news, and without a handler Python would print it with its traceback
logging.getLogger("sqlalchemy").addHandler(logging.NullHandler())


class HeldAlready(ActSearchError):
    """Another process leads the study."""


def _held_already(where: object, study_name: str) -> HeldAlready:
    return HeldAlready(
        f"the study '{study_name}' in {where} is held by another process, and one process leads a study. "
        "Wait for it or stop it, or choose another study.name."
    )


@contextlib.contextmanager
def _held_by_file(path: Path, url: str, study_name: str) -> Iterator[Callable[[], None]]:
    """By a lock on a file of its own: one on the database itself would interfere with SQLite's locks."""
    real = path.resolve()  # two links to one file are one study
    lock = real.with_name(f".{real.name}.{study_name.replace('/', '-')}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(lock).acquire(blocking=False)
    except filelock.Timeout:
        raise _held_already(path, study_name) from None
    except OSError as error:
        raise ActSearchError(
            f"storage.url={url}: {lock.parent} cannot be written ({one_line(error)}). Choose another storage.url."
        ) from None
    with held:
        yield lambda: None


@contextlib.contextmanager
def _held_in_database(url: str, study_name: str) -> Iterator[Callable[[], None]]:
    """By a lock of the database's own, which goes with the connection that took it."""
    import sqlalchemy
    import sqlalchemy.exc

    with _explained(url):
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT")
    if engine.name == "sqlite":  # in memory, where nobody else can be
        yield lambda: None
        return
    if engine.name not in LOCKS:
        raise ActSearchError(
            f"storage.url={url}: a study in {engine.name} cannot be held for one process, and two would train it to "
            "two answers. Write e.g. sqlite:///study.db or postgresql+psycopg://user@host/database."
        )
    take = sqlalchemy.text(LOCKS[engine.name]).bindparams(key=_key(engine, study_name))
    with contextlib.ExitStack() as stack:
        with _explained(url):
            connection = stack.enter_context(engine.connect())
            if not connection.scalar(take):
                raise _held_already(url, study_name)
            with engine.connect() as second:
                shared = second.scalar(take)
        if shared:  # a pooler such as PgBouncer, or a database that knows no more than the function's name
            raise ActSearchError(
                f"storage.url={url}: this database gives one lock to two connections, so two processes could lead the "
                "study. Name the database itself, without a pooler."
            )

        def still_held() -> None:
            try:
                connection.scalar(sqlalchemy.text("SELECT 1"))
            except sqlalchemy.exc.SQLAlchemyError as error:
                raise ActSearchError(
                    f"storage.url={url}: the connection that holds the study '{study_name}' is lost "
                    f"({one_line(getattr(error, 'orig', None) or error)}). What was finished is saved: the same "
                    "command goes on."
                ) from None

        yield still_held


def _key(engine: Any, study_name: str) -> int | str:
    """The name of a study's lock: PostgreSQL wants a number, and MySQL has one space of names for all databases."""
    digest = hashlib.sha256(f"{engine.url.database}/{study_name}".encode()).digest()
    number = int.from_bytes(digest[:8]) >> 1
    return number if engine.name == "postgresql" else f"actsearch {number}"


def storage_trouble(error: BaseException) -> str | None:
    """What a database said that is damaged, full or gone, if that is why this was raised: it is no defect of ours."""
    import sqlalchemy.exc

    if not isinstance(error, sqlalchemy.exc.SQLAlchemyError | optuna.exceptions.OptunaError):
        return None
    while error.__cause__ is not None:  # Optuna's and SQLAlchemy's own errors only say that there was one
        error = error.__cause__
    return one_line(error)


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file. Characters into which SQLAlchemy, Optuna or SQLite would read more are encoded."""
    return SQLITE + re.sub("[%?#{}]", lambda found: quote(found[0]), str(path))


def sqlite_path(url: str) -> Path | None:
    """The file that a URL names; None for another database, and for one in memory.

    Raises ActSearchError where SQLAlchemy would take a part of the path for something else.
    """
    scheme, _, rest = url.partition(":///")
    path, mark, options = rest.partition("?")
    if scheme.partition("+")[0] != "sqlite" or path in ("", ":memory:"):
        return None
    if (mark and not re.match(r"\w+=", options)) or path.startswith("file:"):
        raise ActSearchError(f"{url}: write the path itself after {SQLITE}, with %3F for ? and %25 for %.")
    return Path(unquote(path))
