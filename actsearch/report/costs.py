"""What activations cost by themselves and in a training step: tables, rows of CSV, a figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from actsearch.measure.activation_cost import ActivationCost, Setting
from actsearch.records import Cost
from actsearch.report.plots import COLOURS, MARKERS, log_ticks, new_figure
from actsearch.report.sentence import microseconds
from actsearch.report.tables import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOME = "relu"  # the activation that all are compared with
NOTHING = "identity"  # a net with it has no activations
TIMES = (
    "Multiples of the time of a plain relu, not compiled, on the same tensors. The two are measured in turns, on a CPU "
    "with one thread. Median ± half the interquartile range."
)
PLAIN = "plain relu, µs"
SAVED = "What the forward pass keeps for the backward pass. (y): only the output, which the next layer keeps anyway."
STEP = (
    "A training step of the whole net, in plain PyTorch. Share: the part of its time that the identity in place of the "
    "activation would save. Saved: what the whole forward pass keeps for the backward pass, without the parameters."
)
Table = tuple[str, Row, list[Row], str]
"""(title, headings, rows, legend)"""


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """The median, the lower and the upper quartile."""
    low, centre, high = statistics.quantiles(values, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return centre, low, high


def ratios(mine: Sequence[float], others: Sequence[float]) -> list[float]:
    """mine / others, repetition by repetition."""
    return [a / b for a, b in zip(mine, others, strict=True)]


def cost_tables(costs: Sequence[ActivationCost]) -> list[Table]:
    """Tables of activations by themselves: forward, backward, saved memory, compiling. Each setting has a column."""
    settings = list(dict.fromkeys(c.setting for c in costs))
    names = list(dict.fromkeys(c.activation for c in costs))
    found = {(c.activation, c.setting): c for c in costs}

    def table(title: str, cell: Callable[[ActivationCost], str], legend: str, columns: Sequence[Setting]) -> Table:
        heads = ["activation", *(str(setting).replace(", ", "\n").replace(" × ", "×") for setting in columns)]
        return title, heads, [[name, *(cell(found[name, s]) for s in columns)] for name in names], legend

    first = {c.setting: c for c in reversed(costs)}
    tables = []
    for title, part in (("Forward", "forward_us"), ("Backward", "backward_us")):
        _, heads, rows, _ = table(title, lambda c, part=part: _time(c, part), TIMES, settings)
        plain = [_plus_minus(getattr(first[s], f"relu_{part}"), 1) for s in settings]
        tables.append((title, heads, [[PLAIN, *plain], *rows], TIMES))
    tables.append(table("Saved, MiB", _saved, SAVED, settings))
    if compiled := [s for s in settings if s.compiled]:
        tables.append(table("Compiling, s", _compiling, "The first forward and backward pass, no cache.", compiled))
    return tables


def _time(cost: ActivationCost, part: str) -> str:
    return "failed" if cost.failure else _plus_minus(in_relus(cost, part), 2)


def in_relus(cost: ActivationCost, part: str) -> list[float]:
    """The times of an activation as multiples of plain relu's. part: forward_us or backward_us."""
    return ratios(getattr(cost, part), getattr(cost, f"relu_{part}"))


def _plus_minus(values: Sequence[float], digits: int) -> str:
    centre, low, high = middle(values)
    digits = 0 if centre >= 100 else digits
    return f"{centre:,.{digits}f} ± {(high - low) / 2:,.{digits}f}"


def _saved(cost: ActivationCost) -> str:
    return "failed" if cost.failure else f"{cost.saved_mib:.3g}{' (y)' if cost.saves_output else ''}"


def _compiling(cost: ActivationCost) -> str:
    return "failed" if cost.compile_s is None else f"{cost.compile_s:.1f}"


def failures(costs: Sequence[ActivationCost]) -> list[str]:
    """One line for each reason why something could not be measured: what it concerns, and the reason."""
    reasons: dict[str, dict[str, None]] = {}
    for c in costs:
        if c.failure:
            reasons.setdefault(c.failure, {})[f"{c.activation} ({c.setting})"] = None
    return [
        f"{', '.join(list(who)[:3])}{f' and {len(who) - 3} more' if len(who) > 3 else ''}: {why}"
        for why, who in reasons.items()
    ]


def step_shares(steps: Mapping[str, Cost]) -> dict[str, list[float]]:
    """By activation, the share of a training step's time that it takes: one value per repetition."""
    nothing = steps[NOTHING].training_step_us
    return {
        name: [1 - share for share in ratios(nothing, cost.training_step_us)] for name, cost in steps.items()
    }  # fmt: skip


def step_table(steps: Mapping[str, Cost], model: str) -> Table:
    """The table of training steps. steps: by activation, measured in turns, with the identity and relu among them."""
    heads = ["activation", "training step", "in relu's", "share of it (%)", "saved, MiB"]
    shares, rows = step_shares(steps), []
    for name, cost in steps.items():
        centre, low, high = middle(ratios(cost.training_step_us, steps[HOME].training_step_us))
        share, least, most = middle([100 * v for v in shares[name]])
        rows.append(
            [name, microseconds(middle(cost.training_step_us)[0]),
             f"{centre:.2f} ± {(high - low) / 2:.2f}",
             "" if name == NOTHING else f"{share:.1f} ± {(most - least) / 2:.1f}", f"{cost.saved_mib:.3g}"]
        )  # fmt: skip
    return f"In a training step of {model}", heads, rows, STEP


