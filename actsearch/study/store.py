"""Everything that a study keeps in Optuna's storage: its trials, its finalists' runs, and what is noted beside them.

The only file that knows under which names these are kept.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Protocol, Self, TypeVar

import optuna
from optuna.trial import TrialState

from actsearch.activations.spec import parse_net
from actsearch.errors import ActSearchError, hide_passwords
from actsearch.question.identity import flatten
from actsearch.question.metrics import Direction
from actsearch.question.options import FRESH_SEED
from actsearch.records import Candidate, Cost, FinalistRun, TrialRecord
from actsearch.study.ledger import Ledger
from actsearch.training.plan import Plan

FRESH = "study.fresh=true trains again; another study.name keeps both."


class Kept(Protocol):
    """What can be kept: it is written as JSON."""

    def to_json(self) -> str: ...

    @classmethod
    def from_json(cls, text: str) -> Self: ...


Record = TypeVar("Record", bound=Kept)


@dataclass
class Notes:
    """What a study keeps beside its trials.

    plans: how its runs are trained, by kind of device. environments: the versions and hardware that trained it, each
    once. finalists: each with its tuned recipe values, the baseline among them. asked: the options by which they were
    chosen and tuned. tuned: how they were tuned, and which values lie at the edge, in words. target: the accuracy up to
    which steps are counted. costs: of these finalists, by activation.
    """

    plans: dict[str, Plan] = field(default_factory=dict)
    environments: list[dict[str, str]] = field(default_factory=list)
    finalists: list[Candidate] = field(default_factory=list)
    asked: dict[str, Any] = field(default_factory=dict)
    tuned: list[str] = field(default_factory=list)
    target: float | None = None
    costs: dict[str, Cost] = field(default_factory=dict)


class Results(Generic[Record]):
    """Results of one kind, in an Optuna study of their own beside the search's: `<name>/tuning`, `<name>/finalists`.

    The study is created by the first result that is added.
    """

    def __init__(self, storage: optuna.storages.BaseStorage, name: str, kind: type[Record]) -> None:
        self._storage, self._name, self._kind = storage, name, kind

    @cached_property
    def _study(self) -> optuna.Study:
        return optuna.create_study(
            study_name=self._name, storage=self._storage, direction="maximize", load_if_exists=True
        )

    def _attributes(self) -> dict[str, Any]:
        return self._study.user_attrs if self._name in optuna.get_all_study_names(self._storage) else {}

    def all(self) -> list[Record]:
        if self._name not in optuna.get_all_study_names(self._storage):
            return []
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [self._kind.from_json(trial.user_attrs["result"]) for trial in trials]

    def add(self, result: Record, value: float) -> None:
        """Keeps a result. value: the number that Optuna's dashboard shows for it."""
        self._study.add_trial(optuna.trial.create_trial(value=value, user_attrs={"result": result.to_json()}))

    @property
    def ended(self) -> datetime.datetime | None:
        """When the last result was added."""
        if self._name not in optuna.get_all_study_names(self._storage):
            return None
        ends = [t.datetime_complete for t in self._study.get_trials(deepcopy=False) if t.datetime_complete is not None]
        return max(ends, default=None)

    @property
    def in_flight(self) -> list[tuple[Candidate, float, int]]:
        """The runs that were last started together: (candidate, multiple of its tuned learning rate, seed)."""
        return [
            (_candidate(activation, values), rate, seed)
            for activation, values, rate, seed in self._attributes().get("in_flight", [])
        ]

    @in_flight.setter
    def in_flight(self, runs: Sequence[tuple[Candidate, float, int]]) -> None:
        self._study.set_user_attr("in_flight", [[*_plain(c), rate, seed] for c, rate, seed in runs])

    @property
    def n_test(self) -> int | None:
        """How many test examples the runs were scored on."""
        return self._attributes().get("n_test")

    @property
    def test_contents(self) -> str:
        """The digest of these examples; empty if no run was scored."""
        return self._attributes().get("test_contents", "")

    def note_test(self, n: int, contents: str) -> None:
        """Notes the test set that the runs are scored on: the number of examples, and their digest.

        Raises ActSearchError if runs that are kept were scored on other examples.
        """
        known = self._attributes().get("test_contents", contents)
        if known != contents:
            raise ActSearchError(
                f"the test set of '{self._name.removesuffix('/finalists')}' is not the one that its finalists were "
                f"scored on. {FRESH}"
            )
        if self.n_test is None:
            self._study.set_user_attr("n_test", n)
            self._study.set_user_attr("test_contents", contents)


