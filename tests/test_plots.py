"""The report's pictures and page: what is in them, that no labels overlap, that nothing hostile gets through."""

import itertools
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from fake_trainer import confirmation

from actsearch.question.metrics import ACCURACY, PERPLEXITY, PSNR, on_validation
from actsearch.records import Cost, Curves, Evidence, FinalistRun, TrialRecord
from actsearch.report import plots
from actsearch.report.files import leaderboard_rows
from actsearch.report.page import limits, write_page
from actsearch.report.plots import FIGURES, pareto, write_plots
from actsearch.report.result import Result
from actsearch.report.sentence import sentence
from actsearch.study.finalists import as_records
from actsearch.verdicts.comparison import compare_finalists

SETS = {
    "few": ["gelu", "leaky_relu(negative_slope=0.02)", "relu"],
    "many": ["relu", *(f"elu(alpha={0.1 + i / 7:.4g})" for i in range(24))],
    "layers": ["gelu | tanh | leaky_relu6(negative_slope=0.01234)", "relu | relu | softmax", "relu"],
    "channelwise": ["softmax", "relu"],
    "long": ["leaky_relu(negative_slope=0.01)", "leaky_relu6(negative_slope=0.008649)"],
    "alone": ["relu"],
}


def inside(rng, n_layers=3):
    layers = {key: rng.random(n_layers).tolist() for key in plots.DIAGNOSTICS}
    if rng.random() < 0.3:
        layers["dead"] = [math.nan] * n_layers
    return [
        {"step": step, **layers, "grad_norm": (10 ** rng.normal(-3, 2, n_layers + 1)).tolist()} for step in (10, 40)
    ]


def curves(rng, level, with_inside=True):
    rise = [level * (1 - 0.5**i) for i in range(1, 5)]
    noisy = [[v + 0.01 * rng.normal()] for v in rise]
    return Curves([10, 20, 30, 40], noisy, [[2 - v] for (v,) in noisy], noisy, 0, inside(rng) if with_inside else [])


def made(names, folder, searched=True, seeds=8, with_costs=True, own=ACCURACY, **options):
    """A result of these finalists; of its trials too, with parameters over three decades."""
    rng = np.random.default_rng(len(names))
    if "relu" not in names:
        options |= {"baseline": names[0], "metric": "learning_speed"}
    runs = [
        FinalistRun(name, {}, 1000 + seed, level + 0.01 * rng.normal(), 1.0 + 0.01 * rng.normal(), False,
                    curves(rng, level))
        for name, level in zip(names, 0.6 + 0.02 * rng.random(len(names)), strict=True)
        for seed in range(seeds)
    ]  # fmt: skip
    target = None
    if options.get("metric") == "learning_speed":
        runs += [replace(r, rate=rate, recipe={"lr": rate}) for rate in (1 / 3, 3.0) for r in runs]
        target = 0.5
    slopes = [f"leaky_relu(negative_slope={v:.4g})" for v in np.geomspace(0.001, 0.5, 9)]
    betas = [f"silu(beta={v:.4g})" for v in np.geomspace(0.8, 1.9, 6)]
    records = [
        TrialRecord(i, name, {}, "complete", [0.5], curves(rng, 0.5 + i / 100, with_inside=False))
        for i, name in enumerate([*names, *slopes, *betas])
    ]
    chosen = confirmation(own, seeds=seeds, **options)
    costs = {name: Cost((40 + 5 * rng.random(6)).tolist(), (9 + rng.random(6)).tolist()) for name in names}
    found = compare_finalists(Evidence(runs, target, costs if with_costs else {}), chosen)
    rows = leaderboard_rows(
        records if searched else as_records(runs, f"val_{own.name}"), [f"val_{own.name}"], on_validation(own)
    )
    return Result(
        name="s", rows=rows, records=records if searched else [], comparisons=found, runs=runs,
        summary=sentence(found, "digits's test set", chosen), folder=folder, test_name="digits's test set",
        searched=searched, objective=f"val_{own.name}", options=chosen, n_test=360, target=target,
        about={"model": "mlp, 9 parameters", "command": "actsearch"}, config_yaml="a: 1\n",
    )  # fmt: skip


