"""One sentence of result, from the comparisons on the test set."""

from __future__ import annotations

import math
from collections.abc import Sequence

from actsearch.finalists import Comparison


def sentence(comparisons: Sequence[Comparison], test_name: str) -> str:
    """What was found, in words. comparisons: best first, the baseline among them."""
    base = next(c for c in comparisons if c.is_baseline)
    others = [c for c in comparisons if not c.is_baseline]
    if not others:
        return f"Only the baseline was trained: {base.activation} reaches {percent(base.mean)} on {test_name}."
    lead = others[0]
    text = (
        f"{lead.activation} reaches {percent(lead.mean)} on {test_name}, {points(lead)} {base.activation}'s "
        f"{percent(base.mean)} ({interval(lead)}, {lead.n_seeds} paired seeds): {judgement(lead)}"
    )
    unstable = [f"{c.activation} in {c.n_diverged} of {c.n_seeds}" for c in comparisons if c.n_diverged]
    if unstable:
        text += f" Runs diverged and count as chance: {', '.join(unstable)}."
    return text


def markdown_table(comparisons: Sequence[Comparison]) -> str:
    """The finalists as a Markdown table, best first."""
    base = next(c for c in comparisons if c.is_baseline)
    lines = [
        f"| activation | test accuracy | points over {base.activation} | 95 % interval |",
        "| --- | --: | --: | --: |",
    ]
    for c in comparisons:
        name = c.activation.replace("|", "\\|")
        spread = "" if math.isnan(c.std) else f" ± {100 * c.std:.2f}"
        d = c.difference
        gap = "baseline | " if d is None else f"{100 * d.mean:+.2f} | {interval(c).removeprefix('95 % interval ')}"
        lines.append(f"| {name} | {percent(c.mean)}{spread} | {gap} |")
    return "\n".join(lines)


def judgement(comparison: Comparison) -> str:
    d = comparison.difference
    if d is None or math.isnan(d.ci_low):
        return "one seed shows no spread, so nothing can be said of chance."
    if d.ci_low > 0:
        return "its interval lies above zero."
    return "its interval lies below zero." if d.ci_high < 0 else "its interval includes zero, so it may be chance."


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def points(comparison: Comparison) -> str:
    d = comparison.difference
    assert d is not None
    size = f"{abs(100 * d.mean):.2f} points"
    return f"{size} above" if d.mean >= 0 else f"{size} below"


def interval(comparison: Comparison) -> str:
    d = comparison.difference
    if d is None:
        return "baseline"
    if math.isnan(d.ci_low):
        return "no interval"
    return f"95 % interval {100 * d.ci_low:+.2f} to {100 * d.ci_high:+.2f}"