class Store:
    """One study in its storage, created if it is new. search: Optuna's study of the search.

    Raises ActSearchError if the study was made with another identity, naming the keys that differ.
    """

    def __init__(
        self,
        storage: optuna.storages.BaseStorage,
        name: str,
        directions: Sequence[Direction],
        identity: Mapping[str, Any],
    ) -> None:
        self.name = name
        self.search = open_study(storage, name, directions, identity)
        self.tuning = Results(storage, f"{name}/tuning", TrialRecord)
        self.finalists = Results(storage, f"{name}/finalists", FinalistRun)
        self.ledger = Ledger(storage)

    def records(self) -> list[TrialRecord]:
        return records(self.search)

    @property
    def in_flight(self) -> int:
        """How many trials of the search are not finished: they are training now, or were when it was killed."""
        return len(self.search.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    @property
    def trained_on(self) -> str:
        """The day on which the last finalist was trained; empty if there is none."""
        ended = self.finalists.ended
        return "" if ended is None else f"{ended:%Y-%m-%d}"

    def check_data(self, contents: str) -> None:
        """Raises ActSearchError if the study was trained on other examples. contents: their digest."""
        known = self.search.user_attrs.get("data_contents")
        if known is None:
            self.search.set_user_attr("data_contents", contents)
        elif known != contents:
            raise ActSearchError(f"the examples are not those that the study '{self.name}' was trained on. {FRESH}")

    def refused(self) -> dict[str, str]:
        """The functions of a grammar that were rejected before training, with the reasons."""
        trials = self.search.get_trials(deepcopy=False)
        return {text: why for trial in trials for text, why in trial.user_attrs.get("refused", {}).items()}

    def notes(self) -> Notes:
        kept = self.search.user_attrs
        finalists = [_candidate(*pair) for pair in kept.get("finalists", [])]
        return Notes(
            plans={k.removeprefix("plan_"): Plan.from_json(v) for k, v in kept.items() if k.startswith("plan_")},
            environments=kept.get("environments", []),
            finalists=finalists,
            asked=kept.get("finalists_asked", {}),
            tuned=kept.get("finalists_tuned", []),
            target=kept.get("target_accuracy"),
            costs=self.costs_of(finalists),
        )

    def costs_of(self, finalists: Sequence[Candidate]) -> dict[str, Cost]:
        """What was measured of these finalists together, by activation; empty if they were not."""
        costs = {key[0]: Cost(**cost) for key, cost in self.search.user_attrs.get("costs", [])}
        return costs if list(costs) == [c.activation for c in finalists] else {}

    def first_seed(self, look: str) -> int | None:
        """The first seed of a look for which fresh ones were wanted; None if it was not begun. look: what is asked."""
        return self.search.user_attrs.get("fresh_seeds", {}).get(look)

    def begin_look(self, look: str) -> None:
        """Gives a look the seeds behind all that were trained, unless it has them already."""
        known = self.search.user_attrs.get("fresh_seeds", {})
        if look not in known:
            first = max([FRESH_SEED - 1, *(run.seed for run in self.finalists.all())]) + 1
            self.search.set_user_attr("fresh_seeds", {**known, look: first})

    @property
    def equal_steps(self) -> dict[str, int]:
        """For how many steps finalists train to be trained equally long, by activation."""
        return self.search.user_attrs.get("equal_steps", {})

    @equal_steps.setter
    def equal_steps(self, steps: Mapping[str, int]) -> None:
        self.search.set_user_attr("equal_steps", dict(steps))

    def note_plan(self, device: str, plan: Plan) -> None:
        self.search.set_user_attr(f"plan_{device}", plan.to_json())

    def note_environment(self, environment: Mapping[str, str]) -> None:
        self._append("environments", environment)

    def note_finalists(self, finalists: Sequence[Candidate], asked: Mapping[str, Any], tuned: Sequence[str]) -> None:
        """Notes the final finalists. The storage may also hold runs of others, from before n_trials was raised."""
        self.search.set_user_attr("finalists_tuned", list(tuned))
        self.search.set_user_attr("finalists", [_plain(c) for c in finalists])
        self.search.set_user_attr("finalists_asked", dict(asked))

    def note_target(self, accuracy: float) -> None:
        self.search.set_user_attr("target_accuracy", accuracy)

    def note_costs(self, finalists: Sequence[Candidate], costs: Sequence[Cost]) -> None:
        measured = [[list(c.key), dataclasses.asdict(cost)] for c, cost in zip(finalists, costs, strict=True)]
        self.search.set_user_attr("costs", measured)

    def _append(self, key: str, value: Any) -> None:
        """Adds the value to a list in the study's attributes, unless the list has it already."""
        before = self.search.user_attrs.get(key, [])
        if value not in before:
            self.search.set_user_attr(key, [*before, value])


def forget(storage: optuna.storages.BaseStorage, name: str) -> None:
    """Deletes all that a study keeps."""
    known = optuna.get_all_study_names(storage)
    for kept in (f"{name}/finalists", f"{name}/tuning", f"{name}/runs", name):
        if kept in known:
            optuna.delete_study(study_name=kept, storage=storage)


def open_study(
    storage: optuna.storages.BaseStorage, name: str, directions: Sequence[Direction], config: Mapping[str, Any]
) -> optuna.Study:
    """The study, created if it is new. Raises ActSearchError if it was made with another config, naming the keys."""
    config, shown = hide_passwords(config), name.removesuffix("/runs")
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        study = optuna.create_study(study_name=name, storage=storage, directions=list(directions), load_if_exists=True)
    if "config" not in study.user_attrs:  # new, or killed right after it was created
        study.set_user_attr("config", json.dumps(config, sort_keys=True, default=str))
    before = flatten(json.loads(study.user_attrs.get("config", "{}")))
    now = flatten(json.loads(json.dumps(config, default=str)))
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if differing and all(key.startswith("contents.") for key in differing):
        parts = " and ".join(key.removeprefix("contents.") for key in differing)
        raise ActSearchError(f"the code or the numbers of the {parts} are not those of the study '{shown}'. {FRESH}")
    if differing:
        shown = "; ".join(f"{key}: {before.get(key)} then, {now.get(key)} now" for key in differing[:4])
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise ActSearchError(
            f"the study '{shown}' was made with another config ({shown}{more}). "
            "Choose another study.name, or leave it out: each config then has its own."
        )
    return study


def records(study: optuna.Study) -> list[TrialRecord]:
    """All finished trials of a search, in order of number."""
    done = (TrialState.COMPLETE, TrialState.PRUNED)
    return [
        TrialRecord.from_json(t.user_attrs["result"])
        for t in study.get_trials(deepcopy=False, states=done)
        if "result" in t.user_attrs
    ]


def _plain(candidate: Candidate) -> list[Any]:
    return [candidate.activation, dict(candidate.recipe)]


def _candidate(activation: str, values: Mapping[str, Any]) -> Candidate:
    return Candidate(parse_net(activation), tuple(values.items()))
