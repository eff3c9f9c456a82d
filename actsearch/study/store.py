"""Everything that a study keeps in Optuna's storage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from actsearch.errors import ActSearchError
from actsearch.measure.environment import environment
from actsearch.question.identity import flatten
from actsearch.question.metrics import Direction
from actsearch.question.options import Confirmation
from actsearch.records import Candidate, Cost, FinalistRun, TrialRecord, candidate_key
from actsearch.report.sentence import span
from actsearch.training.plan import Plan
from actsearch.training.trainer import Trainer


def open_study(
    storage: optuna.storages.BaseStorage, name: str, directions: Sequence[Direction], config: Mapping[str, Any]
) -> optuna.Study:
    """The study, created if it is new. Raises ActSearchError if it was made with another config, naming the keys."""
    try:
        study = optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        study = optuna.create_study(study_name=name, storage=storage, directions=list(directions), load_if_exists=True)
    if "config" not in study.user_attrs:  # new, or killed right after it was created
        study.set_user_attr("config", json.dumps(config, sort_keys=True, default=str))
    before = flatten(json.loads(study.user_attrs.get("config", "{}")))
    now = flatten(json.loads(json.dumps(config, default=str)))
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if differing:
        shown = "; ".join(f"{key}: {before.get(key)} then, {now.get(key)} now" for key in differing[:4])
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise ActSearchError(
            f"the study '{name}' was made with another config ({shown}{more}). "
            "Choose another study.name, or leave it out: each config then has its own."
        )
    return study


def records(study: optuna.Study) -> list[TrialRecord]:
    """All finished trials, in order of number."""
    done = (TrialState.COMPLETE, TrialState.PRUNED)
    return [
        TrialRecord.from_json(t.user_attrs["result"])
        for t in study.get_trials(deepcopy=False, states=done)
        if "result" in t.user_attrs
    ]


def stored_runs(storage: optuna.storages.BaseStorage, name: str) -> dict[tuple[str, str, int], FinalistRun]:
    """All runs of a study's finalists, as `standing` takes them."""
    full = f"{name}/finalists"
    if full not in optuna.get_all_study_names(storage):
        return {}
    return {run_key(run): run for run in side_records(side_study(storage, full), FinalistRun)}


def n_test(storage: optuna.storages.BaseStorage, name: str) -> int | None:
    """How many test examples the finalists were scored on."""
    return side_study(storage, f"{name}/finalists").user_attrs.get("n_test")


def run_key(run: FinalistRun) -> tuple[str, str, int]:
    return (*candidate_key(run.activation, run.recipe), run.seed)


def side_study(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
    return optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)


def side_records(study: optuna.Study, kind: Any) -> list[Any]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [kind.from_json(t.user_attrs["result"]) for t in trials]


def add_record(study: optuna.Study, result: str, value: float) -> None:
    study.add_trial(optuna.trial.create_trial(value=value, user_attrs={"result": result}))


def look(options: Confirmation) -> str:
    """What verdicts are seen with these options, in words."""
    n, margin = span(options.seeds_at_looks), f"{options.margin[options.metric]:g}"
    return f"{options.metric} against {options.baseline}, {n} seeds, alpha {options.alpha:g}, margin {margin}"


def note_look(study: optuna.Study, options: Confirmation) -> None:
    """Keeps which verdicts a person saw: to ask again because of them is a further chance to err."""
    seen, now = study.user_attrs.get("looked_at", []), look(options)
    if now not in seen:
        study.set_user_attr("looked_at", [*seen, now])


def note_environment(study: optuna.Study, device: torch.device) -> None:
    """Keeps in the study with what it is being trained, each once."""
    before, now = study.user_attrs.get("environments", []), environment(device)
    if now not in before:
        study.set_user_attr("environments", [*before, now])


def stored_costs(study: optuna.Study, chosen: Sequence[Candidate]) -> dict[str, Cost]:
    """By activation; empty if others were measured."""
    measured = study.user_attrs.get("costs", [])
    if [key for key, _ in measured] != [list(c.key) for c in chosen]:
        return {}
    return {key[0]: Cost(**cost) for key, cost in measured}


def plan_key(trainer: Trainer) -> str:
    """The study's attribute: a study may go on on another kind of device, which has another plan."""
    return f"plan_{trainer.device.type}"


def note_plan(study: optuna.Study, trainer: Trainer) -> Plan:
    study.set_user_attr(plan_key(trainer), trainer.plan.to_json())
    return trainer.plan
