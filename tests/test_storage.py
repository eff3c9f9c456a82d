"""Storage: real SQLite files, damaged ones, URLs that are none; one leader per SQLite study."""

import fcntl
import subprocess
import sys
import textwrap

import optuna
import pytest

from actsearch.errors import ActSearchError
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


def test_a_folder_that_cannot_be_made_is_an_error_with_its_url(tmp_path):
    (tmp_path / "file").touch()
    said = message(f"sqlite:///{tmp_path}/file/study.db")
    assert str(tmp_path / "file") in said


def test_sqlite_path():
    assert str(sqlite_path("sqlite:///a/b.db")) == "a/b.db"
    assert str(sqlite_path("sqlite:////a/b.db")) == "/a/b.db"
    assert sqlite_path("postgresql://x/y") is None


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
    with sole_leader("postgresql://x/y", "a"), sole_leader("postgresql://x/y", "a"):
        pass


def test_a_leader_that_is_killed_lets_go(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
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
    with sole_leader(url, "a"), open(tmp_path / ".study.db.a.lock") as file, pytest.raises(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
    storage = open_storage(sqlite_url(path))
    optuna.create_study(study_name="s", storage=storage)
    close_storage(storage)
    assert path.stat().st_size > 0
    assert [*tmp_path.rglob("*.db")] == [path]
