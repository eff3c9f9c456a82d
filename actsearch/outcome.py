"""The result of a study: read back from the storage, delivered to MLflow, and shown."""

from __future__ import annotations

import contextlib
import datetime
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna

from actsearch.activations.spec import parse_net
from actsearch.errors import ActSearchError, hide_passwords
from actsearch.job import Job
from actsearch.question.options import FRESH_SEED
from actsearch.question.recipe import INITS
from actsearch.records import Evidence
from actsearch.report.files import leaderboard_rows
from actsearch.report.result import Result
from actsearch.report.sentence import sentence, span
from actsearch.report.terminal import Terminal
from actsearch.space.domains import plural
from actsearch.study.finalists import as_records, standing
from actsearch.study.ledger import Look
from actsearch.study.storage import close_storage, open_storage, sqlite_path
from actsearch.study.store import Notes, Store
from actsearch.study.tuning import SHORTLIST, Tuned, again, criterion, n_points
from actsearch.tracking import mlflow_uri
from actsearch.training.plan import FAULT
from actsearch.verdicts.comparison import Comparison, compare_finalists

INITIAL = {init: f"drawn for each seed ({init})" for init in INITS} | {"keep": "the net's own (keep)"}
NAMES = {"lr": "learning rate", "weight_decay": "weight decay"}
# of a command: what was done with the result, and where it lies
NOT_TO_REPEAT = ("task=", "hydra.run.dir=", "study.fresh=")


@contextlib.contextmanager
def stored(job: Job) -> Iterator[tuple[Store, Result | None]]:
    """A study in its storage, and its result if it is finished. Nothing is trained, measured or created.

    Raises ActSearchError if there is no such study, or if its finalists were chosen by other options.
    """
    path = sqlite_path(job.storage_url)
    storage = open_storage(job.storage_url) if path is None or path.exists() else None
    try:
        if storage is None or job.name not in optuna.get_all_study_names(storage):
            raise ActSearchError(f"there is no study '{job.name}' in {job.storage_url}. Run it first, without task=.")
        store = Store(storage, job.name, job.directions, job.identity)
        notes = store.notes()
        _check_asked(job, notes)
        evidence = finished(job, store)
        yield store, None if evidence is None else make_result(job, store, evidence)
    finally:
        if storage is not None:
            close_storage(storage)


def finished(job: Job, store: Store) -> Evidence | None:
    """The evidence of a study whose finalists are all trained and measured; None if something is missing."""
    notes, first = store.notes(), first_seed(job, store)
    if first is None:
        return None
    known = Evidence(store.finalists.all(), notes.target, notes.costs, first)
    evidence, wanted = standing(known, notes.finalists, job.recipe, job.confirm)
    searched = len(store.records()) >= job.n_trials and not store.in_flight
    return evidence if searched and notes.finalists and notes.costs and not wanted else None


def first_seed(job: Job, store: Store) -> int | None:
    """The finalists' first seed; None if fresh ones are wanted for a look that was not begun."""
    return store.first_seed(look_in_words(job)) if job.confirm.fresh else FRESH_SEED


def look_in_words(job: Job) -> str:
    """What is asked in a look for which fresh seeds are wanted: asked again, it is the same look."""
    n_trials = {} if job.compares_all else {"study.n_trials": job.n_trials}
    return json.dumps({**asked(job), **n_trials, "seeds": job.confirm.seeds_at_looks, "metric": job.confirm.metric})


def found_again(job: Job, store: Store) -> str | None:
    """That the study is finished and nothing will be trained, in words; None if something will be."""
    if store.notes().asked != asked(job) or finished(job, store) is None:
        return None
    return f"found: trained on {store.trained_on}, the same question; study.fresh=true trains again"


def _check_asked(job: Job, notes: Notes) -> None:
    """Raises ActSearchError if the finalists were chosen by other options than those that are asked for now."""
    if not notes.finalists or notes.asked == asked(job):
        return
    if not isinstance(notes.asked, dict) or notes.asked.keys() != asked(job).keys():
        raise ActSearchError(
            f"the study '{job.name}' is of an older version. Run it once more: what was trained is not trained again."
        )
    other = " ".join(f"{key}={value}" for key, value in notes.asked.items() if asked(job)[key] != value)
    raise ActSearchError(f"the study '{job.name}' was last run with {other}. Write it, or run anew: without task.")


def asked(job: Job) -> dict[str, Any]:
    """The options by which finalists are chosen and tuned."""
    options = job.confirm
    found = {"confirm.finalists": options.finalists, "confirm.baseline": options.baseline}
    tuned = {axis.key: list(axis.values) for axis in job.axes}
    found |= {"confirm.tune": tuned or "none", "confirm.metric": options.metric if tuned else "any"}
    return found | {"confirm.equal": options.equal}


def tuning_row(job: Job) -> str:
    """What is tuned, in words, for the header."""
    if not job.axes:
        return "none: one recipe for all"
    keys = " × ".join(NAMES.get(axis.key, axis.key) for axis in job.axes)
    return (
        f"{keys} for each finalist and the baseline: {n_points(job.axes)} recipes × {job.study.seeds} seeds, the "
        f"best {SHORTLIST} on {again(job.study.seeds).stop}, by {criterion(job.confirm)}"
    )


