"""report.html: one self-contained file for people to read, with the verdict first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actsearch.measure.properties import properties_of
from actsearch.question.options import COST, SPEED
from actsearch.report.files import write_text
from actsearch.report.plots import Plot
from actsearch.report.properties import TEXT, Table, property_tables
from actsearch.report.result import Result
from actsearch.report.sentence import (
    MOST_NAMED,
    confidence,
    margin,
    p_value,
    percent,
    points,
    population,
    size,
    span,
    unit,
    value,
)
from actsearch.report.tables import finalist_table, latex_table, markdown_table
from actsearch.verdicts.statistics import mean

TEMPLATE = Path(__file__).with_name("page.html.j2")
MOST_LOOKS = 3  # that are named
TEXT_COLUMNS = ("activation", "verdict", "state")


def write_page(result: Result, plots: Sequence[Plot]) -> Path:
    """Writes report.html into the study's folder."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**_contents(result, plots))
    path = result.folder / "report.html"
    write_text(path, page)
    return path


def _contents(result: Result, plots: Sequence[Plot]) -> dict[str, Any]:
    """The values of the template's variables, by name."""
    heads, rows = finalist_table(result.comparisons, result.options)
    lead, _, rest = result.summary.partition(". ")
    board_heads, board = _leaderboard(result)
    return {
        "title": result.title
        or f"Which activation function? {result.about.get('model', result.name).split(',')[0]} on "
        f"{result.test_name.removesuffix(chr(39) + 's test set')}",
        "finalists_title": "Compared" if result.kind == "table" else "Finalists",
        "lead": f"{lead.removesuffix('.')}.",
        "rest": rest,
        "facts": _facts(result),
        "heads": heads,
        "rows": [
            {"cells": list(zip(heads, row, strict=True)), "baseline": c.is_baseline}
            for row, c in zip(rows, result.comparisons, strict=True)
        ],
        "text_columns": TEXT_COLUMNS,
        "table_caption": _table_caption(result),
        "markdown": markdown_table(heads, rows),
        "latex": latex_table(heads, rows),
        "plots": plots,
        "secondary": _secondary(result),
        "secondary_caption": "The same runs by other metrics. Intervals and p are corrected for the number of "
        "finalists, not for the number of metrics, so take these verdicts as hints. "
        + (
            "Seconds are wall times of runs that shared a machine."
            if result.kind == "own"
            else "Times are geometric means over repeated measurements, not seeds."
        ),
        "properties": _properties(result),
        "property_text": TEXT,
        "board_heads": board_heads,
        "board": board,
        "leaderboard_caption": f"Validation scores of {len(result.rows)} trials. The best were selected by them and "
        "are therefore optimistic: judge by the finalists. Click a heading to sort."
        if result.searched
        else f"{result.options.own_val.words.capitalize()} of the runs above. Click a heading to sort.",
        "about": result.about,
        "config": result.config_yaml,
        "warnings": result.warnings,
        "limits": limits(result),
    }


def _facts(result: Result) -> list[tuple[str, str]]:
    n_finalists = len(result.comparisons) - 1
    if result.kind != "table":
        facts = [("candidates tried", str(result.n_tried))]
        facts.append((f"finalist{'s' if n_finalists != 1 else ''} and the baseline retrained", str(n_finalists)))
        facts.append(("fresh seeds each", span([c.n_seeds for c in result.comparisons])))
    else:
        facts = [("compared with the baseline", str(n_finalists))]
        facts.append(("runs each", span([c.n_seeds for c in result.comparisons])))
    if result.n_test is not None:
        facts.append(("test examples, scored once", f"{result.n_test:,}"))
    facts.append(("chance of any false better or worse, at most", percent(result.options.alpha).replace(".00", "")))
    return facts


def _table_caption(result: Result) -> str:
    verdicts = [c.verdict for c in result.comparisons if c.verdict is not None]
    if not verdicts:
        return "Only the baseline was trained."
    v = verdicts[0]
    base = next(c.activation for c in result.comparisons if c.is_baseline)
    rules = result.options.rules(len(verdicts))
    second = " or ".join(
        ["an exact sign-flip test"] * any(x.paired for x in verdicts)
        + ["a permutation test"] * any(not x.paired for x in verdicts)
    )
    text = (
        f"Differences to {base}{', paired by seed' if all(x.paired for x in verdicts) else ''}. The {confidence(v)} "
        f"intervals and the p-values are corrected for {rules.words}. Better or worse: the interval excludes 0, and "
        f"{second} agrees. Equivalent: the interval lies within ±{margin(v)}"
    )
    text += ", and that on examples like these, too." if any(map(population, verdicts)) else "."
    if not any(math.isnan(c.failure_bound) for c in result.comparisons):
        text += " Failed: runs that diverged or stayed at chance, and count at chance level" * (result.kind == "study")
        text += "; at most:" if result.kind == "study" else " Failed, in parentheses:"
        text += " the 95 % upper bound of the rate."
    if any(verdict.counts_failures for verdict in verdicts):
        text += " *: such runs are in one of the two means."
    if any(not math.isnan(c.saved_mib) for c in result.comparisons):
        text += " Memory kept: what a training step keeps for its backward pass."
    waiting = [
        f"{c.activation} about {c.verdict.seeds_to_decide}"
        for c in result.comparisons
        if c.verdict is not None and c.verdict.seeds_to_decide is not None
    ]
    more = f" and {len(waiting) - MOST_NAMED} more" if len(waiting) > MOST_NAMED else ""
    named = ", ".join(waiting[:MOST_NAMED])
    return text + (f" Number of seeds that would decide an undecided comparison: {named}{more}." if waiting else "")


