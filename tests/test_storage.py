"""Storage: real SQLite files, damaged ones, URLs that are none; one leader of a study."""

import contextlib
import fcntl
import subprocess
import sys
import textwrap
import time

import optuna
import pytest
import sqlalchemy
import sqlalchemy.exc

from actsearch.errors import ActSearchError
from actsearch.study import storage
from actsearch.study.storage import close_storage, open_storage, sole_leader, sqlite_path, sqlite_url


def message(url):
    with pytest.raises(ActSearchError) as error:
        open_storage(url)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_new_sqlite_file_is_made_with_its_folder_and_keeps_what_it_is_given(tmp_path):
    url = f"sqlite:///{tmp_path}/new/study.db"
    optuna.create_study(study_name="a", storage=open_storage(url)).add_trial(optuna.trial.create_trial(value=0.5))
    again = optuna.load_study(study_name="a", storage=open_storage(url))
    assert [t.value for t in again.trials] == [0.5]


def test_a_damaged_sqlite_file_is_named_and_left_alone(tmp_path):
    path = tmp_path / "study.db"
    path.write_bytes(b"garbage " * 500)
    said = message(f"sqlite:///{path}")
    assert f"{path} is damaged" in said
    assert "Move it away" in said
    assert path.read_bytes() == b"garbage " * 500


def test_a_file_cut_off_in_the_middle_is_damaged_too(tmp_path):
    path = tmp_path / "study.db"
    open_storage(f"sqlite:///{path}")
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" * 5000)
    assert "damaged" in message(f"sqlite:///{path}")


@pytest.mark.parametrize(
    "url", ["", "study.db", "sqlit:///study.db", "mysql+nothere://localhost/x", "postgresql+psycopg://localhost:1/x"]
)
def test_a_url_that_opens_nothing_is_shown_with_an_example(url):
    said = message(url)
    assert f"storage.url={url}" in said
    assert "choose another storage.url" in said or "sqlite:///study.db" in said


def test_two_studies_that_create_the_tables_at_the_same_moment(tmp_path, postgresql, monkeypatch):
    calls = []

    class Late(optuna.storages.RDBStorage):
        def __init__(self, url):
            super().__init__(url)
            calls.append(url)
            if len(calls) % 2:
                raise sqlalchemy.exc.ProgrammingError("CREATE TABLE studies", None, Exception("already exists"))

    monkeypatch.setattr(optuna.storages, "RDBStorage", Late)
    for url in (f"sqlite:///{tmp_path}/s.db", postgresql()):
        optuna.create_study(study_name="a", storage=open_storage(url))
    assert len(calls) == 4