def tuned_in_words(tuned: Tuned, job: Job) -> list[str]:
    """How the finalists were tuned, and a sentence for each of them whose best values lie at an end of the grid."""
    beyond = "at the edge of what was tried: a better one may lie beyond."
    edges = [f"The best {' and '.join(values)} for {name} is {beyond}" for name, values in tuned.at_edge.items()]
    most = max(tuned.n_recipes, default=0)
    grown = f"; up to {most} recipes where the best lay at an edge" if most > n_points(job.axes) else ""
    return [tuning_row(job) + grown, *edges]


def make_result(job: Job, store: Store, evidence: Evidence) -> Result:
    """The result that this evidence gives. evidence: the runs that verdicts may use, with target and costs."""
    done, notes = store.records(), store.notes()
    objective = job.study.objectives[0]
    if done:
        rows = leaderboard_rows(done, job.study.objectives, job.confirm.own_val)
    else:  # all were compared without a search: their validation scores, in the same form
        rows = leaderboard_rows(as_records(evidence.runs, objective), [objective], job.confirm.own_val)
    comparisons = compare_finalists(evidence, job.confirm)
    test_name = f"{job.data.name}'s test set"
    judged = [spec for comparison in comparisons for spec in parse_net(comparison.activation)]
    return Result(
        name=job.name, rows=rows, records=done, comparisons=comparisons, runs=list(evidence.runs),
        summary=sentence(comparisons, test_name, job.confirm), folder=job.folder, test_name=test_name,
        searched=bool(done), objective=objective, options=job.confirm,
        n_test=store.finalists.n_test, target=notes.target,
        earlier_looks=list(map(str, store.ledger.earlier(look_of(job, store, comparisons)))),
        refused=store.refused(), about=about(job, store, notes),
        warnings=list(dict.fromkeys([*job.remarks, *notes.tuned[1:], *job.remarks_on(judged), *faults(notes)])),
        config_yaml=job.config_yaml.replace(str(job.folder), f"runs/{job.name}"),  # a report goes to others
    )  # fmt: skip


def faults(notes: Notes) -> list[str]:
    """What was wrong with the fused engine, where it was."""
    whys = dict.fromkeys(plan.why for plan in notes.plans.values() if plan.why.startswith(FAULT))
    return [f"{why}; the plain loop trained instead." for why in whys]


def look_of(job: Job, store: Store, comparisons: Sequence[Comparison]) -> Look:
    """The look at the test set that somebody takes who sees these verdicts."""
    options = job.confirm
    n, margin = span(options.seeds_at_looks), f"{options.margin[options.metric]:g}"
    first = first_seed(job, store)
    fresh = "" if first == FRESH_SEED else f" from {first} on"
    words = f"{options.metric} against {options.baseline}, {n} seeds{fresh}, alpha {options.alpha:g}, margin {margin}"
    finalists = tuple(sorted(f"{c.activation} {c.recipe}" if c.recipe else c.activation for c in comparisons))
    test = store.finalists.test_contents
    return Look(job.data.name, job.model.name, test, job.name, words, finalists, f"{datetime.date.today():%Y-%m-%d}")


def about(job: Job, store: Store, notes: Notes) -> dict[str, str]:
    """How a study was made, by heading, for its report."""
    rows = {
        "command": shlex.join(w for w in shlex.split(job.tags.get("command", "")) if not w.startswith(NOT_TO_REPEAT)),
        **model_rows(job),
        "tuning": "".join(notes.tuned[:1]),
        "trained on": store.trained_on,
        "training": "; ".join(dict.fromkeys(map(str, notes.plans.values()))),
        "versions": " / ".join(dict.fromkeys(e["versions"] for e in notes.environments)),
        "hardware": " / ".join(dict.fromkeys(e["hardware"] for e in notes.environments)),
        "commit": job.tags.get("mlflow.source.git.commit", ""),
    }
    return {key: value for key, value in rows.items() if value}


def model_rows(job: Job) -> dict[str, str]:
    r, home = job.recipe, job.confirm.baseline
    equal = f"; finalists train as long as {home} takes for them" if job.confirm.equal == "time" else ""
    return {
        "model": f"{job.model.name}, {job.model.n_parameters:,} parameters, {plural(job.model.n_slots, 'activation')}; "
        f"initial weights: {INITIAL[r.init]}",
        "data": str(job.data),
        "recipe": f"{r.optimizer}, lr {r.lr:g}, {r.schedule}, {r.steps} steps of {r.batch_size}{equal}",
        "search space": str(job.space),
    }


FILES = {
    "study": "leaderboard.csv, finalists.csv, verdict.json, …", "own": "runs.csv, verdict.json, finalists.md, …",
    "table": "verdict.json, finalists.md, finalists.tex",
}  # fmt: skip


def show(result: Result, tracking_uri: str | None, terminal: Terminal) -> None:
    """Prints the leaderboard, the finalists and the verdict, and where the rest is."""
    result.report(terminal)
    terminal.line(f"\nreport       {shown(result.folder)}/report.html")
    terminal.line(f"results      {shown(result.folder)}/ ({FILES[result.kind]})")
    if tracking_uri and result.page:
        terminal.line(f"dashboard    {_dashboard(tracking_uri, result.page)}")


def _dashboard(uri: str, page: str) -> str:
    if uri.startswith(("http://", "https://")):
        return uri.rstrip("/") + page
    command = [str(shown(Path(sys.executable).with_name("mlflow"))), "ui", "--backend-store-uri", mlflow_uri(uri)]
    return f"{shlex.join(hide_passwords(command))}\n             and open http://127.0.0.1:5000{page}"


def shown(path: Path) -> Path:
    """From where the user is, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
