"""The table of finalists that a paper needs: as rows, as Markdown and as LaTeX."""

from __future__ import annotations

import math
from collections.abc import Sequence

from actsearch.question.metrics import Metric
from actsearch.question.options import Confirmation
from actsearch.report.sentence import (
    confidence,
    marked,
    mebibytes,
    microseconds,
    p_value,
    points,
    population,
    unit,
    value,
)
from actsearch.verdicts.comparison import Comparison

Row = list[str]
COST_HEADS = ("training step", "forward pass", "memory kept")


def finalist_table(comparisons: Sequence[Comparison], options: Confirmation) -> tuple[Row, list[Row]]:
    """Headings and rows, best first: rank, activation, mean, difference, intervals, p, verdict, seeds, recipe, cost."""
    metric, own = options.primary, options.own_test
    level = next((confidence(c.verdict) for c in comparisons if c.verdict is not None), "")
    recipe = list(dict.fromkeys(key for c in comparisons for key in c.recipe))
    costly = any(not math.isnan(c.training_step_us) for c in comparisons)
    failed = any(c.n_failed for c in comparisons)
    heads = ["rank", "activation", f"{metric.words} ± sd"]
    heads += [] if metric == own else [f"{own.words} ± sd"]
    difference = f"difference ({unit(metric)})" if unit(metric) else "difference"
    known = any(population(c.verdict) for c in comparisons if c.verdict is not None)
    heads += [difference, f"{level} interval".strip(), *(["on examples like these"] if known else []), "p, corrected"]
    bounded = not any(math.isnan(c.failure_bound) for c in comparisons)
    heads += ["verdict", "seeds", *(["failed (at most)"] if bounded else [])]
    heads += [f"{metric.words} without them"] if failed else []
    heads += [*recipe, *(COST_HEADS if costly else ())]
    rows = []
    for rank, c in enumerate(comparisons, start=1):
        v = c.verdict
        row = [str(rank), c.activation]
        row.append(_with_sd(metric, c.mean, c.std))
        if metric != own:
            row.append(_with_sd(own, c.test_metric, c.test_metric_std))
        if v is None:
            row += ["baseline", "", *([""] if known else []), "", "baseline"]
        else:
            unclear = math.isnan(v.ci_low)
            bounds = "" if unclear else f"{points(metric, v.ci_low)} to {points(metric, v.ci_high)}"
            row += [points(metric, v.difference), bounds, *([population(v)] if known else [])]
            row += ["" if unclear else p_value(v.p_corrected), marked(v)]
        row.append(str(c.n_seeds))
        row += [f"{c.n_failed} ({100 * c.failure_bound:.0f} %)"] if bounded else []
        others = "" if math.isnan(c.mean_of_others) else value(metric, c.mean_of_others)
        row += [*([others] if failed else []), *[str(c.recipe.get(key, "")) for key in recipe]]
        row += [microseconds(c.training_step_us), microseconds(c.latency_us), mebibytes(c.saved_mib)] if costly else []
        rows.append(row)
    return heads, rows


def markdown_table(heads: Row, rows: Sequence[Row]) -> str:
    lines = [heads, ["---" if head in ("activation", "verdict") else "--:" for head in heads], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def latex_table(heads: Row, rows: Sequence[Row]) -> str:
    """A LaTeX tabular; it needs the package booktabs."""
    columns = "".join("l" if head in ("activation", "verdict") else "r" for head in heads)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_row(heads), r"\midrule"]
    lines += [*(_latex_row(row) for row in rows), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines)


def _latex_row(cells: Row) -> str:
    marks = {"\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{",
             "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "µ": r"$\mu$",
             "|": r"\textbar{}", "<": "$<$", ">": "$>$", "−": "$-$"}  # fmt: skip
    return " & ".join("".join(marks.get(letter, letter) for letter in cell) for cell in cells) + r" \\"


def _with_sd(metric: Metric, mean: float, sd: float) -> str:
    if math.isnan(sd):
        return value(metric, mean)
    if metric.unit in ("%", "dB"):
        return f"{metric.scale * mean:.{metric.decimals}f} ± {value(metric, sd)}"
    return f"{value(metric, mean)} ± {value(metric, sd)}"
