"""Opens Optuna's storage, with clear errors if it cannot be opened; locks a SQLite study for one process."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import filelock
import optuna

from actsearch.errors import ActSearchError, hide_password, one_line
from actsearch.study import optuna_private

SQLITE = "sqlite:///"


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """The storage at a URL. Raises ActSearchError for a bad URL and a database that is damaged or does not answer."""
    import sqlalchemy.event
    import sqlalchemy.exc

    path, shown = sqlite_path(url), hide_password(url)
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path is None:
            return optuna.storages.get_storage(url)
        storage = optuna.storages.RDBStorage(url)
        sqlalchemy.event.listen(storage.engine, "connect", _cheap_commits)
        storage.engine.dispose()  # close the connections that were opened before this listener existed
        return optuna.storages.get_storage(storage)
    except sqlalchemy.exc.DatabaseError as error:
        if path is not None and path.exists():
            raise ActSearchError(
                f"storage.url={shown}: {path} is damaged or no Optuna database ({one_line(error.orig or error)}). "
                "Move it away and run again, or choose another storage.url."
            ) from None
        raise ActSearchError(
            f"storage.url={shown}: the database does not answer ({one_line(error.orig or error)}). "
            "Start it, or choose another storage.url."
        ) from None
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError, RuntimeError, OSError) as error:
        raise ActSearchError(
            f"storage.url={shown} cannot be opened ({one_line(error)}). Write e.g. sqlite:///study.db or "
            "postgresql+psycopg://user:password@host/database."
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


@contextlib.contextmanager
def sole_leader(url: str, study_name: str) -> Iterator[None]:
    """Locks a SQLite study for this process; the operating system releases the lock when the process ends.

    Raises ActSearchError if another process holds the study. Other storages allow several workers and are not locked.
    """
    path = sqlite_path(url)
    if path is None:
        yield
        return
    # a separate file: a lock on the database itself would interfere with SQLite's own locks
    lock = path.with_name(f".{path.name}.{study_name.replace('/', '-')}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(lock).acquire(blocking=False)
    except filelock.Timeout:
        raise ActSearchError(
            f"the study '{study_name}' in {path} is held by another process. Wait for it or stop it; to search "
            "with several workers, use a PostgreSQL storage.url."
        ) from None
    except OSError as error:
        raise ActSearchError(
            f"storage.url={url}: {lock.parent} cannot be written ({one_line(error)}). Choose another storage.url."
        ) from None
    with held:
        yield


def is_storage_error(error: Exception) -> bool:
    """Whether a database is damaged or does not answer: then what Optuna and SQLAlchemy raise is no defect of ours."""
    import sqlalchemy.exc

    return isinstance(error, sqlalchemy.exc.SQLAlchemyError | optuna.exceptions.OptunaError)


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file. Characters into which SQLAlchemy, Optuna or SQLite would read more are encoded."""
    return SQLITE + re.sub("[%?#{}]", lambda found: quote(found[0]), str(path))


def sqlite_path(url: str) -> Path | None:
    """The file that a URL names; None for another database."""
    if not url.startswith(SQLITE):
        return None
    return Path(unquote(url.removeprefix(SQLITE).partition("?")[0]))
