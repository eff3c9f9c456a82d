"""The ledger of looks: which verdicts were seen on a test set, by whatever study.

A verdict is corrected for what one study compares. Who looks again, with more trials, other finalists or another study,
has a further chance to err, of which that study knows nothing. So every look is noted, in the study's storage, which
others may share, and in a file of the user's own, because by default each study has a storage for itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

import optuna

from actsearch.data.files import user_folder
from actsearch.errors import ActSearchError, one_line

STUDY = "actsearch/looks"


@dataclass(frozen=True)
class Look:
    """A verdict that was seen. test: the digest of the test examples. options: of the comparison, in words. finalists:
    with the baseline. date: of the first time that it was seen.
    """

    data: str
    model: str
    test: str
    study: str
    options: str
    finalists: tuple[str, ...]
    date: str

    @property
    def place(self) -> tuple[str, str, str]:
        """What was looked at."""
        return self.data, self.model, self.test

    def __str__(self) -> str:
        return f"{self.study} on {self.date}, {self.options}, {len(self.finalists)} nets"

    def is_same(self, other: Look) -> bool:
        return dataclasses.replace(self, date=other.date) == other


class Ledger:
    """The looks in a storage and in the user's file."""

    def __init__(self, storage: optuna.storages.BaseStorage) -> None:
        self._storage = storage

    def earlier(self, look: Look) -> list[Look]:
        """The other looks at the same test set with the same model, oldest first."""
        found = [other for other in self._all() if other.place == look.place and not other.is_same(look)]
        return sorted(dict.fromkeys(found), key=lambda other: other.date)

    def note(self, look: Look) -> None:
        """Notes a look, unless it is the same again. Raises ActSearchError if the user's file cannot be written."""
        noted = self._all()
        if any(other.is_same(look) for other in noted):
            return
        text = json.dumps(dataclasses.asdict(look))
        study = optuna.create_study(study_name=STUDY, storage=self._storage, load_if_exists=True)
        study.add_trial(optuna.trial.create_trial(value=0.0, user_attrs={"look": text}))
        path = file_of_looks()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            with os.fdopen(number, "ab", buffering=0) as file:
                file.write(f"{text}\n".encode())  # one write, so that two processes do not mix their lines
        except OSError as error:
            raise ActSearchError(
                f"{path}: the look at the test set cannot be noted there ({one_line(error)})."
            ) from error

    def _all(self) -> list[Look]:
        texts = []
        if STUDY in optuna.get_all_study_names(self._storage):
            study = optuna.load_study(study_name=STUDY, storage=self._storage)
            texts = [trial.user_attrs["look"] for trial in study.get_trials(deepcopy=False)]
        with contextlib.suppress(OSError, UnicodeDecodeError):  # there is none yet
            texts += file_of_looks().read_text(encoding="utf-8").splitlines()
        looks = []
        for text in texts:
            with contextlib.suppress(ValueError, TypeError, KeyError):  # a line that was cut off
                values = json.loads(text)
                looks.append(Look(**{**values, "finalists": tuple(values["finalists"])}))
        return looks


def file_of_looks() -> Path:
    return user_folder("XDG_STATE_HOME", ".local/state") / "looks.jsonl"
