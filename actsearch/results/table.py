"""Tables of runs: read from what people have, and divided into arms. What is unclear is refused, naming the rows."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from actsearch.errors import ActSearchError, one_line, unknown
from actsearch.question.known import COSTS, known_word
from actsearch.results.where import as_numbers, chosen, texts
from actsearch.tracking import runs_of
from actsearch.verdicts.verdict import LARGEST

MLFLOW = "mlflow:"
JSON, LINES, PARQUET = (".json",), (".jsonl", ".ndjson"), (".parquet",)
SEPARATED = {".csv": ",;\t", ".tsv": "\t"}  # by what cells are separated: what the header has most of
BY = ("activation", "activations", "act", "act_fn", "activation_function")
PAIRS = (
    "seed", "random_seed", "rng_seed", "random_state", "fold", "cv_fold", "split", "replicate", "rep", "trial_seed",
)  # fmt: skip
FAILED = ("diverged", "collapsed", "failed")
FOLDS = ("fold", "cv_fold", "split")
PARTS = {"train", "training", "test", "val", "valid", "validation", "dev", "eval", "holdout", "all"}
TIMES = ("epoch", "step", "iteration", "iter", "global_step", "timestep", "timesteps", "_step")  # of a curve
# columns that no wide table has as arms
NO_ARMS = {
    *TIMES, "id", "index", "row", "n", "run", "run_id", "trial", "epochs", "steps", "iterations", "iters", "lr",
    "learning_rate", "weight_decay", "wd", "batch_size", "bs", "width", "depth", "hidden", "hidden_size", "layers",
    "n_layers", "num_layers", "dropout", "momentum", "temperature", "time", "timestamp", "date", "duration", "mean",
    "std", "min", "max", "median", "average", "avg", "total", "sum", "size", "n_samples", "flops",
}  # fmt: skip
MISSING = ("nan", "<na>", "n/a", "na", "nat", "none", "null")  # as a seed
MOST_ROWS = 5  # that a message names
MOST_SETTINGS = 4  # columns that a remark names
FEW_VALUES = 5  # of a setting that varies within an arm; a result has more


@dataclass
class Table:
    """Rows of runs. name: what people call it. place: what its rows are called, "line" or "row"; first: the number of
    the first one; labels: the numbers or names of all, if they are not in the frame's index. said: sentences on rows
    that are not runs.
    """

    frame: Any  # a pandas.DataFrame
    name: str
    place: str = "row"
    first: int = 0
    labels: list[Any] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        frame = self.frame.copy()
        frame.columns = [_column_name(column) for column in frame.columns]
        index = frame.index
        if not self.labels:
            plain = isinstance(index, pd.RangeIndex)
            self.labels = list(range(self.first, self.first + len(frame))) if plain else list(index)
        # an index that has a name is a column, as pivot and groupby leave it
        of_index = {str(name).strip(): index.get_level_values(level).to_numpy()
                    for level, name in enumerate(index.names) if name is not None}  # fmt: skip
        frame = frame.reset_index(drop=True)
        for name, values in of_index.items():
            if name not in frame.columns:
                frame[name] = values
        # a column without a name is the index that pandas wrote
        frame = frame.loc[:, [not re.fullmatch(r"(Unnamed: \d+\S*)?", column) for column in frame.columns]]
        double = [column for column, n in Counter(frame.columns).items() if n > 1]
        if double:
            raise ActSearchError(f"{self.name}: the column '{double[0]}' occurs twice. Rename one.")
        if not len(frame):
            raise ActSearchError(f"{self.name} has no rows.")
        self.frame = frame

    @property
    def columns(self) -> list[str]:
        return list(self.frame.columns)

    def only(self, which: Any) -> Table:
        """The table with the chosen rows. which: (n_rows,) truths."""
        kept = [label for label, keep in zip(self.labels, which, strict=True) if keep]
        return Table(self.frame[np.asarray(which)], self.name, self.place, self.first, kept, self.said)

    def rows(self, which: Any) -> str:
        """The chosen rows in words."""
        labels = [label for label, named in zip(self.labels, which, strict=True) if named]
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
    sentences that a reader must know. percent: whether the numbers are written with a % sign.
    """

    runs: dict[str, Runs]
    by: str
    metric: str
    pairs: list[str]
    said: list[str]
    percent: bool


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
    kind = path.suffix.lower()
    kinds = (*SEPARATED, *PARQUET, *LINES, *JSON)
    if kind not in kinds:
        raise ActSearchError(f"task.results={path}: write a file that ends in {', '.join(kinds)}, or mlflow:NAME.")
    if not path.is_file():
        what = "that is no file" if path.exists() else "there is no such file"
        raise ActSearchError(f"task.results={path}: {what}.")
    try:
        if kind in SEPARATED:
            return _separated(path, SEPARATED[kind])
        if kind in PARQUET:
            return Table(pd.read_parquet(path), path.name, first=1)
        text = path.read_text(encoding="utf-8-sig")  # not by pandas, which makes numbers, and dates, of texts
        if kind in JSON:
            return Table(_frame(json.loads(text)), path.name, first=1)
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        frame = _frame([_object(number, line) for number, line in lines])
        return Table(frame, path.name, "line", labels=[number for number, _ in lines])
    except ActSearchError:
        raise
    except UnicodeDecodeError:
        raise ActSearchError(f"task.results={path} is no text in UTF-8. Save it as that.") from None
    except Exception as error:  # pandas and its parsers raise anything
        raise ActSearchError(f"task.results={path} cannot be read as {kind[1:]}: {one_line(error)}") from None