def _secondary(result: Result) -> list[list[str]]:
    rows = []
    base = next(c for c in result.comparisons if c.is_baseline)
    for name, metric in result.options.metrics.items():
        for c in result.comparisons:
            for v in c.secondary:
                if v.metric == metric:
                    shown = [getattr(x, name) for x in (c, base)] if name in COST else [v.mean, v.baseline_mean]
                    known = not math.isnan(v.ci_low)
                    bounds = (
                        f"{points(metric, v.ci_low)} to {points(metric, v.ci_high)} {unit(metric)}" if known else ""
                    )
                    rows.append(
                        [metric.words, c.activation, *[value(metric, x) for x in shown], size(v),
                         bounds, p_value(v.p_corrected), v.verdict]
                    )  # fmt: skip
    return rows


def _properties(result: Result) -> list[Table]:
    """Tables of the properties of the finalists' activations."""
    return property_tables([properties_of(spec) for spec in result.specs]) if result.specs else []


def _leaderboard(result: Result) -> tuple[list[str], list[list[str]]]:
    """The leaderboard without its empty columns, and with shares in per cent."""
    rows, val = result.rows, result.options.own_val
    names = list(dict.fromkeys(name for row in rows for name in row))
    names = [name for name in names if any(row.get(name, "") not in ("", 0) for row in rows)]
    heads = [name.removesuffix("_mean").replace("_", " ").replace("std", "sd") for name in names]
    board = []
    for row in rows:
        cells = []
        for name in names:
            cell = row.get(name, "")
            is_own = name in (f"{val.name}_mean", f"{val.name}_std") and cell != ""
            cells.append(value(val, float(cell)) if is_own else str(cell))
        board.append(cells)
    return heads, board


def second_look(result: Result) -> str:
    """How often the test set was looked at before, and what that means."""
    n, last = len(result.earlier_looks), result.earlier_looks[-MOST_LOOKS:]
    seen = f"{n} other verdicts on this test set were seen before, the last ones" if n > 1 else (
        "Another verdict on this test set was seen before"
    )  # fmt: skip
    return (
        f"{seen}: {'; '.join(last)}. Each further look is a further chance to err, for which nothing is corrected. "
        "confirm.fresh=true takes seeds that no verdict of this study saw; a new study with confirm.until_decided=true "
        "from the start corrects for its looks."
    )


def pairing(saved: float) -> str:
    """What pairing by seed was worth. saved: the share of the runs that it saves."""
    if saved > 0.05:
        return f"The same seeds in both arms save {100 * saved:.0f} % of the runs that independent ones would take."
    return "The same seeds do not make runs alike: pairing saves nothing here."


def limits(result: Result) -> list[str]:
    """What these verdicts do not show: sentences for a sceptical reader."""
    out = []
    verdicts = [c.verdict for c in result.comparisons if c.verdict is not None]
    out.append(
        "A verdict holds for this model, these data and this recipe. Another size, schedule or budget may change it."
        if result.kind != "table"
        else "A verdict holds for the runs of this table. It does not show how they were made: whether all were tuned "
        "alike, how the arms and the number of runs were chosen, and whether the test set chose anything. Its interval "
        "has the chance of seeds alone, not of the test examples."
    )
    if saved := [v.saved_by_pairs for v in verdicts if not math.isnan(v.saved_by_pairs)]:
        out.append(pairing(mean(saved)))
    if result.searched:
        out.append(
            f"{result.n_tried} candidates were tried. Those not among the finalists were only ranked, on validation "
            "data and few seeds; there is no verdict on them."
        )
    if result.refused:
        out.append(f"Functions that were rejected before training, listed in refused.csv: {result.refusals}.")
    if result.n_test is not None and result.options.metric not in (*SPEED, *COST):
        text = f"The {result.n_test:,} test examples are a sample, too, and more seeds do not reduce its error. "
        if any(population(v) for v in verdicts):
            text += (
                "Better and worse hold for these examples, where seeds alone are chance; the interval on examples like "
                "these contains the chance of their choice as well, and equivalent is said only if both intervals lie "
                "within the margin."
            )
        else:
            text += "How far they stand for examples like these is not known here: verdicts hold for these examples."
        out.append(text)
    if result.earlier_looks:
        out.append(second_look(result))
    elif any(not v.decided for v in verdicts) and not result.options.until_decided:
        out.append(
            "Adding seeds because something is undecided is a second look, and a further chance to err: with the noise "
            "of real trainings, equal activations were then called different in 8.6 % of studies instead of 5 % "
            "(experiments/calibration). confirm.until_decided=true, set from the start, corrects for its looks."
        )
    known = [v for v in verdicts if math.isfinite(v.minimum_detectable_effect)]
    if known:
        worst = max(known, key=lambda v: v.minimum_detectable_effect)
        effect = points(worst.metric, worst.minimum_detectable_effect).lstrip("+")
        pairs = f"{worst.n_seeds} {'repetitions' if worst.metric.name in COST else 'seeds'}"
        out.append(
            f"With {pairs} a true difference of {effect} {unit(worst.metric)} is found in 80 % of studies; smaller "
            "ones are missed more often."
        )
    if any(not math.isnan(c.training_step_us) for c in result.comparisons):
        out.append(
            "Times are of the plain PyTorch net, not compiled, on this machine, with the recipe's batch size. Another "
            "machine has other ratios."
        )
    out += [f"{c.activation}: {c.verdict.warning}." for c in result.comparisons if c.verdict and c.verdict.warning]
    return out
