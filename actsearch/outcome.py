"""What is read back from a study: its result, for the report and for MLflow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna

from actsearch.activations.spec import parse_net
from actsearch.errors import ActSearchError, hide_password
from actsearch.job import Job
from actsearch.judge.comparison import compare
from actsearch.records import Candidate, FinalistRun
from actsearch.report.files import leaderboard_rows
from actsearch.report.result import Result
from actsearch.report.sentence import sentence, span
from actsearch.report.tables import finalist_table, markdown_table
from actsearch.space.domains import plural
from actsearch.study import finalists as stage
from actsearch.study.storage import close_storage, open_storage, sqlite_path
from actsearch.study.store import look, open_study, records, stored_costs
from actsearch.tracking import Delivery
from actsearch.training.plan import Plan
from actsearch.training.trainer import Trainer

NOT_TO_REPEAT = ("task=", "hydra.run.dir=")  # of a command: what was done with the result, and where it lies


@contextlib.contextmanager
def stored(job: Job) -> Iterator[tuple[optuna.Study, Result | None]]:
    """A study in its storage, and its result if it is finished. Nothing is trained, measured or created."""
    path = sqlite_path(job.storage_url)
    storage = open_storage(job.storage_url) if path is None or path.exists() else None
    if storage is None or job.name not in optuna.get_all_study_names(storage):
        where = hide_password(job.storage_url)
        raise ActSearchError(f"there is no study '{job.name}' in {where}. Run it first, without task=.")
    try:
        study = open_study(storage, job.name, job.directions, job.identity)
        chosen = [
            Candidate(parse_net(activation), tuple(values.items()))
            for activation, values in study.user_attrs.get("finalists", [])
        ]
        asked = study.user_attrs.get("finalists_asked")
        if chosen and asked != [job.confirm.finalists, job.confirm.baseline]:
            raise ActSearchError(
                f"the study '{job.name}' was last run with confirm.finalists={asked[0]} confirm.baseline={asked[1]}. "
                "Write these, or run it with others: without task."
                if asked
                else f"the study '{job.name}' is of an older version. Run it once more: what was trained is not again."
            )
        done = stage.stored_runs(storage, job.name)
        target = study.user_attrs.get("target_accuracy")
        costs = stored_costs(study, chosen)
        runs, wanted = stage.standing(done, chosen, job.recipe, job.confirm, target, costs)
        finished = chosen and costs and not wanted
        yield study, make_result(job, study, storage, chosen, runs) if finished else None
    finally:
        close_storage(storage)


def deliver_end(delivery: Delivery, result: Result, files: Sequence[Path]) -> None:
    own = result.options.own
    curves = {(r.activation, str(r.recipe)): r.curves for r in stage.as_records(result.runs, f"val_{own.name}")}
    for comparison in result.comparisons:
        theirs = [r for r in result.runs if (r.activation, r.recipe) == (comparison.activation, comparison.recipe)]
        delivery.finalist(comparison, theirs, curves[comparison.activation, str(comparison.recipe)])
    seen = [float(row[f"val_{own.name}_mean"]) for row in result.leaderboard]
    ends = {
        f"test_{own.name}": result.comparisons[0].test_metric,
        f"val_{own.name}": max(seen) if own.higher_is_better else min(seen),
    }
    table = markdown_table(*finalist_table(result.comparisons, result.options))
    delivery.finish(f"{result.summary}\n\n{table}", ends, files)


def make_result(
    job: Job,
    study: optuna.Study,
    storage: optuna.storages.BaseStorage,
    chosen: Sequence[Candidate],
    runs: Sequence[FinalistRun],
) -> Result:
    done = records(study)
    objective = job.study.objectives[0]  # of a comparison without a search: its validation, in the same form
    rows = (
        leaderboard_rows(done, job.study.objectives, job.metric)
        if done
        else leaderboard_rows(stage.as_records(runs, objective), [objective], job.metric)
    )
    target = study.user_attrs.get("target_accuracy")
    comparisons = compare(runs, job.confirm, target, stored_costs(study, chosen))
    test_name = f"{job.data.name}'s test set"
    return Result(
        name=job.name, leaderboard=rows, records=done, comparisons=comparisons, runs=list(runs),
        summary=sentence(comparisons, test_name, job.confirm), folder=job.folder, test_name=test_name,
        searched=bool(done), objective=objective, options=job.confirm,
        n_test=stage.n_test(storage, job.name), target=target,
        earlier_looks=[seen for seen in study.user_attrs.get("looked_at", []) if seen != look(job.confirm)],
        refused={text: why for trial in study.get_trials(deepcopy=False)
                 for text, why in trial.user_attrs.get("refused", {}).items()},
        about=about(job, study),
        config_yaml=job.config_yaml.replace(str(job.folder), f"runs/{job.name}"),  # a report goes to others
    )  # fmt: skip


def about(job: Job, study: optuna.Study) -> dict[str, str]:
    """How a study was made, by heading, for its report."""
    plans = [Plan.from_json(v) for k, v in study.user_attrs.items() if k.startswith("plan_")]
    made = study.user_attrs.get("environments", [])
    rows = {
        "command": " ".join(w for w in job.tags.get("command", "").split(" ") if not w.startswith(NOT_TO_REPEAT)),
        **model_rows(job),
        "training": "; ".join(dict.fromkeys(map(str, plans))),
        "versions": " / ".join(dict.fromkeys(e["versions"] for e in made)),
        "hardware": " / ".join(dict.fromkeys(e["hardware"] for e in made)),
        "commit": job.tags.get("mlflow.source.git.commit", ""),
    }
    return {key: value for key, value in rows.items() if value}


def model_rows(job: Job) -> dict[str, str]:
    r = job.recipe
    return {
        "model": f"{job.model.name}, {job.model.n_parameters:,} parameters, {plural(job.model.n_slots, 'activation')}; "
        f"initial weights: {r.init}",
        "data": str(job.data),
        "recipe": f"{r.optimizer}, lr {r.lr:g}, {r.schedule}, {r.steps} steps of {r.batch_size}",
        "search space": str(job.space),
    }


def header(job: Job, trainer: Trainer, n_trials: int, n_all: int, n_before: int) -> dict[str, str]:
    cpu = trainer.device.type == "cpu"
    what = f"{trainer.cores} process{'es' if trainer.cores > 1 else ''}{' of one thread' if cpu else ''}"
    if n_all:
        search_row = f"no search: all {n_all} compared on {span(job.confirm.seeds_at_looks)} seeds"
    elif n_before >= n_trials:
        search_row = f"{n_before} trials × {job.study.seeds} seeds, done before: a larger study.n_trials goes on"
    else:
        done = f", {n_before} of them done before" if n_before else ""
        search_row = f"{n_trials} trials × {job.study.seeds} seeds{done}"
    return {
        "device": f"{trainer.device} ({what})",
        **model_rows(job),
        "training": str(trainer.plan),
        "search": search_row,
        "study": f"{job.name} in {hide_password(job.storage_url)}",
        "results in": str(job.folder),
    }
