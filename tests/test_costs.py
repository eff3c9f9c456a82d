"""The report of costs: ratios by hand, tables, CSV, and a picture in which no labels overlap."""

import itertools
import math

import pytest

from actsearch.measure.activation_cost import LARGE, ActivationCost, settings
from actsearch.records import Cost
from actsearch.report.costs import (
    cost_figure,
    cost_rows,
    cost_tables,
    failures,
    middle,
    step_rows,
    step_shares,
    step_table,
)

SETTINGS = settings([[100, 64], LARGE], ["float32", "bfloat16"], ["contiguous", "channels_last"], [False, True])
NAMES = ["relu", "leaky_relu6(negative_slope=0.01234)", "gelu", "mish"]
STEPS = {
    "identity": Cost([90.0, 60.0], [1.0, 1.0], 0.5),
    "relu": Cost([100.0, 120.0], [1.0, 1.0], 0.5),
    "gelu": Cost([180.0, 120.0], [1.0, 1.0], 0.75),
}


def made(names=NAMES, factor=3.0):
    return [
        ActivationCost(name, s, [10.0, 20.0, 40.0], [i * factor**i + 1.0] * 3, [9.0, 20.0, 40.0], [1.0] * 3, i * 0.5,
                       name == "relu", 2.5 if s.compiled else None)
        for s in SETTINGS for i, name in enumerate(names)
    ]  # fmt: skip


def test_the_median_and_the_quartiles():
    assert middle([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0)
    assert middle([7.0]) == (7.0, 7.0, 7.0)


def test_ratios_are_taken_within_each_repetition():
    s = SETTINGS[0]
    plain = ([1.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    costs = [ActivationCost("relu", s, [1.0, 2.0, 4.0], [1.0, 1.0, 1.0], *plain, 1.0, True),
             ActivationCost("gelu", s, [3.0, 6.0, 12.0], [1.0, 2.0, 3.0], *plain, 2.0)]  # fmt: skip
    forward, backward, saved = cost_tables(costs)
    assert forward[1] == ["activation", "100×64\nfloat32"]
    assert forward[2] == [["plain relu, µs", "2.0 ± 0.8"], ["relu", "1.00 ± 0.00"], ["gelu", "3.00 ± 0.00"]]
    assert backward[2][2] == ["gelu", "2.00 ± 0.50"]
    assert [row[1] for row in saved[2]] == ["1 (y)", "2"]
    relu, gelu = cost_rows(costs)
    assert (gelu["forward_ratio"], gelu["forward_ratio_q1"], gelu["backward_ratio_q3"]) == ("3", "3", "2.5")
    assert (relu["shape"], relu["saved_mib"], relu["saves_output"], relu["repetitions"]) == ("100x64", "1", True, 3)


def test_every_setting_has_a_column_and_compiling_a_table_of_its_own():
    forward, _, _, compiling = cost_tables(made())
    assert len(forward[1]) == 1 + len(SETTINGS)
    assert all(len(row) == len(forward[1]) for row in forward[2])
    assert len(compiling[1]) == 1 + sum(s.compiled for s in SETTINGS)
    assert compiling[2][1][1:] == ["2.5"] * sum(s.compiled for s in SETTINGS)


def test_what_failed_is_in_the_tables_and_its_reason_is_told_once():
    costs = [c if c.activation != "gelu" or not c.setting.compiled else
             ActivationCost("gelu", c.setting, [], [], failure="no compiler") for c in made()]  # fmt: skip
    for _, heads, rows, _ in cost_tables(costs):
        row = next(row for row in rows if row[0] == "gelu")
        assert [cell == "failed" for cell in row[1:]] == ["compiled" in head for head in heads[1:]]
    assert failures(costs) == [
        "gelu (100 × 64, float32, compiled), gelu (100 × 64, bfloat16, compiled), gelu (16 × 64 × 32 × 32, float32, "
        "compiled) and 3 more: no compiler"
    ]
    row = next(row for row in cost_rows(costs) if row["failure"])
    assert (row["forward_us"], row["backward_ratio"], row["saved_mib"], row["compile_s"]) == ("", "", "", "")


def test_shares_of_a_step():
    assert step_shares(STEPS)["relu"] == pytest.approx([0.1, 0.5])
    title, heads, rows, _ = step_table(STEPS, "mlp")
    assert title.endswith("mlp")
    assert len(heads) == len(rows[0])
    assert rows[0][0] == "identity" and rows[0][3] == ""
    assert rows[2] == ["gelu", "150 µs", "1.40 ± 0.20", "50.0 ± 0.0", "0.75"]
    assert step_rows(STEPS)[1]["share"] == "0.3"


@pytest.mark.parametrize("names", [NAMES, ["relu", "gelu"], ["relu", *(f"elu(alpha={i / 10})" for i in range(1, 25))]])
@pytest.mark.parametrize("factor", [1.0, 1.4])
def test_no_labels_overlap_and_none_is_cut_off(names, factor):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = cost_figure(made(["identity", *names], factor), STEPS)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names  # the identity costs nothing
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    for axes in figure.axes:
        for labels, low, high in ((axes.get_xticklabels(), "x0", "x1"), (axes.get_yticklabels(), "y0", "y1")):
            boxes = [label.get_window_extent(renderer) for label in labels if label.get_text() and label.get_visible()]
            boxes = sorted((box for box in boxes if box.width), key=lambda box: getattr(box, low))
            for a, b in itertools.pairwise(boxes):
                assert getattr(a, high) <= getattr(b, low) + 1
        box = axes.get_tightbbox(renderer)
        assert box.x0 > -2 and box.y0 > -2 and box.x1 < figure.bbox.width + 2 and box.y1 < figure.bbox.height + 2
        assert axes.get_xlabel()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 8  # of the shape that is drawn: dtypes, formats, eager and compiled
    drawn = [v for axes in figure.axes[:2] for line in axes.lines for v in line.get_xdata()]
    assert all(math.isfinite(v) for v in drawn)
