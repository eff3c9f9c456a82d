"""The ledger of looks: in the storage and in the user's file, each look once, by what was looked at."""

import json
from dataclasses import replace

import optuna
import pytest

from actsearch.errors import ActSearchError
from actsearch.study.ledger import STUDY, Ledger, Look, file_of_looks

LOOK = Look(
    "digits", "mlp", "ab12", "digits-mlp-1", "test_accuracy against relu, 20 seeds", ("gelu", "relu"), "2026-11-20"
)


def memory():
    return optuna.storages.InMemoryStorage()


def test_other_looks_at_the_same_test_set_are_found_oldest_first():
    ledger = Ledger(memory())
    assert ledger.earlier(LOOK) == []
    late = replace(LOOK, study="digits-mlp-2", date="2026-11-22")
    early = replace(LOOK, finalists=("relu", "silu"), date="2026-11-18")
    elsewhere = [replace(LOOK, test="cd34"), replace(LOOK, model="cnn1d"), replace(LOOK, data="mnist1d")]
    for look in (late, early, LOOK, *elsewhere):
        ledger.note(look)
    assert ledger.earlier(LOOK) == [early, late]
    assert str(early) == "digits-mlp-1 on 2026-11-18, test_accuracy against relu, 20 seeds, 2 nets"


def test_the_same_look_again_is_none():
    ledger = Ledger(memory())
    for date in ("2026-11-20", "2026-11-25"):
        ledger.note(replace(LOOK, date=date))
    assert ledger.earlier(LOOK) == []
    assert len(file_of_looks().read_text().splitlines()) == 1


@pytest.mark.parametrize("lost", ["file", "storage"])
def test_either_place_is_enough(lost):
    storage = memory()
    Ledger(storage).note(replace(LOOK, study="another"))
    if lost == "file":  # another machine
        file_of_looks().unlink()
    else:  # a study with a storage of its own
        storage = memory()
    assert [look.study for look in Ledger(storage).earlier(LOOK)] == ["another"]
    if lost == "file":
        assert len(optuna.load_study(study_name=STUDY, storage=storage).trials) == 1


def test_a_line_that_was_cut_off_or_is_of_another_version_is_passed_over():
    ledger = Ledger(memory())
    ledger.note(replace(LOOK, study="another"))
    with open(file_of_looks(), "a") as file:
        file.write(json.dumps({"data": "digits"}) + "\n" + '{"data": "dig')
    assert [look.study for look in Ledger(memory()).earlier(LOOK)] == ["another"]


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))  # no folder can be made below it, even by root
    with pytest.raises(ActSearchError, match=r"looks\.jsonl: the look at the test set cannot be noted there"):
        Ledger(memory()).note(LOOK)