def _frame(data: Any) -> Any:
    """The frame of a list of objects, or of an object of columns. Raises ValueError for other JSON."""
    columns = data.values() if isinstance(data, dict) else []
    if not (isinstance(data, list) and all(isinstance(row, dict) for row in data)) and not (
        columns and all(isinstance(column, (list, dict)) for column in columns)
    ):
        raise ValueError("it is no list of objects, and no object of columns")
    return pd.DataFrame(data)


def _object(number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise ValueError(f"line {number} is no object of JSON") from None


def _separated(path: Path, separators: str) -> Table:
    """The table of a CSV or TSV file, all cells as texts: an arm may be called None or 0.10.

    Not by pandas, which takes the first column for an index where rows are longer than the header, as they are with a
    decimal comma, renames columns that occur twice, and does not count lines as an editor does.
    Raises ActSearchError if a row has more or fewer cells than the header.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        start = next((line for line in file if line.strip()), "")
        file.seek(0)
        separator = max(separators, key=start.count)
        lines = _lines(csv.reader(file, delimiter=separator, strict=True))
        _, header = next(lines, (0, []))
        if not header:
            raise ActSearchError(f"task.results={path} cannot be read as {path.suffix[1:]}: it is empty.")
        labels, rows, said = [], [], []
        for label, cells in lines:
            if cells == header:
                said.append(f"{path.name}, line {label}: the header again, which is left out.")
                continue
            wide = len(header) + sum(1 for cell in cells[len(header) :] if cell)
            if wide > len(header) or len(cells) < len(header):
                raise ActSearchError(
                    f"{path.name}, line {label}: {len(cells)} cells, but the header has {len(header)}. Write decimal "
                    "points, and put cells that hold a separator in quotes."
                )
            labels.append(label)
            rows.append([cell or None for cell in cells[: len(header)]])
    return Table(pd.DataFrame(rows, columns=header, dtype=object), path.name, "line", 2, labels, said)


def _lines(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its first line."""
    before = 0
    for row in reader:
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield before + 1, cells
        before = reader.line_num


def _from_mlflow(name: str, uri: str | None) -> Table:
    """The finished runs of an MLflow experiment; parameters, metrics and tags are columns without their prefix."""
    if uri is None:
        raise ActSearchError("tracking.uri=null: there is no MLflow to read from. Write tracking.uri=http://… .")
    rows, n_unfinished = runs_of(uri, name)
    left = [f"{n_unfinished} runs of '{name}' are not finished, and left out."] if n_unfinished else []
    frame = pd.DataFrame([values for _, values in rows])
    return Table(frame, f"MLflow's {name}", "run", labels=[run for run, _ in rows], said=left)


def arms(
    table: Table,
    by: str | Sequence[str] | None,
    metric: str | None,
    baseline: str | None,
    pair: Any = "auto",
    where: str | None = None,
) -> Arms:
    """The arms of a long or a wide table.

    Raises ActSearchError for columns that are not there and for rows that cannot be used, naming them.
    """
    if where is not None:
        which = chosen(table.frame, where)
        if not which.any():
            raise ActSearchError(f"task.where={where!r}: no row of {table.name} is left.")
        table = table.only(which)
    said = list(table.said)
    if by is None and (known := [name for name in BY if name in table.columns]):
        by = known[0]
    wide = by is None or not isinstance(by, str)
    if wide:
        if by is None and (baseline is None or baseline not in table.columns):
            raise ActSearchError(
                f"{table.name}: which column says what is compared? Write task.by=COLUMN; there are "
                f"{', '.join(table.columns)}. In a wide table, with a column for each arm, name one as task.baseline."
            )
        table, metric = _long(table, pair, metric, by, said)
        by = "activation"
    assert isinstance(by, str)
    table.column("task.by", by)
    metric = metric or _metric_column(table, by)
    table.column("task.metric", metric)
    keys = _pair_columns(table, pair, by)
    for key, column in (("task.by", by), ("task.pair", keys)):
        if metric == column or (metric in column and column is keys):
            raise ActSearchError(f"{key}={column} and task.metric={metric}: a column cannot be both.")
    if by in keys:
        raise ActSearchError(f"task.pair={keys}: runs are compared by '{by}', so that does not pair them.")
    empty = table.frame[by].isna() | (texts(table.frame[by]) == "")
    if empty.all():
        raise ActSearchError(f"{table.name}: the column '{by}' is empty.")
    if empty.any() and table.place == "run":  # an experiment of MLflow holds runs of several kinds
        said.append(f"{int(empty.sum())} runs without a '{by}' are left out.")
        table = table.only(~empty)
    elif empty.any():
        raise ActSearchError(f"{table.name}, {table.rows(empty)}: '{by}' is empty. Fill it, or leave the row out.")
    frame = table.frame
    numbers, percent = _numbers(table, metric)
    for key in keys:
        missing = frame[key].isna() | (texts(frame[key]).str.lower().isin(MISSING) & _is_pair(key))
        if missing.any():
            raise ActSearchError(
                f"{table.name}, {table.rows(missing)}: '{key}' is empty. Fill it, or write task.pair=none."
            )
    names = texts(frame[by]).map(lambda name: " ".join(name.split()))
    check_alike(table.name, names.unique())
    pairs = list(zip(*(map(canonical, frame[key]) for key in keys), strict=True)) if keys else None
    if pairs is not None:
        _check_parts(table, keys)
        _check_double(table, names, pairs, by, keys)
    if not wide:
        _check_curves(table, names, by, metric, keys)
        said += _other_settings(table, names, pairs, by, metric, keys)
    said += [
        f"Runs are paired by {key}: folds of one data set share training examples, so the intervals are narrower than "
        "for independent runs."
        for key in keys if key.lower().rpartition(".")[2] in FOLDS and texts(frame[key]).nunique() > 1
    ]  # fmt: skip
    failed = _failed(table)
    found = {}
    for name, which in names.groupby(names, sort=False).indices.items():
        mine = sorted(which)
        found[str(name)] = Runs(
            str(name), [numbers[i] for i in mine], None if pairs is None else [pairs[i] for i in mine],
            None if failed is None else [failed[i] for i in mine],
        )  # fmt: skip
    return Arms(found, by, metric, keys, said, percent)


def canonical(value: Any) -> str:
    """A cell's text, equal for equal numbers: 1, 1.0 and 1e0."""
    text = str(value).strip()
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?", text):
        return text
    number = Decimal(text)
    return str(number.normalize()) if number else "0"


def check_alike(table: str, names: Iterable[str]) -> None:
    """Raises ActSearchError for two arms that were probably meant as one: ReLU and relu, 0.1 and 0.10."""
    met: dict[str, str] = {}
    for name in names:
        plain = "".join(canonical(name).split()).casefold()
        if plain in met:
            raise ActSearchError(
                f"{table}: the arms '{met[plain]}' and '{name}' differ only in how they are written. Write them in one "
                "way, or, if they are two things, name them differently."
            )
        met[plain] = name


def _long(table: Table, pair: Any, metric: str | None, by: Sequence[str] | None, said: list[str]) -> tuple[Table, str]:
    """A wide table, with a column for each arm, as a long one, and the metric: a name for what stands in it."""
    keys = _pair_columns(table, pair, None)
    if by is not None:
        wide = [table.column("task.by", str(name)) for name in by]
    else:
        wide = [column for column in table.columns if column not in keys]
        text = [column for column in wide if as_numbers(_without_signs(table.frame[column])).dtype.kind not in "fiub"]
        odd = [column for column in wide if _is_no_arm(column)]
        if text or odd:
            what = f"'{text[0]}' has text" if text else f"'{odd[0]}' is probably none"
            raise ActSearchError(
                f"{table.name}: as a wide table, with a baseline that is a column, all columns must be arms; {what}. "
                f"Name the arms: task.by=[{','.join(column for column in wide if column not in (*text, *odd))}]. In a "
                "long table write task.by=COLUMN."
            )
        said.append(f"{table.name} is read as a wide table, with the arms {_some(wide)}.")
    if metric is None:
        raise ActSearchError(f"{table.name} is wide: what do its numbers measure? Write task.metric=test_accuracy.")
    taken = {"activation", metric} & set(keys)
    if taken or metric == "activation" or metric in wide:
        raise ActSearchError(
            f"task.metric={metric}: say what the numbers of a wide table measure, as by test_accuracy."
        )
    cells = table.frame[[*keys, *wide]].astype({column: object for column in wide})
    frame = cells.melt(keys, wide, "activation", metric)
    labels = [f"{label} ({column})" for column in wide for label in table.labels]
    return Table(frame, table.name, table.place, labels=labels), metric


def _is_no_arm(column: str) -> bool:
    word = column.lower().rpartition(".")[2].replace(" ", "_")
    return word in NO_ARMS or known_word(column) is not None or re.sub(r"\W", "", word) in FAILED


def _metric_column(table: Table, by: str) -> str:
    """The only column that is known as a metric and no cost, or the only one of the test set."""
    words = {column: known_word(column) for column in table.columns if column != by}
    known = [column for column, word in words.items() if word is not None and word not in COSTS]
    tested = [column for column in known if "test" in column.lower()] or known
    if len(tested) != 1:
        raise ActSearchError(
            f"{table.name}: which column is the metric? Write task.metric=COLUMN; there are {', '.join(table.columns)}."
        )
    return tested[0]


def _pair_columns(table: Table, pair: Any, by: str | None) -> list[str]:
    """The columns by which runs are paired: those that are named, or those whose names say so."""
    if pair is None or pair in ("none", []):
        return []
    if pair != "auto":
        return [table.column("task.pair", str(name)) for name in (pair if isinstance(pair, (list, tuple)) else [pair])]
    return [name for name in table.columns if _is_pair(name) and name != by]


def _is_pair(column: str) -> bool:
    return column.lower().rpartition(".")[2] in PAIRS


def _without_signs(column: Any) -> Any:
    """The column's texts without % signs behind numbers."""
    return texts(column).str.replace(r"(?<=[\d.])\s*%$", "", regex=True)


def _numbers(table: Table, metric: str) -> tuple[list[float], bool]:
    """The metric's column as numbers, and whether they are written with a % sign, as 93.2 % is."""
    text, plain = texts(table.frame[metric]), _without_signs(table.frame[metric])
    percent = text != plain
    numbers: Any = pd.Series(pd.to_numeric(plain, errors="coerce"), dtype=float)
    numbers = numbers.where(text.str.lower() != "true", 1.0).where(text.str.lower() != "false", 0.0)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        first = text[wrong].iloc[0]
        name = metric if metric.isidentifier() else f"`{metric}`"
        cure = (
            "Write numbers with a decimal point and without other signs."
            if re.match(r"[-+−]?\d", first)
            else "A run that failed counts with what guessing would reach; a row that is no run, leave it out, as by "
            f'task.where="{name}.notna()".'
        )
        raise ActSearchError(f"{table.name}, {table.rows(wrong)}: {metric} is '{first}', not a finite number. {cure}")
    if (numbers.abs() > LARGEST).any():
        raise ActSearchError(f"{table.name}, {table.rows(numbers.abs() > LARGEST)}: {metric} is beyond ±{LARGEST:g}.")
    if percent.any() and not percent.all():
        raise ActSearchError(f"{table.name}, {table.rows(~percent)}: {metric} has no % sign, as others have.")
    return [float(number) for number in numbers], bool(percent.any())


def _check_parts(table: Table, keys: Sequence[str]) -> None:
    """Raises ActSearchError where rows of the training, the validation and the test set would all count as runs."""
    for key in keys:
        values = texts(table.frame[key])
        parts = [value for value in values.unique() if value.lower() in PARTS]
        if parts and values.nunique() > 1:
            raise ActSearchError(
                f"{table.name}: '{key}' says on which examples a row is ({', '.join(parts)}), so its rows are not runs "
                f"of their own. Choose one: task.where=\"{key} == '{parts[-1]}'\"."
            )


def _check_curves(table: Table, names: Any, by: str, metric: str, keys: Sequence[str]) -> None:
    """Raises ActSearchError where rows are moments of a run: as runs, they would count many times."""
    for column in table.columns:
        if column.lower().rpartition(".")[2] not in TIMES or column in (by, metric):
            continue
        moments = texts(table.frame[column]).groupby(names).nunique()
        if (moments > 1).any():
            raise ActSearchError(
                f"{table.name}: '{column}' has {int(moments.max())} values in the arm {moments.idxmax()}. Moments of a "
                f'run are not runs: choose one, as by task.where="{column} == {table.frame[column].iloc[-1]}".'
            )


def _other_settings(
    table: Table, names: Any, pairs: list[tuple[str, ...]] | None, by: str, metric: str, keys: Sequence[str]
) -> list[str]:
    """A sentence on columns, such as lr, in which arms, or runs that are paired, differ too."""
    found, frame = [], table.frame
    groups = pd.Series([" ".join(pair) for pair in pairs]) if pairs is not None else None
    for column in table.columns:
        values = frame[column].map(canonical)
        few = 1 < values.nunique() <= len(values) / 2
        told = column in (by, metric, *keys) or _is_pair(column) or _is_failed(column) or known_word(column)
        if told or not few:
            continue
        each = values.groupby(names)
        of_arm = (each.nunique() == 1).all()
        differs = each.first().nunique() > 1 if groups is None else (values.groupby(groups).nunique() > 1).any()
        differs = (differs or groups is None) and (of_arm or values.nunique() <= FEW_VALUES)
        if differs:
            found.append(column)
    if not found:
        return []
    what = "Runs that are paired" if pairs is not None else "Runs"
    return [f"{what} differ in {_some(found)}, too: verdicts are about all of it together."]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_SETTINGS} more" if len(names) > MOST_SETTINGS else ""
    return ", ".join(names[:MOST_SETTINGS]) + more


