"""The result of a finished search: the data that the terminal, the tables, the plots, the page and a notebook show."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actsearch.activations.spec import Spec, parse_net
from actsearch.errors import ActSearchError
from actsearch.question.options import Confirmation
from actsearch.records import FinalistRun, TrialRecord
from actsearch.report.files import csv_text, verdict_rows
from actsearch.report.tables import finalist_table
from actsearch.report.terminal import Terminal
from actsearch.verdicts.comparison import Comparison

if TYPE_CHECKING:
    import pandas


@dataclass(repr=False)
class Result:
    """A finished search.

    name: the study's. rows: as in leaderboard.csv, with numbers as text. records: the search's trials; empty if every
    candidate was a finalist. comparisons: finalists against the baseline, best first. runs: one per finalist, rate and
    seed. summary: the verdict in words. searched: whether the finalists were selected from trials. objective: what
    ranked those trials. n_test: the number of test examples, if known. target: the accuracy up to which steps were
    counted; None if they were not. earlier_looks: other verdicts on this test set that were seen before, in words.
    refused: functions of a grammar that were rejected before training, and why. warnings: sentences on the model, the
    data and the training that a reader must know. about: how the result was made, by heading. config_yaml: the whole
    config. page: the study's table in MLflow, as a path below its server's address. title: of the report; if empty, it
    is made of model and data. kind: of a study, of a user's own training (own), or a table, of which only numbers are
    known.
    """

    name: str
    rows: list[dict[str, Any]]
    records: list[TrialRecord]
    comparisons: list[Comparison]
    runs: list[FinalistRun]
    summary: str
    folder: Path
    test_name: str
    searched: bool
    objective: str
    options: Confirmation
    n_test: int | None = None
    target: float | None = None
    earlier_looks: list[str] = field(default_factory=list)
    refused: Mapping[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list, compare=False)
    about: Mapping[str, str] = field(default_factory=dict)
    config_yaml: str = ""
    page: str | None = None
    title: str = ""
    kind: Literal["study", "own", "table"] = "study"

    def __repr__(self) -> str:
        return f"<Result of {self.name}: {self.summary}>"

    def _repr_html_(self) -> str:
        """The HTML that a notebook shows: the verdict and the finalists' table."""
        heads, rows = finalist_table(self.comparisons, self.options)
        cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
        table = "".join(f"<th>{escape(head)}</th>" for head in heads)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        return f"<p>{escape(self.summary)}</p><table><thead><tr>{table}</tr></thead><tbody>{body}</tbody></table>"

    @property
    def leaderboard(self) -> pandas.DataFrame:
        """The trials, best first, as in leaderboard.csv, with numbers."""
        import pandas

        frame = pandas.read_csv(io.StringIO(csv_text(self.rows)), keep_default_na=False, na_values=[""])
        return frame.astype({"rank": "Int64", "same_as": "Int64"})  # columns of whole numbers with empty cells

    @property
    def best(self) -> str:
        return self.comparisons[0].activation

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        """Rows as in verdict.json."""
        return verdict_rows(self.comparisons)

    @property
    def n_tried(self) -> int:
        """The number of candidates that were trained."""
        return sum(r.state != "duplicate" for r in self.records) if self.searched else len(self.comparisons)

    @property
    def refusals(self) -> str:
        """How many functions were rejected before training, in all and by reason."""
        counts = Counter(self.refused.values()).most_common()
        return f"{len(self.refused)} ({', '.join(f'{reason} {n}' for reason, n in counts)})"

    @property
    def specs(self) -> list[Spec]:
        """The activations that were compared; empty if other things were."""
        try:
            return list(dict.fromkeys(spec for c in self.comparisons for spec in parse_net(c.activation)))
        except ActSearchError:
            return []

    def report(self, terminal: Terminal | None = None) -> None:
        """Prints the leaderboard, the finalists and the verdict."""
        terminal = terminal or Terminal()
        if self.rows:
            terminal.leaderboard(self.rows, self.options.own_val, self.searched)
        if self.refused:
            terminal.line(f"rejected before training, listed in refused.csv: {self.refusals}")
        terminal.finalists(self.comparisons, self.test_name, self.options, self.kind)
        terminal.line(f"\n{self.summary}")
