"""The report's figures. Each is drawn by a function that takes a Result; it returns None if there is nothing to show.

The colours are those of Okabe & Ito (2008), which colour-blind people can tell apart; in print without colours, markers
and line styles do.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actsearch.activations.spec import parse_net, resolve
from actsearch.files import whole_file
from actsearch.question.metrics import Metric
from actsearch.records import FinalistRun
from actsearch.report.result import Result
from actsearch.report.sentence import factor, margin, marked, points, times, unit
from actsearch.verdicts.comparison import Comparison
from actsearch.verdicts.statistics import mean, std
from actsearch.verdicts.verdict import BETTER, EQUIVALENT, WORSE, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (9, 3)), (0, (1, 1)))
BASELINE = {"color": "black", "linestyle": (0, (4, 1.5)), "marker": "X"}
MARKS = ("Pareto front", "target accuracy")
MOST_LINES = 6  # as many curves as can be told apart in one panel: the best, and the baseline
MOST_ROWS = 30  # rows that a forest plot shows
DIAGNOSTICS = {
    "dead": "dead units (share)",
    "saturated": "saturated inputs (share)",
    "output_mean": "mean output",
    "output_std": "sd of outputs",
    "output_max": "largest |output|",
}


@dataclass(frozen=True)
class Plot:
    """A figure that has been drawn. name: of its file. title, caption: for the page. svg: its text. png: its file."""

    name: str
    title: str
    caption: str
    svg: str
    png: Path


def write_plots(result: Result) -> list[Plot]:
    """Draws every figure that has something to show, as plots/*.png and as SVG for the page."""
    folder = result.folder / "plots"
    plots = []
    for name, title, draw in FIGURES:
        drawn = draw(result)
        png = folder / f"{name}.png"
        if drawn is None:
            png.unlink(missing_ok=True)
            continue
        figure, caption = drawn
        with whole_file(png) as file:
            figure.savefig(file, format="png", dpi=150)
        text = io.StringIO()
        figure.set_layout_engine("none")  # the layout stays as it is: to solve it again takes a third of the time
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        plots.append(Plot(name, title, caption, _inline(text.getvalue(), name), png))
    return plots


def _inline(svg: str, name: str) -> str:
    """The SVG for a page that has several: its ids get a prefix, so that they differ from those of the others."""
    svg = svg[svg.index("<svg") :]
    for mark in ('id="', 'xlink:href="#', "url(#"):
        svg = svg.replace(mark, f"{mark}{name}-")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)


def new_figure(width: float, height: float) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams.update({
        "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.color": "#dddddd", "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
        "svg.hashsalt": "actsearch",
    })  # fmt: skip
    return Figure(figsize=(width, height), layout="constrained")


def _shown(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The best finalists and the baseline, as many as one panel can show."""
    base = [c for c in comparisons if c.is_baseline]
    others = [c for c in comparisons if not c.is_baseline]
    return [c for c in comparisons if c in (*others[: MOST_LINES - 1], *base)]


def _styles(result: Result) -> dict[str, dict[str, Any]]:
    """The colour, line and marker of each shown finalist, the same in all figures."""
    others = [c.activation for c in _shown(result.comparisons) if not c.is_baseline]
    looks = {name: {"color": COLOURS[i], "linestyle": LINES[i], "marker": MARKERS[i]} for i, name in enumerate(others)}
    return {c.activation: looks.get(c.activation, BASELINE) for c in _shown(result.comparisons)}


def _note(result: Result) -> str:
    n = len(result.comparisons) - len(_shown(result.comparisons))
    return f" The best {MOST_LINES - 1} and the baseline of {len(result.comparisons)} are shown." if n else ""


def log_ticks(axis: Any, low: float, high: float) -> None:
    """Labels a logarithmic axis with plain numbers, as many as fit: matplotlib's own overlap below two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = math.log10(high / low)
    subs = (1.0,) if decades > 2 else (1.0, 3.0) if decades > 1 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _legend(figure: Figure, axes: Axes) -> None:
    """Puts a legend above the panels: the nets in their order, then marked lines such as the Pareto front."""
    pairs = list(zip(*axes.get_legend_handles_labels(), strict=True))
    pairs.sort(key=lambda pair: pair[1] in MARKS)
    handles, labels = zip(*pairs, strict=True)
    figure.legend(handles, labels, loc="outside upper left", ncols=min(3, len(labels)), fontsize=9)


def _axis(metric: Metric) -> str:
    """The label of an axis: the metric with its unit."""
    return metric.words + (f" ({metric.unit})" if metric.unit else "")


def _name(activation: str, width: int = 34) -> str:
    """A net's name, broken into lines: the names of nets with one activation per layer are long."""
    lines, line = [], ""
    for part in activation.split(" | "):
        if line and len(line) + len(part) + 3 > width:
            lines.append(line + " |")
            line = part
        else:
            line = f"{line} | {part}" if line else part
    return "\n".join([*lines, line]).replace("$", r"\$")  # matplotlib reads formulas between two of them


# --- one figure each ------------------------------------------------------------------------------


def forest(result: Result) -> tuple[Figure, str] | None:
    """Differences to the baseline with their intervals, and the margin as a band."""
    rows: list[tuple[str, Verdict]] = []
    for c in result.comparisons:
        if c.verdict is not None:
            rows.append((_name(c.activation), c.verdict))
            rows += [(f"   {times(rate).replace('it', 'the rate')}", v) for rate, v in sorted(c.at_rates.items())]
    n_all = len(rows)
    rows = rows[:MOST_ROWS]
    if not rows:
        return None
    metric = rows[0][1].metric
    shown = factor(metric)
    figure = new_figure(6.5, 1.5 + 0.42 * len(rows) + 0.12 * sum(name.count("\n") for name, _ in rows))
    axes = figure.subplots()
    wide = shown * rows[0][1].margin
    axes.axvspan(-wide, wide, color="#eeeeee", zorder=0, label=f"margin ±{margin(rows[0][1])}")
    axes.axvline(0, color="black", linewidth=1)
    for y, (_, v) in enumerate(rows):
        known = v.verdict.split(",")[0]
        colour, marker = {BETTER: ("#009E73", "o"), WORSE: ("#D55E00", "v"), EQUIVALENT: ("#0072B2", "s")}.get(
            known, ("#666666", "D")
        )
        filled = known in (BETTER, WORSE, EQUIVALENT)
        if not math.isnan(v.population_ci_low):
            ends = [shown * v.population_ci_low, shown * v.population_ci_high]
            axes.plot(ends, [y, y], color=colour, linewidth=1, marker="|", markersize=7)
        if not math.isnan(v.ci_low):
            axes.plot([shown * v.ci_low, shown * v.ci_high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot(
            [shown * v.difference],
            [y],
            marker,
            color=colour,
            markersize=8,
            markerfacecolor=colour if filled else "white",
        )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    base = next(c.activation for c in result.comparisons if c.is_baseline)
    good = "right" if metric.higher_is_better else "left"
    said = "; ".join(filter(None, [unit(metric), f"better is {good}"]))
    axes.set_xlabel(f"{metric.words} ({said})\ndifference to {_name(base)}")
    right = axes.secondary_yaxis("right")
    right.set_yticks(
        range(len(rows)),
        [f"{points(v.metric, v.difference)}  {marked(v).replace(', ', ',' + chr(10))}" for _, v in rows],
    )
    right.tick_params(axis="y", length=0)
    right.spines["right"].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", fontsize=9)
    level = f"{100 * rows[0][1].confidence:.4g} %"
    more = f" The first {MOST_ROWS} of {n_all} are shown." if n_all > MOST_ROWS else ""
    thin = any(not math.isnan(v.population_ci_low) for _, v in rows)
    failed = " *: failed runs are in the means." if any(v.counts_failures for _, v in rows) else ""
    others = " Thin, with ends: on examples like these, where the test examples are chance, too." if thin else ""
    return figure, (
        f"Each line is the {level} interval of the mean difference, corrected for all comparisons.{others} "
        "Circle: better. Triangle: worse. Square: equivalent. Empty diamond: undecided. "
        f"Differences within the grey band are too small to matter.{failed}{more}"
    )


def cost(result: Result) -> tuple[Figure, str] | None:
    """The data set's metric against the time of a training step and of a forward pass, with the Pareto front."""
    known = [c for c in result.comparisons if not math.isnan(c.training_step_us)]
    if len(known) < 2:
        return None
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8.0, 3.9)
    styles, own = _styles(result), result.options.own
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, words in zip(
        panels, ("training_step_us", "latency_us"), ("training step (µs)", "forward pass (µs)"), strict=True
    ):
        for c in known:
            style = styles.get(c.activation, {"color": "#999999", "marker": ".", "linestyle": ""})
            error = 0.0 if math.isnan(c.test_metric_std) else own.scale * c.test_metric_std / math.sqrt(c.n_seeds)
            axes.errorbar(
                getattr(c, key), own.scale * c.test_metric, yerr=error, fmt=style["marker"], color=style["color"],
                markersize=8, capsize=3, linewidth=1, label=_name(c.activation) if c.activation in styles else None,
            )  # fmt: skip
        front = pareto([(getattr(c, key), own.scale * c.test_metric) for c in known], own.higher_is_better)
        axes.step(*zip(*front, strict=True), where="post", color="#888888", linewidth=1, zorder=0, label="Pareto front")
        axes.set_xlabel(words)
        axes.margins(x=0.12, y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    panels[0].set_ylabel(_axis(result.options.own_test))
    _legend(figure, panels[0])
    return figure, (
        f"Left and {'up' if own.higher_is_better else 'down'} is better. No other net is both cheaper "
        f"and better than one on the grey line. Bars: standard error over seeds. Times: of the plain PyTorch net on "
        f"this machine, for one batch.{_note(result)}"
    )


def pareto(at: Sequence[tuple[float, float]], higher_is_better: bool = True) -> list[tuple[float, float]]:
    """Those of the points (cost, quality) that no other point beats in both, sorted by cost."""
    front: list[tuple[float, float]] = []
    sign = 1 if higher_is_better else -1
    for x, y in sorted(at, key=lambda p: (p[0], -sign * p[1])):
        if not front or sign * y > sign * front[-1][1]:
            front.append((x, y))
    return front


def curves(result: Result) -> tuple[Figure, str] | None:
    """The validation metric and loss over the steps, mean and standard deviation over the fresh seeds."""
    if not any(run.curves.steps for run in result.runs):
        return None
    figure = new_figure(8.0, 3.9)
    left, right = figure.subplots(1, 2)
    drawn, own = False, result.options.own_val
    for activation, style in _styles(result).items():
        theirs = _runs(result, activation)
        steps = theirs[0].curves.steps
        drawn |= len(steps) > 1
        marks = {**style, "markersize": 5, "markevery": max(1, len(steps) // 8)}
        for axes, scale, rows in ((left, own.scale, "val_metric"), (right, 1, "val_loss")):
            each = [[scale * getattr(run.curves, rows)[i][0] for run in theirs] for i in range(len(steps))]
            centre, spread = [mean(v) for v in each], [std(v) if len(v) > 1 else 0.0 for v in each]
            axes.plot(steps, centre, label=_name(activation), **marks)
            low, high = ([c + s * d for c, d in zip(centre, spread, strict=True)] for s in (-1, 1))
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.13, linewidth=0)
    if result.target is not None:
        left.axhline(own.scale * result.target, color="#888888", linewidth=1, label="target accuracy")
    left.set_ylabel(_axis(own))
    right.set_ylabel("validation loss")
    for axes in (left, right):
        axes.set_xlabel("step")
    _legend(figure, left)
    return (figure, f"Mean over the fresh seeds; the band is one standard deviation.{_note(result)}") if drawn else None


def _runs(result: Result, activation: str) -> list[FinalistRun]:
    """A finalist's runs at its tuned learning rate."""
    return [run for run in result.runs if run.activation == activation and run.rate == 1.0]


def parameters(result: Result) -> tuple[Figure, str] | None:
    """Each searched parameter against the validation metric of its trials."""
    own = result.options.own_val
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    for record in result.records:
        specs = parse_net(record.activation)
        if record.state != "complete" or len(specs) != 1:
            continue
        at, spread = mean(record.curves.val_metric[-1]), std(record.curves.val_metric[-1])
        for name, value in specs[0].params.items():
            if isinstance(value, float):
                found.setdefault((specs[0].name, name), []).append((value, at, 0.0 if math.isnan(spread) else spread))
    found = {key: rows for key, rows in found.items() if len({value for value, *_ in rows}) > 2}
    if not found:
        return None
    n_columns = 3
    n_rows = math.ceil(len(found) / n_columns)
    figure = new_figure(8.0, 0.4 + 2.3 * n_rows)
    panels = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)
    base = next(c.activation for c in result.comparisons if c.is_baseline)
    home = [own.scale * mean(r.curves.val_metric[-1]) for r in result.records
            if r.activation == base and r.state == "complete"]  # fmt: skip
    for place, axes in enumerate(panels.flat):
        if place >= len(found):
            axes.set_visible(False)
            continue
        (activation, name), rows = list(found.items())[place]
        values, reached, spread = zip(*sorted(rows), strict=True)
        axes.errorbar(
            values, [own.scale * r for r in reached], [own.scale * s for s in spread], fmt="o", markersize=4, capsize=2,
            linewidth=1, color=COLOURS[0],
        )  # fmt: skip
        if home:
            axes.axhline(max(home) if own.higher_is_better else min(home), **{**BASELINE, "marker": None}, linewidth=1)
        param = resolve(activation).param(name)
        if param is not None and param.log and max(values) > 3 * min(values):
            axes.set_xscale("log")
            log_ticks(axes.xaxis, min(values), max(values))
        axes.set_xlabel(f"{activation}: {name}")
        if place % n_columns == 0:
            axes.set_ylabel(_axis(own).replace("validation", "val."))
    line = f" Dashed: {base}." if home else ""
    return figure, f"Each point is a trial, and its bar the standard deviation over the search's seeds.{line}"


def diagnostics(result: Result) -> tuple[Figure, str] | None:
    """Statistics of the finalists' nets after training, by layer: dead units, saturation, outputs, gradient norms."""
    styles = _styles(result)
    last: dict[str, dict[str, list[float]]] = {}
    for activation in styles:
        ends = [run.curves.diagnostics[-1] for run in _runs(result, activation) if run.curves.diagnostics]
        if ends:
            last[activation] = {
                key: [_mean_of(column) for column in zip(*(end[key] for end in ends), strict=True)]
                for key in (*DIAGNOSTICS, "grad_norm")
            }
    if not last:
        return None
    figure = new_figure(8.0, 5.2)
    panels = figure.subplots(2, 3)
    for axes, (key, words) in zip(panels.flat, [*DIAGNOSTICS.items(), ("grad_norm", "gradient norm")], strict=True):
        for activation, values in last.items():
            style = styles[activation]
            axes.plot(range(1, len(values[key]) + 1), values[key], label=_name(activation), **style, markersize=6)
        axes.set_title(words, fontsize=9)
        axes.set_xlabel("weight layer" if key == "grad_norm" else "activation, from the input")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if key in ("dead", "saturated"):
            axes.set_ylim(-0.04, 1.04)
        drawn = [v for values in last.values() for v in values[key]]
        if key == "grad_norm" and min(drawn) > 0:
            axes.set_yscale("log")
            log_ticks(axes.yaxis, min(drawn), max(drawn))
    _legend(figure, panels[0, 0])
    return figure, (
        "At the last step, mean over the fresh seeds, on a batch of validation examples. Dead: a unit whose slope is "
        "below 1e-6 for every example. Saturated: inputs where the slope is below 0.01. Gradient norm: of the last "
        f"step's gradient, layer by layer.{_note(result)}"
    )


def _mean_of(values: Sequence[float]) -> float:
    return mean([v for v in values if not math.isnan(v)])


def shapes(result: Result) -> tuple[Figure, str] | None:
    """The finalists' functions and their derivatives."""
    x = torch.linspace(-5, 5, 1001, dtype=torch.float64, requires_grad=True)
    looks = list(zip(COLOURS, LINES, MARKERS, strict=True))
    seen: list[str] = []
    styles = _styles(result)
    figure = new_figure(8.0, 3.7)
    left, right = figure.subplots(1, 2)
    for c in _shown(result.comparisons) if result.specs else ():
        for spec in parse_net(c.activation):
            if str(spec) in seen or spec.activation.kind != "elementwise" or len(seen) == MOST_LINES:
                continue
            colour, line, marker = looks[len(seen)]
            style = styles.get(str(spec), {"color": colour, "linestyle": line, "marker": marker})
            seen.append(str(spec))
            y = spec.module().double()(x.view(1, -1)).view(-1)
            (slope,) = torch.autograd.grad(y.sum(), x)
            for axes, values in ((left, y), (right, slope)):
                axes.plot(x.tolist(), values.tolist(), label=str(spec), **style, markersize=5, markevery=(60, 125))
    if not seen:
        return None
    left.set_ylabel("f(x)")
    right.set_ylabel("f′(x)")
    for axes in (left, right):
        axes.set_xlabel("x")
        axes.axhline(0, color="#888888", linewidth=0.8, zorder=0)
        axes.axvline(0, color="#888888", linewidth=0.8, zorder=0)
    _legend(figure, left)
    return figure, "Learned parameters at the value from which training starts."


def layers(result: Result) -> tuple[Figure, str] | None:
    """For a search by layer: the mean score of the trials that had a certain activation in a certain layer."""
    cells: dict[tuple[str, int], list[float]] = {}
    own = result.options.own_val
    sign = 1 if own.higher_is_better else -1
    n_layers = max((len(parse_net(r.activation)) for r in result.records), default=1)
    if n_layers == 1:
        return None
    for record in result.records:
        specs = parse_net(record.activation)
        if record.state == "complete":
            for place, spec in enumerate(specs if len(specs) > 1 else specs * n_layers):
                cells.setdefault((spec.name, place), []).append(own.scale * mean(record.curves.val_metric[-1]))
    total = {name: mean([v for (n, _), vs in cells.items() if n == name for v in vs]) for name, _ in cells}
    names = sorted(total, key=lambda name: -sign * total[name])
    figure = new_figure(1.9 + 0.95 * n_layers, 1.3 + 0.42 * len(names))
    axes = figure.subplots()
    grid = [[mean(cells.get((name, place), [])) for place in range(n_layers)] for name in names]
    axes.imshow(grid, cmap="cividis" if own.higher_is_better else "cividis_r", aspect="auto")
    known = [mean(values) for values in cells.values()]
    middle = (min(known) + max(known)) / 2
    for row, name in enumerate(names):
        for place in range(n_layers):
            if values := cells.get((name, place)):
                colour = "white" if sign * grid[row][place] < sign * middle else "black"
                text = f"{mean(values):.{max(1, own.decimals - 1)}f}\n({len(values)})"
                axes.text(place, row, text, ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_xticks(range(n_layers), [str(i + 1) for i in range(n_layers)])
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("activation, from the input")
    axes.grid(visible=False)
    return figure, (
        f"Mean {_axis(own)} of the trials that had this activation in this layer, and how many they "
        "were. Trials were chosen by the search, so a cell with few of them says little."
    )


FIGURES = (
    ("differences", "Differences to the baseline", forest),
    ("cost", "Quality against cost", cost),
    ("curves", "Learning curves", curves),
    ("parameters", "Searched parameters", parameters),
    ("layers", "Layer by layer", layers),
    ("diagnostics", "Inside the nets", diagnostics),
    ("shapes", "The functions and their slopes", shapes),
)