@pytest.fixture(scope="module", params=SETS)
def result(request, tmp_path_factory):
    return made(SETS[request.param], tmp_path_factory.mktemp(request.param))


def drawn(result):
    return {name: found[0] for name, _, draw in FIGURES if (found := draw(result)) is not None}


# --- pictures -------------------------------------------------------------------------------------


def test_no_labels_overlap_and_none_is_cut_off(result):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for name, figure in drawn(result).items():
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        width, height = figure.bbox.width, figure.bbox.height
        for axes in figure.axes:
            if not axes.get_visible():
                continue
            for labels, low, high in ((axes.get_xticklabels(), "x0", "x1"), (axes.get_yticklabels(), "y0", "y1")):
                shown = [label.get_window_extent(renderer) for label in labels if label.get_text()]
                boxes = sorted((box for box in shown if box.width), key=lambda box: getattr(box, low))
                for a, b in itertools.pairwise(boxes):
                    assert getattr(a, high) <= getattr(b, low) + 1, (name, [label.get_text() for label in labels])
            box = axes.get_tightbbox(renderer)
            assert box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2, name


def test_every_axis_says_what_it_is(result):
    for name, figure in drawn(result).items():
        for axes in figure.axes:
            if axes.get_visible():
                assert axes.get_xlabel(), name
        left = next(axes for axes in figure.axes if axes.get_visible())
        assert left.get_ylabel() or left.get_title() or name in ("differences", "layers"), name


def test_where_less_is_better_the_pictures_say_so(tmp_path):
    """The same numbers as accuracies and as perplexities: what led is then last."""
    result = made(SETS["layers"], tmp_path, own=PERPLEXITY)
    figures = drawn(result)
    assert "better is left" in figures["differences"].axes[0].get_xlabel()
    assert figures["cost"].axes[0].get_ylabel() == "test perplexity"
    assert (
        "Left and down is better" in dict((name, draw(result)[1]) for name, _, draw in FIGURES if draw(result))["cost"]
    )
    assert figures["curves"].axes[0].get_ylabel() == "validation perplexity"
    names = lambda r: [t.get_text() for t in drawn(r)["layers"].axes[0].get_yticklabels()]  # noqa: E731
    led = names(made(SETS["layers"], tmp_path))
    assert (names(result)[0], names(result)[-1]) == (led[-1], led[0])
    means = [c.mean for c in result.comparisons]
    assert means == sorted(means)
    decibels = drawn(made(SETS["few"], tmp_path, own=PSNR))["differences"].axes[0]
    assert "PSNR (dB; better is right)" in decibels.get_xlabel()


def test_what_has_nothing_to_show_is_not_drawn(tmp_path):
    alone = made(["relu"], tmp_path, searched=False, with_costs=False)
    for run in alone.runs:
        run.curves.diagnostics = []
    assert set(drawn(alone)) == {"curves", "shapes"}
    layers = drawn(made(SETS["layers"], tmp_path))
    assert set(layers) == {"differences", "cost", "curves", "parameters", "layers", "diagnostics", "shapes"}
    assert "layers" not in drawn(made(SETS["few"], tmp_path))


def test_the_forest_has_every_difference_its_interval_and_the_margin(tmp_path):
    result = made(SETS["few"], tmp_path, margin={"test_accuracy": 0.02})
    (axes,) = drawn(result)["differences"].axes
    lines = [line.get_xdata() for line in axes.lines]
    for c in result.comparisons:
        if c.verdict is not None:
            assert any(np.allclose(x, [100 * c.verdict.ci_low, 100 * c.verdict.ci_high]) for x in lines if len(x) == 2)
            assert any(np.allclose(x, [100 * c.verdict.difference]) for x in lines if len(x) == 1)
    (band,) = axes.patches
    assert (band.get_x(), band.get_width()) == (pytest.approx(-2.0), pytest.approx(4.0))


