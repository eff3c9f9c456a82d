"""Verdicts on a table of runs that others made: the machine of a study's finalists, without a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

from actsearch.errors import ActSearchError, unknown
from actsearch.question.known import OF_100, UP_TO_1, known_metric, known_word, metric_named, says_percent
from actsearch.question.metrics import Metric
from actsearch.question.options import Confirmation
from actsearch.report.files import make_folder
from actsearch.report.result import Result
from actsearch.report.sentence import sentence
from actsearch.report.write import write_files
from actsearch.results.table import Arms, Runs, arms, canonical, read
from actsearch.verdicts.comparison import Comparison, compare_arms
from actsearch.verdicts.verdict import Arm

FEWEST_SHARED = 2
MOST_SAID = 6  # sentences on pairs; of a thousand arms there may be a thousand


@dataclass
class TableOptions(Confirmation):
    """The options for a table, which has one metric, `own`, under its column's name."""

    @property
    def metrics(self) -> dict[str, Metric]:
        return {self.own.name: self.own}

    @property
    def own_val(self) -> Metric:
        return self.own

    @property
    def own_test(self) -> Metric:
        return self.own

    @property
    def rates(self) -> tuple[float, ...]:
        return (1.0,)


def judge(
    results: Any,
    by: str | Sequence[str] | None = None,
    baseline: Any = None,
    metric: str | None = None,
    *,
    pair: Any = "auto",
    where: str | None = None,
    margin: float | None = None,
    higher_is_better: bool | None = None,
    ratio: bool | None = None,
    alpha: float = 0.05,
    tracking: str | None = "sqlite:///runs/mlflow.db",
    folder: str | Path | None = None,
    about: Mapping[str, str] | None = None,
) -> Result:
    """Verdicts on the runs of a table: each arm against the baseline, with the intervals and words of a study.

    results: a DataFrame (or what pandas makes one of), a CSV, TSV, Parquet or JSON lines file, or mlflow:EXPERIMENT,
    which is read from `tracking`. by: the column that says what is compared, which need not be activations; of a wide
    table, with a column for each arm, those columns, or None if all are arms. baseline: an arm; relu, if there is one.
    metric: the column of numbers. pair: the columns by which runs are paired; auto: those called seed, fold, …; none.
    Where an arm and the baseline share too few, Welch's interval is taken. where: a condition that chooses rows.
    margin, higher_is_better, ratio: of the metric, where its name does not say them; the margin in the column's unit.
    alpha: the chance of any false better or worse. folder: where report.html, verdict.json and tables are written;
    None: nowhere.

    Raises ActSearchError for what cannot be used, naming the rows.
    """
    _check_options(margin, higher_is_better, ratio, alpha)
    columns = [str(column) for column in by] if isinstance(by, (list, tuple)) else _text(by)
    table = read(results, tracking)
    found = arms(table, columns, _text(metric), _text(baseline), pair, _text(where))
    runs = found.runs
    home = _baseline(runs, baseline, table.name)
    told = None not in (margin, higher_is_better, ratio)
    percent = not told and _in_percent(found, table.name)
    if percent:
        runs = {name: replace(arm, values=[v / 100 for v in arm.values]) for name, arm in runs.items()}
        margin = None if margin is None else float(margin) / 100
    own = metric_named(found.metric, higher_is_better, None if margin is None else float(margin), ratio)
    own = _comparable(own, runs, margin, ratio, told, table.name)
    shares = [f"{own.name} is read as per cent: values are above 1."] if percent and not _marked(found) else []
    options = TableOptions(baseline=home, metric=own.name, margin={own.name: own.margin}, alpha=alpha, own=own)
    comparisons, pairing = _compare(runs, home, options, table.name)
    result = Result(
        name=table.name, rows=[], records=[], comparisons=comparisons, runs=[],
        summary=sentence(comparisons, table.name, options), folder=Path(folder or "."), test_name=table.name,
        searched=False, objective="", options=options, warnings=[*found.said, *shares, *pairing],
        about={"results": table.name, "compared": found.by, "metric": _in_words(own),
               "paired by": " and ".join(found.pairs) or "nothing", **(about or {})},
        title=f"Which {found.by}? {own.words} in {table.name}", kind="table",
    )  # fmt: skip
    if folder is not None:
        make_folder(result.folder)
        write_files(result)
    return result


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _check_options(margin: Any, higher_is_better: Any, ratio: Any, alpha: Any) -> None:
    """Raises ActSearchError for words where truths or numbers should stand; a text such as no would count as true."""
    for key, value in (("higher_is_better", higher_is_better), ("ratio", ratio)):
        if value is not None and not isinstance(value, bool):
            raise ActSearchError(f"task.{key}={value}: write true or false.")
    for key, value in (("margin", margin), ("alpha", alpha)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise ActSearchError(f"task.{key}={value}: write a number.")
    if not 1e-6 <= alpha < 0.5:
        raise ActSearchError(f"task.alpha={alpha:g}: write a chance from 0.000001 to 0.5, e.g. 0.05.")


def _baseline(runs: Mapping[str, Runs], baseline: Any, table: str) -> str:
    home = "relu" if baseline is None and "relu" in runs else str(baseline).strip()
    if home not in runs:  # 0.1 in a command is the 0.10 of a file, and True its true
        same = [name for name in runs if canonical(name).casefold() == canonical(home).casefold()]
        home = same[0] if same and baseline is not None else home
    if baseline is None and home not in runs:
        raise ActSearchError(
            f"{table}: with which arm are the others compared? Write task.baseline=…; there are "
            f"{', '.join(list(runs)[:12])}{', …' if len(runs) > 12 else ''}."
        )
    if home not in runs:
        raise unknown(f"arm in task.baseline ({table}):", home, runs)
    if len(runs) == 1:
        raise ActSearchError(f"{table}: there is only one arm, {home}. Nothing can be compared.")
    if len(runs[home].values) == 1 or all(len(arm.values) == 1 for name, arm in runs.items() if name != home):
        raise ActSearchError(
            f"{table}: one run of an arm shows no spread, so nothing can be said of chance. Train "
            f"{'the baseline ' + home if len(runs[home].values) == 1 else 'each arm'} with more seeds."
        )
    return home


def _marked(found: Arms) -> bool:
    return found.percent or says_percent(found.metric)


def _in_percent(found: Arms, table: str) -> bool:
    """Whether the numbers of a share are per cent.

    Raises ActSearchError where some seem to be and others not, or where they are no shares.
    """
    known, numbers = known_metric(found.metric), [value for arm in found.runs.values() for value in arm.values]
    if known is None or known.ratio or not (known.unit == "%" or _marked(found)):
        return False
    name, low, high = found.metric, min(numbers), max(numbers)
    own = "task.higher_is_better=… task.margin=… task.ratio=false, the margin in the column's unit"
    if known.unit == "%" and (low < 0 or high > 100):
        raise ActSearchError(
            f"{table}: {name} reaches from {low:g} to {high:g}, so it is no share. Say what it is: {own}."
        )
    if _marked(found):
        return True
    shares = sum(0 < value <= 1 for value in numbers)
    if high > 1 and shares:
        raise ActSearchError(
            f"{table}: {name} has {shares} values up to 1 and {len(numbers) - shares} others, up to {high:g}: are "
            f"these shares or per cent? Write all in one way, call the column {name}_pct, or say what it is: {own}."
        )
    return high > 1


def _comparable(
    own: Metric, runs: Mapping[str, Runs], margin: float | None, ratio: bool | None, told: bool, table: str
) -> Metric:
    """The metric, with digits enough to show its values.

    Raises ActSearchError where a metric that is compared by ratio has values of 0 and below, and where the values do
    not suit the margin that the name brings.
    """
    values = [value for arm in runs.values() for value in arm.values]
    low, high = min(values), max(values)
    if own.ratio and low <= 0:
        raise ActSearchError(
            f"{table}: {own.name} gets down to {low:g}, but is compared by the ratio of two arms, which needs "
            "values above 0. Write task.ratio=false task.margin=…, the difference that does not matter."
        )
    if ratio is False and own.unit != "%" and margin is None:
        raise ActSearchError("task.ratio=false: write task.margin=…, the difference that does not matter, too.")
    word = None if told else known_word(own.name)
    if margin is None and ((word in OF_100 and high <= 1) or (word in UP_TO_1 and high > 1)):
        raise ActSearchError(
            f"{table}: {own.name} reaches from {low:g} to {high:g}, and usually {'100' if word in OF_100 else '1'} is "
            "the most. Write task.margin=…, the difference that does not matter, in the column's unit."
        )
    if own.unit in ("%", "s", "µs"):
        return own
    size = max(map(abs, values)) if own.ratio else own.margin
    digits = (3 if own.ratio else 1) - math.floor(math.log10(size)) if size else 0
    return replace(own, decimals=min(15, max(own.decimals, digits)))


def _compare(
    runs: Mapping[str, Runs], home: str, options: TableOptions, table: str
) -> tuple[list[Comparison], list[str]]:
    """The comparisons, and sentences on arms that share few pairs with the baseline, or none."""
    base, said, found = runs[home], [], {}
    for name, arm in runs.items():
        if name == home:
            continue
        mine, theirs = _keys(arm), _keys(base)
        shared = [key for key in theirs if key in mine]
        paired = len(shared) >= max(FEWEST_SHARED, min(len(mine), len(theirs)) / 2)
        if paired:
            left = [f"{len(keys) - len(shared)} of {who}" for who, keys in ((name, mine), (home, theirs))
                    if len(keys) > len(shared)]  # fmt: skip
            if left:
                said.append(f"{name} against {home}: runs without a partner are left out ({', '.join(left)}).")
            found[name] = _arm(arm, [mine[key] for key in shared]), _arm(base, [theirs[key] for key in shared]), True
        else:
            if arm.pairs is not None:
                said.append(f"{name} and {home} share {len(shared)} seeds of {len(mine)}: they are compared unpaired.")
            found[name] = _arm(arm), _arm(base), False
    if len(said) > MOST_SAID:
        said[MOST_SAID:] = [f"So it is with {len(said) - MOST_SAID} more arms."]
    same = [name for name, (mine, theirs, paired) in found.items() if paired and mine.values == theirs.values]
    if same:
        more = f" and {len(same) - MOST_SAID} more" if len(same) > MOST_SAID else ""
        said.append(
            f"{', '.join(same[:MOST_SAID])}{more}: exactly the values of {home} in every run. Is it really another arm?"
        )
    if base.pairs is None:
        said.append("Nothing pairs the runs: intervals are Welch's, for independent arms, and wider than paired ones.")
    known = all(arm.failed is not None for arm in runs.values())
    return compare_arms(found, home, _arm(base), options, known), said


def _keys(arm: Runs) -> dict[Any, int]:
    return {} if arm.pairs is None else {key: i for i, key in enumerate(arm.pairs)}


def _arm(runs: Runs, which: list[int] | None = None) -> Arm:
    chosen = range(len(runs.values)) if which is None else which
    failed = runs.failed or [False] * len(runs.values)
    return Arm([runs.values[i] for i in chosen], [failed[i] for i in chosen])


def _in_words(own: Metric) -> str:
    margin = (
        f"{100 * own.margin:g} %" if own.ratio else f"{own.scale * own.margin:g}{' points' if own.unit == '%' else ''}"
    )
    how = "by ratio" if own.ratio else "by difference"
    return f"{own.name}: {'more' if own.higher_is_better else 'less'} is better, compared {how}, margin {margin}"