def test_a_disk_that_is_full_is_not_called_a_damaged_file(tmp_path):
    """The files that the process may write are as small as on a disk with little space."""
    code = f"""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        from actsearch.study.storage import open_storage
        open_storage("sqlite:///{tmp_path}/s.db")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert "s.db cannot be written (OperationalError: disk I/O error). Is the disk full" in done.stderr
    assert "damaged" not in done.stderr


def test_what_went_wrong_with_a_database_is_what_itself_said():
    try:
        try:
            raise ValueError("database or disk is full")
        except ValueError as error:
            raise optuna.exceptions.StorageInternalError("typically happens due to invalid data") from error
    except optuna.exceptions.StorageInternalError as error:
        assert storage.storage_trouble(error) == "ValueError: database or disk is full"
    assert storage.storage_trouble(ValueError("a defect of ours")) is None


def test_a_folder_that_cannot_be_made_is_an_error_with_its_url(tmp_path):
    (tmp_path / "file").touch()
    said = message(f"sqlite:///{tmp_path}/file/study.db")
    assert str(tmp_path / "file") in said


def test_sqlite_path():
    assert str(sqlite_path("sqlite:///a/b.db")) == "a/b.db"
    assert str(sqlite_path("sqlite:////a/b.db")) == "/a/b.db"
    assert str(sqlite_path("sqlite+pysqlite:///50%25/which%3F.db?timeout=3")) == "50%/which?.db"
    for none in ("postgresql://x/y", "sqlite://", "sqlite:///:memory:"):
        assert sqlite_path(none) is None
    for misread in ("sqlite:///which act?/s.db", "sqlite:///file:s.db?uri=true"):
        with pytest.raises(ActSearchError, match="write the path itself"):
            sqlite_path(misread)


def test_one_leader_a_study(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    with sole_leader(url, "a"):
        with (
            pytest.raises(ActSearchError, match=r"'a' in .*study.db is held by another process"),
            sole_leader(url, "a"),
        ):
            pass
        with sole_leader(url, "b"):
            pass  # another study in the same file
    with sole_leader(url, "a"):
        pass  # free again
    (tmp_path / "link.db").symlink_to(tmp_path / "study.db")
    for same in (f"sqlite:///{tmp_path}/link.db", f"sqlite+pysqlite:///{tmp_path}/study.db"):
        with sole_leader(url, "a"), pytest.raises(ActSearchError, match="held by another"), sole_leader(same, "a"):
            pass
    with sole_leader("sqlite://", "a"), sole_leader("sqlite://", "a"):
        pass  # in memory, where nobody else can be


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/study.db"
    return request.getfixturevalue("postgresql")()


def test_a_leader_that_is_killed_lets_go(url):
    code = f"""
        from actsearch.study.storage import sole_leader
        with sole_leader({url!r}, "a"):
            print("held", flush=True)
            import time; time.sleep(60)
    """
    other = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ActSearchError, match="held by another process"), sole_leader(url, "a"):
            pass
    finally:
        other.kill()
        other.wait()
    for _ in range(50):  # a server notices a moment later that a client is gone
        with contextlib.suppress(ActSearchError), sole_leader(url, "a"):
            return
        time.sleep(0.1)
    raise AssertionError("it is still held")


def test_the_lock_is_one_of_the_operating_system(tmp_path):
    with (
        sole_leader(f"sqlite:///{tmp_path}/study.db", "a"),
        open(tmp_path / ".study.db.a.lock") as file,
        pytest.raises(OSError),
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_one_leader_a_study_in_postgresql(postgresql):
    url = postgresql("postgres:planted-secret")
    with sole_leader(url, "a"):
        with pytest.raises(ActSearchError, match=r"'a' in postgresql\S* is held by another"):
            sole_leader(url, "a").__enter__()
        with sole_leader(url, "b"), sole_leader(postgresql(), "a"):
            pass  # another study in the same database, and one of that name in another
    with sole_leader(url, "a"):
        pass  # free again


def test_a_leader_whose_connection_is_lost_stops(postgresql):
    url = postgresql()
    with sole_leader(url, "a") as still_held:
        still_held()
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        engine = sqlalchemy.create_engine(url)
        with engine.connect() as other:
            other.execute(sqlalchemy.text(f"{end} AND datname = current_database()"))
        engine.dispose()
        with pytest.raises(ActSearchError, match=r"the connection that holds the study 'a' is lost .*goes on"):
            still_held()


def test_a_storage_in_which_nobody_can_hold_a_study_is_refused(monkeypatch, postgresql):
    url = postgresql()
    monkeypatch.setitem(storage.LOCKS, "postgresql", "SELECT true OR :key > 0")  # as behind a pooler
    with pytest.raises(ActSearchError, match="one lock to two connections"), sole_leader(url, "a"):
        pass
    monkeypatch.delitem(storage.LOCKS, "postgresql")
    with pytest.raises(ActSearchError, match="a study in postgresql cannot be held"), sole_leader(url, "a"):
        pass


@pytest.mark.parametrize("url", ["journal:///x.log", "redis://localhost:1", "grpc://localhost:1"])
def test_a_storage_that_sqlalchemy_does_not_know_is_refused(url):
    with pytest.raises(ActSearchError, match=rf"storage\.url={url} cannot be opened.*Write e\.g\."):
        sole_leader(url, "a").__enter__()


def test_the_leaders_file_where_no_folder_is_yet(tmp_path):
    url = f"sqlite:///{tmp_path}/new/study.db"
    with sole_leader(url, "a"):
        open_storage(url)


def test_the_leaders_file_where_none_can_be_is_an_error_with_its_url(tmp_path):
    (tmp_path / "file").touch()
    url = f"sqlite:///{tmp_path}/file/study.db"
    with pytest.raises(ActSearchError, match=r"storage\.url"), sole_leader(url, "a"):
        pass


@pytest.mark.parametrize("name", ["plain.db", "which act?/x.db", "50% of #1.db", "a {b}.db", "%41.db", "ü v.db"])
def test_a_url_of_a_sqlite_file_leads_back_to_it(name, tmp_path):
    path = tmp_path / name
    assert sqlite_path(sqlite_url(path)) == path
    opened = open_storage(sqlite_url(path))
    optuna.create_study(study_name="s", storage=opened)
    close_storage(opened)
    assert path.stat().st_size > 0
    assert [*tmp_path.rglob("*.db")] == [path]