def test_the_pareto_front_by_hand():
    assert pareto([(1, 5), (2, 4), (3, 7), (3, 6), (4, 7), (0.5, 1)]) == [(0.5, 1), (1, 5), (3, 7)]


def test_looks_differ_in_grey_too():
    greys = {(str(line), marker) for line, marker in zip(plots.LINES, plots.MARKERS, strict=True)}
    assert len(greys) == len(plots.COLOURS) == plots.MOST_LINES
    assert plots.BASELINE["marker"] not in plots.MARKERS


def test_pictures_are_files_and_a_picture_that_went_is_removed(tmp_path):
    result = made(SETS["few"], tmp_path)
    made_now = write_plots(result)
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {f"{plot.name}.png" for plot in made_now}
    assert all(plot.png.read_bytes()[:4] == b"\x89PNG" for plot in made_now)
    result.records.clear()
    write_plots(result)
    assert not (tmp_path / "plots" / "parameters.png").exists()


# --- the page -------------------------------------------------------------------------------------


class Seen(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.tags, self.text, self.links = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href", "xlink:href", "action"):
                self.links.append(value)

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_one_file_with_the_verdict_first(result):
    text = write_page(result, write_plots(result)).read_text()
    seen = Seen(text)
    assert len(set(seen.ids)) == len(seen.ids)
    assert all(link.startswith(("#", "data:")) for link in seen.links)
    assert not re.search(r"@import|url\((?!#)", text)
    words = "".join(seen.text)
    order = [
        "Finalists",
        "Properties of the activations",
        "Every candidate",
        "How to reproduce it",
        "What this does not say",
    ]
    places = [words.index(word) for word in (result.summary.split(". ")[0], *order)]
    assert places == sorted(places)
    for c in result.comparisons:
        assert c.activation in words
    assert "nan" not in re.sub(r"\w*nan\w+|\w+nan\w*", "", words).split()
    assert seen.tags.count("svg") == len(drawn(result))


def test_the_page_says_what_each_finalists_activation_is_like(tmp_path):
    text = write_page(made(SETS["layers"], tmp_path), []).read_text()
    part = text[text.index("Properties of the activations") : text.index("Every candidate")]
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in part.split("<tr>")]
    ranges = {row[0]: row[1] for row in rows if row and row[1][:1] in ("[", "(", "")}
    assert ranges == {
        "gelu": "[-0.17, ∞)", "tanh": "(-1, 1)", "leaky_relu6(negative_slope=0.01234)": "(-∞, 6]", "relu": "[0, ∞)",
        "softmax": "",
    }  # fmt: skip


def test_names_cannot_write_the_page(tmp_path):
    result = made(SETS["few"], tmp_path)
    result.test_name = "<script>alert(1)</script>'s test set"
    result.about = {"model": "<img src=x onerror=alert(2)>", "command": "</pre><script>alert(3)</script>"}
    result.config_yaml = "</pre><script>alert(4)</script>"
    result.rows[0]["activation"] = "<b>bold</b>"
    text = write_page(result, []).read_text()
    assert Seen(text).tags.count("script") == 1
    assert "img" not in Seen(text).tags
    assert "<b>bold" not in text


def test_the_limits_name_what_was_tried_the_test_set_and_the_smallest_effect(tmp_path):
    result = made(SETS["few"], tmp_path)
    said = " ".join(limits(result))
    assert f"{len(result.records)} candidates were tried" in said
    assert "The 360 test examples are a sample, too" in said and "is not known here" in said
    worst = max(c.verdict.minimum_detectable_effect for c in result.comparisons if c.verdict)
    assert f"a true difference of {100 * worst:.2f} points is found in 80 %" in said


def test_a_front_of_what_should_be_small():
    assert pareto([(1, 5.0), (2, 6.0), (3, 4.0), (3, 4.5)], higher_is_better=False) == [(1, 5.0), (3, 4.0)]
