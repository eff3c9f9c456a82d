"""Tables of runs: read from what people have, and divided into arms. What is unclear is refused, naming the rows."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from actsearch.errors import ActSearchError, one_line, unknown
from actsearch.question.known import known_metric
from actsearch.question.metrics import Metric
from actsearch.tracking import runs_of

MLFLOW = "mlflow:"
READERS = {
    ".csv": pd.read_csv,
    ".tsv": lambda path, **kw: pd.read_csv(path, sep="\t", **kw),
    ".parquet": lambda path, **_: pd.read_parquet(path),
    ".jsonl": lambda path, **_: pd.read_json(path, lines=True),
    ".ndjson": lambda path, **_: pd.read_json(path, lines=True),
    ".json": lambda path, **_: pd.read_json(path),
}
TEXT: dict[str, Any] = {"dtype": str, "keep_default_na": False, "na_values": [""]}  # an arm may be called None or 0.10
BY = ("activation", "activations", "act", "act_fn", "activation_function")
PAIRS = (
    "seed",
    "random_seed",
    "rng_seed",
    "random_state",
    "fold",
    "cv_fold",
    "split",
    "replicate",
    "rep",
    "trial_seed",
)
FAILED = ("diverged", "collapsed", "failed")
MOST_ROWS = 5  # that a message names


@dataclass
class Table:
    """Rows of runs. name: what people call it. place: what its rows are called, "line" or "row"; first: the number of
    the first one; where a frame has labels of its own, these name its rows. left_out: sentences on rows that are not
    runs.
    """

    frame: Any  # a pandas.DataFrame
    name: str
    place: str = "row"
    first: int = 0
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.frame = self.frame.copy()
        self.frame.columns = [str(column).strip() for column in self.frame.columns]
        columns = list(self.frame.columns)
        double = [column for column in columns if columns.count(column) > 1]
        if double:
            raise ActSearchError(f"{self.name}: the column '{double[0]}' occurs twice. Rename one.")
        if "_row" not in self.frame:
            plain = isinstance(self.frame.index, pd.RangeIndex)
            labels = range(self.first, self.first + len(self.frame)) if plain else self.frame.index
            self.frame["_row"] = list(labels)

    @property
    def columns(self) -> list[str]:
        return [column for column in self.frame.columns if column != "_row"]

    def rows(self, which: Any) -> str:
        """The chosen rows in words."""
        labels = list(self.frame.loc[np.asarray(which), "_row"])
        more = f" and {len(labels) - MOST_ROWS} more" if len(labels) > MOST_ROWS else ""
        return f"{self.place}{'s' if len(labels) > 1 else ''} {', '.join(map(str, labels[:MOST_ROWS]))}{more}"

    def column(self, key: str, name: str) -> str:
        if name not in self.columns:
            raise unknown(f"column in {key}:", name, self.columns)
        return name


@dataclass(frozen=True)
class Runs:
    """The runs of one arm. values: (n,), numbers of the metric. pairs: what each is paired by, all different; None if
    nothing pairs them. failed: whether a run is marked as failed; None if the table does not say so.
    """

    name: str
    values: list[float]
    pairs: list[Hashable] | None = None
    failed: list[bool] | None = None


@dataclass(frozen=True)
class Arms:
    """What a table compares. runs: by arm. by, metric: the columns. pairs: those by which runs are paired. said:
    sentences that a reader must know.
    """

    runs: dict[str, Runs]
    by: str
    metric: str
    pairs: list[str]
    said: list[str]


def read(results: Any, tracking_uri: str | None = None) -> Table:
    """The table that is meant: a DataFrame, a mapping of columns, a path, or mlflow:EXPERIMENT.

    Raises ActSearchError for files that are not there or cannot be read.
    """
    if isinstance(results, pd.DataFrame):
        return Table(results, "the table")
    to_pandas: Any = getattr(results, "to_pandas", None)  # polars, pyarrow
    if to_pandas is not None or isinstance(results, (list, dict)):
        try:
            return Table(pd.DataFrame(results) if to_pandas is None else to_pandas(), "the table")
        except Exception as error:
            raise ActSearchError(f"the results are no table: {one_line(error)}") from None
    if not isinstance(results, (str, Path)):
        raise ActSearchError(f"results: {type(results).__name__} is no table. Give a DataFrame, a file or mlflow:NAME.")
    if str(results).startswith(MLFLOW):
        return _from_mlflow(str(results).removeprefix(MLFLOW), tracking_uri)
    path = Path(results)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ActSearchError(f"task.results={path}: write a file that ends in {', '.join(READERS)}, or mlflow:NAME.")
    if not path.is_file():
        raise ActSearchError(f"task.results={path}: there is no such file.")
    try:
        frame = reader(path, **TEXT)
    except Exception as error:  # pandas and its parsers raise anything
        raise ActSearchError(f"task.results={path} cannot be read as {path.suffix[1:]}: {one_line(error)}") from None
    lines = path.suffix.lower() in (".csv", ".tsv")
    return Table(frame, path.name, "line" if lines or "l" in path.suffix else "row", 2 if lines else 1)


def _from_mlflow(name: str, uri: str | None) -> Table:
    """The finished runs of an MLflow experiment; parameters, metrics and tags are columns without their prefix."""
    if uri is None:
        raise ActSearchError("tracking.uri=null: there is no MLflow to read from. Write tracking.uri=http://… .")
    rows, n_unfinished = runs_of(uri, name)
    left = [f"{n_unfinished} runs of '{name}' are not finished, and left out."] if n_unfinished else []
    frame = pd.DataFrame([{"_row": run, **values} for run, values in rows])
    return Table(frame, f"MLflow's {name}", "run", left_out=left)


def arms(
    table: Table,
    by: str | None,
    metric: str | None,
    baseline: str | None,
    pair: Any = "auto",
    where: str | None = None,
) -> Arms:
    """The arms of a long or a wide table.

    Raises ActSearchError for columns that are not there and for rows that cannot be used, naming them.
    """
    said = list(table.left_out)
    if where is not None:
        table = _where(table, where)
    if by is None and (known := [name for name in BY if name in table.columns]):
        by = known[0]
    if by is None:
        if baseline is None or baseline not in table.columns:
            raise ActSearchError(
                f"{table.name}: which column says what is compared? Write task.by=COLUMN; there are "
                f"{', '.join(table.columns)}. In a wide table, with a column for each arm, name one as task.baseline."
            )
        table, by, metric = _long(table, pair, metric, baseline)
    table.column("task.by", by)
    metric = metric or _metric_column(table, by)
    table.column("task.metric", metric)
    frame, keys = table.frame, _pair_columns(table, pair, by)
    names = frame[by]
    empty = names.isna() | (names.astype(str).str.strip() == "")
    if empty.all():
        raise ActSearchError(f"{table.name}: the column '{by}' is empty.")
    if empty.any() and table.place == "run":  # an experiment of MLflow holds runs of several kinds
        said.append(f"{int(empty.sum())} runs without a '{by}' are left out.")
        table = Table(frame[~empty], table.name, table.place)
        frame = table.frame
    elif empty.any():
        raise ActSearchError(f"{table.name}, {table.rows(empty)}: '{by}' is empty. Fill it, or leave the row out.")
    numbers = _numbers(table, metric, said)
    for key in keys:
        if (missing := frame[key].isna()).any():
            raise ActSearchError(
                f"{table.name}, {table.rows(missing)}: '{key}' is empty. Fill it, or write task.pair=none."
            )
    names = frame[by].astype(str).str.strip()
    pairs = list(map(tuple, frame[keys].astype(str).to_numpy())) if keys else None
    if pairs is not None:
        _check_double(table, names, pairs, by, keys)
    failed = _failed(table)
    found = {}
    for name in dict.fromkeys(names):
        mine = np.flatnonzero(names == name)
        found[name] = Runs(
            name, [numbers[i] for i in mine], None if pairs is None else [pairs[i] for i in mine],
            None if failed is None else [failed[i] for i in mine],
        )  # fmt: skip
    return Arms(found, by, metric, keys, said)


def _where(table: Table, where: str) -> Table:
    frame = table.frame.apply(_as_numbers)
    try:
        kept = frame.query(where).index
    except Exception as error:  # pandas raises anything
        raise ActSearchError(f"task.where={where!r} cannot be evaluated: {one_line(error)}") from None
    if not len(kept):
        raise ActSearchError(f"task.where={where!r}: no row of {table.name} is left.")
    return Table(table.frame.loc[kept], table.name, table.place, left_out=table.left_out)


def _as_numbers(column: Any) -> Any:
    """The column as numbers, if all of it can be."""
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column


def _long(table: Table, pair: Any, metric: str | None, baseline: str) -> tuple[Table, str, str]:
    """A wide table, with a column for each arm, as a long one. The metric is a name for what stands in it."""
    keys = _pair_columns(table, pair, None)
    wide = [column for column in table.columns if column not in keys]
    text = [column for column in wide if _as_numbers(table.frame[column]).dtype.kind not in "fiub"]
    if text:
        raise ActSearchError(
            f"{table.name}: as a wide table, with the baseline '{baseline}' as a column, all columns must be arms; "
            f"'{text[0]}' has text. In a long table write task.by=COLUMN."
        )
    if metric is None:
        raise ActSearchError(f"{table.name} is wide: what do its numbers measure? Write task.metric=test_accuracy.")
    frame = table.frame.melt([*keys, "_row"], wide, "activation", metric)
    return Table(frame, table.name, table.place), "activation", metric


def _metric_column(table: Table, by: str) -> str:
    """The only column that is known as a metric, or as one of the test set."""
    known = [column for column in table.columns if column != by and known_metric(column)]
    chosen = [column for column in known if "test" in column.lower()] or known
    if len(chosen) != 1:
        raise ActSearchError(
            f"{table.name}: which column is the metric? Write task.metric=COLUMN; there are {', '.join(table.columns)}."
        )
    return chosen[0]


def _pair_columns(table: Table, pair: Any, by: str | None) -> list[str]:
    """The columns by which runs are paired: those that are named, or those whose names say so."""
    if pair is None or pair in ("none", []):
        return []
    if pair != "auto":
        return [table.column("task.pair", str(name)) for name in ([pair] if isinstance(pair, str) else pair)]
    return [name for name in table.columns if name.lower().rpartition(".")[2] in PAIRS and name != by]


def _numbers(table: Table, metric: str, said: list[str]) -> list[float]:
    """The metric's column as numbers; "93.2 %" is one."""
    column = table.frame[metric]
    text = column.astype(str).str.strip()
    percent = text.str.fullmatch(r"[-+0-9.eE]+\s*%")
    numbers: Any = pd.to_numeric(text.where(~percent, text.str.rstrip("% ")), errors="coerce")
    numbers = numbers.astype(float).where(text.str.lower() != "true", 1.0).where(text.str.lower() != "false", 0.0)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        first = text[wrong].iloc[0]
        raise ActSearchError(
            f"{table.name}, {table.rows(wrong)}: {metric} is '{first}', not a finite number. A run that failed counts "
            "with what guessing would reach; a row that is no run, leave it out (task.where)."
        )
    if percent.any() and not percent.all():
        raise ActSearchError(f"{table.name}, {table.rows(~percent)}: {metric} has no % sign, as others have.")
    return [float(number) for number in numbers]


