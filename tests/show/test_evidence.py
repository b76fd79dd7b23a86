"""Figures of a report: every method is there, in its own look, and no name covers another."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from apv_edu.errors import InputError
from apv_edu.report import Row
from apv_edu.show import COLOURS, evidence

STEPS = (2000, 4000, 6000)
METHODS = ("dreamer", "apv", "naive", "frozen", "no bonus", "other look", "other task", "concat")


def rows_of(suite: str, methods: tuple[str, ...], scale: float, interval: bool = True) -> list[Row]:
    """A report by hand; the methods end close to one another."""
    rows = []
    measure = "success" if scale == 1 else "return"

    def add(method: str, quantity: str, step: float, value: float, baseline: str = "") -> None:
        ends = (value - 0.1 * scale, value + 0.1 * scale) if interval else (None, None)
        row = Row(suite, method, "", quantity, step, value, *ends, 5, "", measure, baseline)
        rows.append(row)

    for k, method in enumerate(methods):
        level = (0.6 + 0.001 * k) * scale
        for step in STEPS:
            add(method, "iqm_curve", step, level * step / STEPS[-1])
        add(method, "iqm_end", STEPS[-1], level)
        for threshold in (0, 0.5 * scale, scale):
            add(method, "profile", threshold, 1 - threshold / scale)
        if k > 0:
            add(method, "probability_of_improvement", STEPS[-1], 0.6, methods[0])
    add("random", "iqm_end", 0, 0.2 * scale)
    return rows


ROWS = rows_of("tabletop", METHODS, 50) + rows_of("metaworld", METHODS[:2], 1)
DRAWN = {
    "curves": evidence.curves,
    "end": evidence.end,
    "profile": evidence.profile,
    "improvement": evidence.improvement,
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def words(figure: Figure, panel: int) -> list[str]:
    figure.canvas.draw()
    axis = figure.axes[panel]
    legend = axis.get_legend()
    texts = [*axis.texts, *axis.get_yticklabels(), *(legend.get_texts() if legend else [])]
    return [text.get_text() for text in texts]


@pytest.mark.parametrize("name", DRAWN)
def test_a_panel_for_each_suite_names_its_methods(name: str):
    figure = DRAWN[name](ROWS)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["Tabletop", "Meta-World"]
    for panel, methods in enumerate((METHODS, METHODS[:2])):
        said = words(figure, panel)
        wanted = methods[1:] if name == "improvement" else methods
        assert set(wanted) <= set(said)
        assert ("random" in said) == (name in ("curves", "end"))
        assert not (set(METHODS) - set(methods)) & set(said)


@pytest.mark.parametrize("name", DRAWN)
def test_nothing_is_cut_off_or_covered(name: str):
    figure = DRAWN[name](ROWS)
    figure.canvas.draw()
    whole = figure.bbox
    for axis in figure.axes:
        boxes = [t.get_window_extent() for t in axis.texts if isinstance(t, Annotation)]
        assert boxes or name == "profile"
        for box in boxes:
            assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0
        for one, other in combinations(boxes, 2):
            assert not one.shrunk(1, 0.9).overlaps(other.shrunk(1, 0.9))


def test_curves_show_the_rows():
    figure = evidence.curves(ROWS)
    axis = figure.axes[1]
    lines = {line.get_color(): line for line in axis.lines if line.get_clip_on()}
    line = lines[COLOURS["baseline"]]
    assert np.asarray(line.get_xdata()).tolist() == list(STEPS)
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert np.asarray(lines[COLOURS["muted"]].get_ydata()).tolist() == [0.2, 0.2]
    band = axis.collections[0].get_paths()[0].vertices
    assert (np.asarray(band)[:, 1].min(), np.asarray(band)[:, 1].max()) == pytest.approx((0.1, 0.7))
    assert axis.get_ylabel() == "success (IQM)"
    assert figure.axes[0].get_ylabel() == "return (IQM)"


def test_a_method_looks_the_same_everywhere_and_unlike_the_others():
    curves, names, profiles = (
        {
            (line.get_color(), line.get_linestyle())
            for line in figure.axes[0].lines
            if line.get_clip_on() is inside
        }
        for figure, inside in (
            (evidence.curves(ROWS), True),
            (evidence.curves(ROWS), False),
            (evidence.profile(ROWS), True),
        )
    )
    assert len(curves) == len(METHODS) + 1
    assert names == curves
    assert len(profiles) == len(METHODS) and profiles < curves


def test_one_run_is_drawn_without_an_interval():
    rows = rows_of("tabletop", METHODS[:3], 50, interval=False)
    for draw in DRAWN.values():
        draw(rows).canvas.draw()


def test_what_is_no_report():
    for draw in DRAWN.values():
        with pytest.raises(InputError, match="pass the rows of a whole report"):
            draw([])


def test_labels_move_no_more_than_they_must():
    assert evidence.spread([0.1, 0.5, 0.9], 0.2) == [0.1, 0.5, 0.9]
    assert evidence.spread([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])
    assert evidence.spread([0.1, 0.5, 0.5, 0.5, 0.6], 0.1) == pytest.approx(
        [0.1, 0.375, 0.475, 0.575, 0.675]
    )
    assert evidence.spread([-0.3, 0.0, 1.0, 1.2], 0.2) == pytest.approx([0.0, 0.2, 0.8, 1.0])
    rng = np.random.default_rng(0)
    for _ in range(20):
        for places in (sorted(rng.random(9)), sorted(0.4 + 0.2 * rng.random(9))):
            moved = evidence.spread(places, 0.08)
            assert np.diff(moved).min() >= 0.08 - 1e-9
            assert moved[0] >= -1e-9 and moved[-1] <= 1 + 1e-9
        assert sum(moved) == pytest.approx(sum(places))  # of those that no end hinders
    crowd = evidence.spread([0.5] * 20, 0.1)  # more than there is room for
    assert np.diff(crowd) == pytest.approx(0.1)


def difference(method: str, value: float, word: str, baseline: str = "apv") -> Row:
    ends = (value - 1, value + 1) if word else (None, None)
    where = ("tabletop", method, "", "difference_auc", None)
    return Row(*where, value, *ends, 5, word, "return", baseline)


DIFFERENCES = [
    difference("naive", -4, "shows the opposite"),
    difference("a method with a rather long name", 3, "shows"),
    difference("no bonus", 0.5, "absent"),
    difference("concat", 2.4, "undecided"),
    difference("other look", 1.5, ""),
    difference("naive", -1, "undecided", baseline="dreamer"),
]


def test_differences_say_what_is_compared_and_how_it_ends():
    figure = evidence.differences(DIFFERENCES, margins={"tabletop": 2.5})
    figure.canvas.draw()
    (axis,) = figure.axes
    names = [f"{row.method}\n− {row.baseline}" for row in DIFFERENCES]
    assert [label.get_text() for label in axis.get_yticklabels()] == names
    words = [text.get_text() for text in axis.texts]
    assert words == [row.verdict or "too few runs" for row in DIFFERENCES]
    assert axis.get_xlabel() == "the area's difference in return (IQM)"
    (band,) = axis.patches
    ends = axis.transData.transform([(-2.5, 0), (2.5, 0)])[:, 0]
    assert band.get_window_extent().intervalx == pytest.approx(ends)
    for box in (text.get_window_extent() for text in [*axis.texts, *axis.get_yticklabels()]):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1


def test_differences_show_the_rows():
    axis = evidence.differences(DIFFERENCES).axes[0]
    points = [line for line in axis.lines if line.get_marker() == "o"]
    bars = [line for line in axis.lines if line.get_linewidth() == 4]
    assert [np.asarray(line.get_xdata())[0] for line in points] == [
        row.value for row in DIFFERENCES
    ]
    known = [[row.low, row.high] for row in DIFFERENCES if row.verdict]
    assert [np.asarray(line.get_xdata()).tolist() for line in bars] == known
    assert [line.get_markerfacecolor() == "none" for line in points] == [
        not row.verdict for row in DIFFERENCES
    ]
    colours = {row.verdict: line.get_color() for row, line in zip(DIFFERENCES, points, strict=True)}
    assert len({colours[word] for word in evidence.VERDICTS}) == 4


def test_no_differences():
    with pytest.raises(InputError, match="pass the rows of a whole report"):
        evidence.differences(ROWS, "difference_end")
