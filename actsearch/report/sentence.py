"""Verdicts in words: sentences for people, and numbers that are formatted in the same way everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

from actsearch.question.metrics import Metric
from actsearch.question.options import COST, SPEED, Confirmation
from actsearch.verdicts.comparison import Comparison
from actsearch.verdicts.statistics import fewest_for_sign_flips
from actsearch.verdicts.verdict import BETTER, BY_LESS, EQUIVALENT, UNDECIDED, WORSE, Verdict

MOST_NAMED = 6  # candidates that a sentence can name


def sentence(comparisons: Sequence[Comparison], test_name: str, options: Confirmation) -> str:
    """The verdicts in words. comparisons: best first, the baseline among them."""
    base = next(c for c in comparisons if c.is_baseline)
    others = [c for c in comparisons if not c.is_baseline]
    if not others:
        score = value(options.own, base.test_metric)
        return f"Only the baseline was trained: {base.activation} reaches {score} on {test_name}."
    lead = others[0]
    assert lead.verdict is not None
    text = f"{claim(lead, base, lead.verdict, test_name)} {evidence(lead.verdict)}"
    if comparisons[0].is_baseline:
        found = "is" if all(c.verdict is not None and c.verdict.decided for c in others) else "was shown to be"
        where = f" on {test_name}" if lead.verdict.metric.name.startswith("test_") else ""
        text = f"No candidate {found} better than the baseline {base.activation}{where}. {text}"
    if lead.at_rates:
        said = [f"{times(rate)}: {v.verdict} ({size(v)})" for rate, v in sorted(lead.at_rates.items())]
        text += f" At other learning rates, {'; '.join(said)}."
    rest = [f"{c.activation}: {c.verdict.verdict}" for c in others[1:] if c.verdict is not None]
    if rest:
        shown = rest[:MOST_NAMED] + ([f"and {len(rest) - MOST_NAMED} more"] if len(rest) > MOST_NAMED else [])
        text += f" The others: {'; '.join(shown)}."
    if options.metric in SPEED and base.n_reached is not None:
        text += f" The target accuracy was reached in {reached(comparisons)}."
    warned = [f"{c.activation}: {c.verdict.warning}" for c in others if c.verdict is not None and c.verdict.warning]
    if warned:
        text += f" Note: {'. '.join(warned)}."
    return text


def claim(c: Comparison, base: Comparison, verdict: Verdict, test_name: str) -> str:
    """The verdict on a finalist as a sentence, with its value of the metric and the baseline's."""
    metric = verdict.metric
    where = f" on {test_name}" if metric.name.startswith("test_") else ""
    numbers = f"{metric.words} {value(metric, verdict.mean)} against {value(metric, verdict.baseline_mean)}"
    numbers += ", failed runs included" if verdict.counts_failures else ""
    if verdict.verdict == EQUIVALENT:
        lead = f"{c.activation} and {base.activation} are equivalent{where}"
        numbers += f", within ±{margin(verdict)}"
    elif verdict.verdict == UNDECIDED:
        lead = f"Undecided whether {c.activation} or {base.activation} is better{where}"
    else:
        word = BETTER if verdict.verdict.startswith(BETTER) else WORSE
        less = f", by less than the margin of {margin(verdict)}" if verdict.verdict.endswith(BY_LESS) else ""
        lead = f"{c.activation} is {word} than {base.activation}{where}{less}"
    return f"{lead}: {numbers}."


def marked(verdict: Verdict) -> str:
    """The verdict, with a star where failed runs are in one of the means."""
    return f"{verdict.verdict} *" if verdict.counts_failures else verdict.verdict