def as_shares(values: dict[str, Runs], metric: Metric, table: str) -> tuple[dict[str, Runs], list[str]]:
    """The arms with shares from 0 to 1, where they were written in per cent, and a sentence if they were."""
    numbers = [value for runs in values.values() for value in runs.values]
    if metric.unit != "%" or max(numbers) <= 1:
        return values, []
    if max(numbers) > 100 or min(numbers) < 0:
        raise ActSearchError(
            f"{table}: {metric.name} reaches from {min(numbers):g} to {max(numbers):g}, so it is no share. Say what it "
            "is: task.higher_is_better=… task.margin=… task.ratio=false."
        )
    shares = {
        name: Runs(name, [v / 100 for v in runs.values], runs.pairs, runs.failed) for name, runs in values.items()
    }
    return shares, [f"{metric.name} is read as per cent: values are above 1."]


def _check_double(table: Table, names: Any, pairs: list[tuple[str, ...]], by: str, keys: Sequence[str]) -> None:
    """Raises ActSearchError if an arm has two runs that would be paired with the same one."""
    both: Any = pd.Series(list(zip(names, pairs, strict=True)), index=names.index)
    double = both.duplicated(keep=False)
    if not double.any():
        return
    name, pair = both[double].iloc[0]
    same = both == (name, pair)
    rows = table.frame[same]
    telling = [
        column for column in table.columns
        if column not in (by, *keys) and rows[column].astype(str).nunique() > 1
        and table.frame[column].astype(str).nunique() <= max(2, len(table.frame) // 4)
    ]  # fmt: skip
    shown = ", ".join(f"{key} {value}" for key, value in zip(keys, pair, strict=True))
    cure = (
        f"If {telling[0]} tells them apart, choose one by task.where=\"{telling[0]} == '…'\", or pair by both: "
        f"task.pair=[{','.join([*keys, telling[0]])}]."
        if telling
        else "Leave one out, or write task.pair=none if they are different runs."
    )
    raise ActSearchError(f"{table.name}, {table.rows(same)}: {name} with {shown} twice. {cure}")


def _failed(table: Table) -> list[bool] | None:
    known = [column for column in table.columns if re.sub(r"\W", "", column.lower()) in FAILED]
    if not known:
        return None
    truth = table.frame[known].astype(str).apply(lambda column: column.str.lower().isin(("true", "1", "1.0", "yes")))
    return [bool(value) for value in truth.any(axis=1)]
