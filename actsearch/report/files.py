"""The output folder's tables: leaderboard.csv, finalists.csv, verdict.json. The same search gives the same digits."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from actsearch.activations.spec import number
from actsearch.errors import ActSearchError, hide_password
from actsearch.files import whole_file
from actsearch.question.metrics import Metric
from actsearch.records import FinalistRun, TrialRecord, rank_key
from actsearch.verdicts.comparison import Comparison
from actsearch.verdicts.statistics import mean, std


def leaderboard_rows(records: Sequence[TrialRecord], objectives: Sequence[str], val: Metric) -> list[dict[str, Any]]:
    """One row for each trial. Completed trials come first, the best at the top, and only they have a rank; the pruned
    and then the duplicates follow.

    val: the metric of the validation curves.
    """
    order = {"complete": 0, "pruned": 1, "duplicate": 2}
    by_rank = rank_key(val.direction if objectives[0] == val.name else "minimize")  # losses and costs
    rows = []
    for place, r in enumerate(sorted(records, key=lambda r: (order[r.state], *by_rank(r))), start=1):
        last = r.curves.val_metric[-1]
        rows.append(
            {
                "rank": place if r.state == "complete" else "",
                "trial": r.number,
                "activation": r.activation,
                **{f"recipe.{k}": v for k, v in r.recipe.items()},
                f"{val.name}_mean": _digits(mean(last)),
                f"{val.name}_std": _digits(std(last)),
                "val_loss_mean": _digits(mean(r.curves.val_loss[-1])),
                **{o: _digits(v) for o, v in zip(objectives, r.values, strict=True) if o not in (val.name, "val_loss")},
                "n_seeds": len(last),
                "n_diverged": r.curves.n_diverged,
                "state": r.state,
                "steps": r.curves.steps[-1],
                "same_as": "" if r.same_as is None else r.same_as,
            }
        )
    return rows


def finalist_rows(runs: Iterable[FinalistRun], own: Metric) -> list[dict[str, Any]]:
    """One row for each run. own: the metric that the nets are judged by."""
    return [
        {
            "activation": r.activation,
            **{f"recipe.{k}": v for k, v in r.recipe.items()},
            "rate": _digits(r.rate),
            "seed": r.seed,
            f"test_{own.name}": _digits(r.test_metric),
            "test_loss": _digits(r.test_loss),
            f"val_{own.name}": _digits(r.curves.val_metric[-1][0]),
            "val_loss": _digits(r.curves.val_loss[-1][0]),
            "diverged": r.diverged,
            "collapsed": r.collapsed,
        }
        for r in runs
    ]


def verdict_rows(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Every verdict as a row of verdict.json: by the primary metric, then at other rates, then by other metrics."""
    base = next(c for c in comparisons if c.is_baseline)
    rows = []
    for kind in ("primary", "at_rate", "secondary"):
        for c in comparisons:
            verdicts = {"primary": {1.0: c.verdict} if c.verdict else {}, "at_rate": c.at_rates}
            pairs = verdicts[kind].items() if kind in verdicts else [(1.0, v) for v in c.secondary]
            for rate, verdict in pairs:
                values = {
                    **dataclasses.asdict(verdict),
                    "metric": verdict.metric.name,
                    "failure_bound": c.failure_bound,
                    "failure_bound_baseline": base.failure_bound,
                }
                values = {k: v if _is_json(v) else None for k, v in values.items()}
                rows.append(
                    {"activation": c.activation, "recipe": c.recipe, "rate": float(_digits(rate)), "baseline":
                     base.activation, "primary": kind != "secondary", **values}
                )  # fmt: skip
    return rows


def _is_json(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def output_files(folder: Path) -> list[Path]:
    """The files of a finished study that are worth passing on, as far as they exist."""
    names = ("report.html", "leaderboard.csv", "finalists.csv", "verdict.json", "finalists.md", "finalists.tex",
             "refused.csv", "config.yaml")  # fmt: skip
    files = [folder / name for name in names]
    return [file for file in (*files, *sorted((folder / "plots").glob("*.png"))) if file.exists()]


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, csv_text(rows))


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(hide_password(text).encode())


def _digits(value: float) -> str:
    return "" if math.isnan(value) else number(float(f"{value:.6g}"))


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ActSearchError(
            f"the output folder {folder} cannot be written ({error.strerror}). Choose another: hydra.run.dir=FOLDER."
        ) from None