def _check_double(table: Table, names: Any, pairs: list[tuple[str, ...]], by: str, keys: Sequence[str]) -> None:
    """Raises ActSearchError if an arm has two runs that would be paired with the same one."""
    both: Any = pd.Series(list(zip(names, pairs, strict=True)))
    double = both.duplicated(keep=False)
    if not double.any():
        return
    name, pair = both[double].iloc[0]
    same = both == (name, pair)
    rows = table.frame[same]
    telling = [
        column for column in table.columns
        if column not in (by, *keys) and texts(rows[column]).nunique() > 1
        and texts(table.frame[column]).nunique() <= max(2, len(table.frame) // 4)
    ]  # fmt: skip
    shown = ", ".join(f"{key} {value}" for key, value in zip(keys, pair, strict=True))
    cure = (
        f"If {telling[0]} tells them apart, choose one by task.where=\"{telling[0]} == '…'\", or pair by both: "
        f"task.pair=[{','.join([*keys, telling[0]])}]."
        if telling
        else "Leave one out, or write task.pair=none if they are different runs."
    )
    raise ActSearchError(f"{table.name}, {table.rows(same)}: {name} with {shown} twice. {cure}")


def _is_failed(column: str) -> bool:
    return re.sub(r"\W", "", column.lower().rpartition(".")[2]) in FAILED


def _failed(table: Table) -> list[bool] | None:
    known = [column for column in table.columns if _is_failed(column)]
    if not known:
        return None
    truth = table.frame[known].apply(lambda column: texts(column).str.lower().isin(("true", "1", "1.0", "yes")))
    return [bool(value) for value in truth.any(axis=1)]


def _column_name(column: Any) -> str:
    """The name of a column; of several levels, as pandas has them, joined by dots."""
    parts = column if isinstance(column, tuple) else (column,)
    return ".".join(part for part in (str(each).strip() for each in parts) if part)
