"""The output in the terminal: header, progress, leaderboard, result. Plain lines if the output is no terminal."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)
from rich.table import Table

from actsearch.output import Output
from actsearch.question.metrics import Direction, Metric
from actsearch.question.options import Confirmation
from actsearch.records import Event, GenerationFinished, GenerationStarted, RungReached, TrialRecord
from actsearch.report.sentence import value
from actsearch.report.tables import COST_HEADS, finalist_table
from actsearch.verdicts.comparison import Comparison

# columns of the leaderboard that every study has
ALWAYS = ("rank", "trial", "activation", "val_loss_mean", "n_seeds", "n_diverged", "state", "steps", "same_as")
LINE_SECONDS = 5.0  # from one plain line of progress to the next
T = TypeVar("T")


class Terminal:
    """Shows one search. quiet: shows nothing (for calls from Python)."""

    def __init__(self, quiet: bool = False) -> None:
        output: Any = Output(sys.stdout)
        self.console = Console(file=output, quiet=quiet, highlight=False, soft_wrap=True)
        if not self.console.is_terminal:  # a log has no width
            self.console = Console(file=output, quiet=quiet, highlight=False, soft_wrap=True, width=200)
        self.best: tuple[float, str] | None = None
        self._last_line = time.monotonic()
        self._done = self._total = self._of_trial = self._n_ended = 0
        self._stage = ""
        self._objective, self._direction = "", "maximize"
        self._progress: Progress | None = None

    def header(self, rows: Mapping[str, str]) -> None:
        self.console.print("[bold]actsearch[/bold]")
        for key, words in rows.items():
            self.line(f"  {key:<12} {words}")

    def begin(self, total: int, objective: str, direction: Direction, of_trial: int = 0) -> None:
        """Begins the progress. total: the steps of all runs, or other units. of_trial: those of a trial that ends."""
        self._total, self._objective, self._direction, self._of_trial = total, objective, direction, of_trial
        if self.console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self.console, transient=True,
            )  # fmt: skip
            self._task = self._progress.add_task("starting", total=total)
            self._progress.start()

    def ranked_by(self, objective: str, direction: Direction) -> None:
        """Sets by which number the best so far is shown, where that is not known at the beginning."""
        self._objective, self._direction = objective, direction

    def event(self, event: Event) -> None:
        self._stage = event.stage
        if isinstance(event, RungReached):
            self._done += event.run_steps
        elif isinstance(event, GenerationFinished):
            self._n_ended += len(event.records)
            self._done = max(self._done, self._n_ended * self._of_trial)  # pruned trials and duplicates take less
            for record in event.records:
                if record.state == "complete":
                    self._see(record)
        self._total = max(self._total, self._done)  # where tuning goes on beyond the edge of its grid
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, total=self._total, description=self._status())
        elif isinstance(event, GenerationFinished) or time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            share = 100 * self._done / self._total if self._total else 100
            step = f", step {event.step}" if isinstance(event, RungReached) else ""
            if not isinstance(event, GenerationStarted):
                self.console.print(f"{share:3.0f} %  {self._status()}{step}", markup=False)

    def _see(self, record: TrialRecord) -> None:
        now, up = record.values[0], self._direction == "maximize"
        if self.best is None or (now > self.best[0] if up else now < self.best[0]):
            self.best = (now, record.activation)

    def _status(self) -> str:
        shown = f"best so far: {self.best[1]} ({self._objective} {self.best[0]:.4f})" if self.best else "training"
        return f"{self._stage}  {shown}"

    def advance(self, n: int, text: str) -> None:
        """Counts n more of what `begin` was told, and shows the text."""
        self._done += n
        self._total = max(self._total, self._done)
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done, total=self._total, description=text)
        elif time.monotonic() - self._last_line > LINE_SECONDS:
            self._last_line = time.monotonic()
            self.line(f"{100 * self._done / self._total:3.0f} %  {text}")

    def end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def warn(self, message: str) -> None:
        self.console.print(f"[yellow]warning:[/yellow] {escape(message)}")

    def line(self, message: str) -> None:
        self.console.print(message, markup=False)

    def each(self, items: Sequence[T], doing: str) -> Iterator[T]:
        """Yields the items in turn and shows how far the work on them is: as a bar, or as plain lines."""
        if self.console.is_terminal:
            yield from track(items, doing, console=self.console, transient=True)
            return
        self.line(doing)
        self._last_line = time.monotonic()
        for i, item in enumerate(items):
            if time.monotonic() - self._last_line > LINE_SECONDS:
                self._last_line = time.monotonic()
                self.line(f"{100 * i / len(items):3.0f} %  {doing}")
            yield item

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[str] = ("activation",)) -> None:
        """Prints a table; if it is too wide, as several, each with the first column. text: the columns with words."""
        widths = [max(cell_len(line) for cell in column for line in cell.split("\n")) + 2
                  for column in zip(heads, *rows, strict=True)]  # fmt: skip
        part = [0]
        for i in range(1, len(heads) + 1):
            if i == len(heads) or (len(part) > 1 and sum(widths[j] for j in (*part, i)) > self.console.width + 2):
                table = Table(box=None, pad_edge=False, header_style="bold")
                for j in part:
                    table.add_column(heads[j], justify="left" if heads[j] in text else "right", no_wrap=True)
                for row in rows:
                    table.add_row(*(escape(row[j]) for j in part))
                self.console.print(table)
                part = [0]
                if i < len(heads):
                    self.console.print()
            part.append(i)

    def leaderboard(self, rows: Sequence[Mapping[str, object]], val: Metric, searched: bool, n_show: int = 20) -> None:
        """Prints the best trials.

        rows: as in leaderboard.csv. val: the metric of the validation curves. searched: whether the best were selected
        from many.
        """
        ranked = [row for row in rows if row["rank"] != ""]
        counts = {state: sum(row["state"] == state for row in rows) for state in ("pruned", "duplicate")}
        more = [
            f"{n} {word}" for n, word in ((counts["pruned"], "pruned"), (counts["duplicate"], "proposed again")) if n
        ]
        note = f"; {', '.join(more)}" if more else ""
        how = f"validation, selected from {len(rows)} trials: optimistic" if searched else "validation, all compared"
        self.console.print(f"\nLeaderboard: {how} ({len(ranked)} ranked{note})")
        recipe = [name for name in (rows[0] if rows else {}) if name.startswith("recipe.")]
        known = (*ALWAYS, *recipe, f"{val.name}_mean", f"{val.name}_std")
        extra = [name for name in (rows[0] if rows else {}) if name not in known]
        loss = ["val loss"] if any(row["val_loss_mean"] != "" for row in rows) else []
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in (
            "rank",
            "trial",
            "activation",
            *recipe,
            val.words.replace("validation", "val"),
            "± sd",
            *loss,
            *extra,
            "seeds",
            "diverged",
        ):
            table.add_column(name, justify="left" if name == "activation" else "right", overflow="fold")
        for row in ranked[:n_show]:
            table.add_row(
                *[str(row[name]) for name in ("rank", "trial", "activation")],
                *[str(row.get(name, "")) for name in recipe],
                value(val, float(str(row[f"{val.name}_mean"]))),
                _sd(val, row[f"{val.name}_std"]),
                *[f"{float(str(row['val_loss_mean'])):.4f}" for _ in loss],
                *[str(row[name]) for name in extra],
                str(row["n_seeds"]),
                str(row["n_diverged"] or ""),
            )
        self.console.print(table)
        if len(ranked) > n_show:
            self.console.print(f"… and {len(ranked) - n_show} more in leaderboard.csv")

    def finalists(
        self, comparisons: Sequence[Comparison], test_name: str, options: Confirmation, kind: str = "study"
    ) -> None:
        base = next(c for c in comparisons if c.is_baseline)
        rules = options.rules(len(comparisons) - 1)
        corrected = f", intervals and p corrected for {rules.words}" if rules.corrects else ""
        what = f"{test_name}: compared" if kind == "table" else f"Finalists: {test_name}, fresh seeds, paired"
        self.console.print(f"\n{what} with {base.activation}{corrected}", markup=False)
        heads, rows = finalist_table(comparisons, options)
        titles = list(heads)
        if not self._fits([_width([head, *cells]) for head, *cells in zip(heads, *rows, strict=True)]):
            columns = [(_width([*head.split(), *cells]), head) for head, *cells in zip(heads, *rows, strict=True)]
            titles = ["\n".join(textwrap.wrap(head, width)) for width, head in columns]
        widths = [_width(cells) for cells in zip(titles, *rows, strict=True)]
        while not self._fits(widths) and heads[len(widths) - 1] in COST_HEADS:
            widths.pop()  # the last columns are costs, which the report has
        table = Table(box=None, pad_edge=False, header_style="bold")
        for head, title in zip(heads[: len(widths)], titles, strict=False):
            words = head in ("activation", "verdict")
            table.add_column(title, justify="left" if words else "right", no_wrap=head == "activation", overflow="fold")
        for row in rows:
            table.add_row(*map(escape, row[: len(widths)]))
        self.console.print(table)

    def _fits(self, widths: Sequence[int]) -> bool:
        return sum(widths) + 2 * (len(widths) - 1) <= self.console.width


def _width(cells: Sequence[str]) -> int:
    return max(cell_len(line) for cell in cells for line in cell.split("\n"))


def _sd(own: Metric, value: object) -> str:
    text = str(value)
    return "" if text in ("", "nan") else f"{own.scale * float(text):.{own.decimals}f}"