def evidence(verdict: Verdict) -> str:
    """The difference, its interval and its p-value; for an undecided verdict also what would decide it."""
    if math.isnan(verdict.ci_low) and verdict.n_seeds == 1:
        return "One seed shows no spread, so nothing can be said of chance."
    if math.isnan(verdict.ci_low):
        return "Their values allow no comparison: see the note."
    runs = f"{verdict.n_seeds} paired {'repetitions' if verdict.metric.name in COST else 'seeds'}"
    if not verdict.paired:
        runs = f"{verdict.n_seeds} and {verdict.n_baseline} runs, unpaired"
    others = f" on these examples ({population(verdict)} on examples like these)" if population(verdict) else ""
    text = (
        f"Difference {size(verdict)}, {interval(verdict)}{others}, {p_words(verdict.p_corrected)} after correction, "
        f"{runs}."
    )
    if verdict.decided:
        open_ = verdict.verdict != EQUIVALENT and verdict.population_ci_low <= 0 <= verdict.population_ci_high
        return text + (" On other examples like these it may be otherwise: that interval includes 0." if open_ else "")
    if verdict.few_examples:
        return text + (
            " On these examples the two are equivalent, but the test set is too small to say so of examples like "
            "these: more examples would decide it, more seeds would not."
        )
    least = fewest_for_sign_flips(1 - verdict.confidence)
    if verdict.paired and verdict.n_seeds < least:
        text += f" That is too few for any verdict at this level: at least {least} are needed."
    if verdict.seeds_to_decide is not None and verdict.metric.name not in COST:
        text += f" About {verdict.seeds_to_decide} seeds would decide it."
    return text


def reached(comparisons: Sequence[Comparison]) -> str:
    return ", ".join(f"{c.n_reached} of {c.n_seeds} runs of {c.activation}" for c in comparisons)


def span(numbers: Sequence[int]) -> str:
    """The smallest and the largest of the numbers as text; one number if they are equal."""
    return " to ".join(str(n) for n in sorted({min(numbers), max(numbers)}))


def times(rate: float) -> str:
    return "a third of it" if rate < 1 else f"{rate:g} times it"


def value(metric: Metric, number: float) -> str:
    """A value of a metric with its unit."""
    if metric.unit == "µs":
        return microseconds(number)
    if metric.unit == "s":
        return f"{number:.1f} s" if abs(number) >= 100 else f"{number:.3g} s"
    return f"{metric.scale * number:.{metric.decimals}f} {metric.unit}".rstrip()


def microseconds(number: float) -> str:
    return f"{number:,.0f} µs" if number >= 100 else f"{number:.3g} µs"


def mebibytes(number: float) -> str:
    """A size with its unit; empty for NaN, in studies whose costs were measured before sizes were."""
    return "" if math.isnan(number) else f"{number:.3g} MiB"


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def factor(metric: Metric) -> float:
    """The factor by which a difference or a margin is multiplied before it is shown."""
    return 100.0 if metric.ratio else metric.scale


def points(metric: Metric, change: float) -> str:
    """A difference without its unit: in percentage points, as relative change in per cent, or unchanged."""
    return f"{factor(metric) * change:+.{1 if metric.ratio else metric.decimals}f}"


def unit(metric: Metric) -> str:
    """The unit of a metric's differences."""
    if metric.ratio:
        return "%"
    return "points" if metric.unit == "%" else metric.unit


def size(verdict: Verdict) -> str:
    return f"{points(verdict.metric, verdict.difference)} {unit(verdict.metric)}".rstrip()


def margin(verdict: Verdict) -> str:
    return f"{factor(verdict.metric) * verdict.margin:g} {unit(verdict.metric)}".rstrip()


def interval(verdict: Verdict) -> str:
    if math.isnan(verdict.ci_low):
        return "no interval"
    low, high = points(verdict.metric, verdict.ci_low), points(verdict.metric, verdict.ci_high)
    return f"{confidence(verdict)} interval {low} to {high}"


def population(verdict: Verdict) -> str:
    """The interval on examples like these; empty if it is not known."""
    if math.isnan(verdict.population_ci_low):
        return ""
    low, high = verdict.population_ci_low, verdict.population_ci_high
    return f"{points(verdict.metric, low)} to {points(verdict.metric, high)}"


def confidence(verdict: Verdict) -> str:
    return f"{100 * verdict.confidence:.4g} %"


def p_words(p: float) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def p_value(p: float) -> str:
    if math.isnan(p):
        return "–"
    return f"{p:.2g}" if p >= 0.0001 else "< 0.0001"