def cost_rows(costs: Sequence[ActivationCost]) -> list[dict[str, Any]]:
    """Rows of cost.csv: one for each activation and setting."""
    rows = []
    for c in costs:
        row: dict[str, Any] = {"activation": c.activation, **_setting_cells(c.setting)}
        for part in ("forward_us", "backward_us"):
            own = getattr(c, part)
            for name, numbers in ((part, own), (part.replace("_us", "_ratio"), in_relus(c, part) if own else [])):
                cells = middle(numbers) if numbers else ("", "", "")
                row |= dict(zip((name, f"{name}_q1", f"{name}_q3"), map(_cell, cells), strict=True))
        row |= {
            "saved_mib": _cell(c.saved_mib), "saves_output": c.saves_output, "compile_s": _cell(c.compile_s),
            "repetitions": len(c.forward_us), "failure": c.failure,
        }  # fmt: skip
        rows.append(row)
    return rows


def step_rows(steps: Mapping[str, Cost]) -> list[dict[str, Any]]:
    """Rows of training_step.csv: one for each activation."""
    shares, rows = step_shares(steps), []
    for name, cost in steps.items():
        row: dict[str, Any] = {"activation": name}
        ratio = ratios(cost.training_step_us, steps[HOME].training_step_us)
        parts = {"training_step_us": cost.training_step_us, "training_step_ratio": ratio, "share": shares[name]}
        for part, numbers in parts.items():
            row |= dict(zip((part, f"{part}_q1", f"{part}_q3"), map(_cell, middle(numbers)), strict=True))
        rows.append({**row, "saved_mib": _cell(cost.saved_mib), "repetitions": len(cost.training_step_us)})
    return rows


def _setting_cells(setting: Setting) -> dict[str, Any]:
    return {
        "shape": "x".join(map(str, setting.shape)), "dtype": setting.dtype, "memory_format": setting.memory_format,
        "compiled": setting.compiled,
    }  # fmt: skip


def _cell(number: Any) -> str:
    return "" if number in (None, "") or math.isnan(number) else f"{number:.6g}"


def cost_figure(costs: Sequence[ActivationCost], steps: Mapping[str, Cost]) -> Figure:
    """Forward and backward times relative to relu for the last shape measured, and shares of a training step."""
    shape = costs[-1].setting.shape
    here = [c for c in costs if c.setting.shape == shape and not c.failure]
    names = list(dict.fromkeys(c.activation for c in costs if c.activation != NOTHING))
    kinds = list(dict.fromkeys((c.setting.dtype, c.setting.memory_format) for c in here))
    settings = list(dict.fromkeys(c.setting for c in here))
    figure = new_figure(10.5, 1.9 + 0.2 * len(names) + 0.05 * len(names) * len(settings))
    panels = figure.subplots(1, 3, sharey=True)
    for axes, part, words in zip(panels, ("forward_us", "backward_us"), ("forward", "backward"), strict=False):
        drawn = []
        for i, setting in enumerate(settings):
            look = kinds.index((setting.dtype, setting.memory_format))
            label = str(setting).partition(", ")[2]
            for c in here:
                if c.setting != setting or c.activation == NOTHING:
                    continue
                centre, low, high = middle(in_relus(c, part))
                aside = 0.6 * (i - (len(settings) - 1) / 2) / max(1, len(settings))
                axes.errorbar(
                    centre, names.index(c.activation) + aside, xerr=[[centre - low], [high - centre]],
                    fmt=MARKERS[look % len(MARKERS)], color=COLOURS[look % len(COLOURS)], markersize=5, linewidth=1,
                    markerfacecolor="white" if setting.compiled else COLOURS[look % len(COLOURS)], label=label,
                )  # fmt: skip
                drawn += [low, high]
                label = None
        axes.axvline(1, color="black", linewidth=1)
        if drawn:
            axes.set_xscale("log")
            low, high = min(0.9, *drawn) / 1.2, max(1.1, *drawn) * 1.2
            axes.set_xlim(low, high)
            log_ticks(axes.xaxis, low, high)
        axes.set_xlabel(f"{words} (plain relu = 1)")
    shares = step_shares(steps)
    known = [name for name in names if name in shares]
    for name in known:
        centre, low, high = middle([100 * share for share in shares[name]])
        panels[2].errorbar(
            centre, names.index(name), xerr=[[centre - low], [high - centre]], fmt="o", color="black", markersize=5,
            linewidth=1,
        )  # fmt: skip
    panels[2].axvline(100 * middle(shares[HOME])[0], color="black", linewidth=1)
    panels[2].set_xlabel("share of a training step (%)\nline: relu's")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        title = f"tensors of {' × '.join(map(str, shape))}"
        figure.legend(handles, labels, loc="outside upper left", ncols=4, fontsize=9, title=title, alignment="left")
    return figure
