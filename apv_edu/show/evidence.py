"""Figures of a report: learning curves, ends with intervals, profiles, and who beats whom."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from apv_edu.errors import InputError
from apv_edu.report import BASELINES, Row
from apv_edu.scores import RANDOM
from apv_edu.show.style import COLOURS, LINE_STYLES, STYLE

TITLES = {"metaworld": "Meta-World", "dmc": "DeepMind Control Suite", "tabletop": "Tabletop"}
WIDTH = 6.0
Looks = dict[str, dict[str, Any]]
"""Colour and line of each method."""
SMALL = 11
"""Size of the names beside the curves."""
QUANTITIES = {"difference_auc": "the area's", "difference_end": "the end's"}
VERDICTS = {
    "shows": "model",
    "shows the opposite": "baseline",
    "absent": "truth",
    "undecided": "muted",
}
"""The colour of each word of ``apv_edu.statistics.verdict``."""


def curves(rows: Sequence[Row]) -> Figure:
    """Interquartile mean over environment steps with its band, a panel for each suite.

    Each curve has its method's name at its end; the random policy is a thin dotted line.

    Raises:
        InputError: when no row is of a curve.
    """

    def draw(axis: Axes, chosen: list[Row], looks: Looks) -> None:
        ends: dict[str, float] = {}
        for method, points in _by_method(chosen, "iqm_curve"):
            steps, values = _at(points), [row.value for row in points]
            low, high = _ends(points)
            mark = "o" if len(points) == 1 else ""
            axis.plot(steps, values, marker=mark, **looks[method])
            axis.fill_between(steps, low, high, color=looks[method]["color"], alpha=0.15, lw=0)
            ends[method] = values[-1]
        for method, (row, *_) in _by_method(chosen, "iqm_end"):
            if method == RANDOM:
                axis.axhline(row.value, **looks[RANDOM], linewidth=1.2)
                ends[method] = row.value
        axis.set_xlabel("environment steps")
        axis.set_ylabel(f"{chosen[0].measure} (IQM)")
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
        _name_beside(axis, ends, looks)

    wanted = ("iqm_curve", "iqm_end")
    _some(rows, "iqm_curve")
    return _panels(rows, wanted, draw, _room)


def end(rows: Sequence[Row]) -> Figure:
    """Interquartile mean of the last evaluation with its interval, a line for each method.

    Raises:
        InputError: when no row is of an end.
    """
    return _intervals(rows, "iqm_end", lambda row: f"{row.measure} at the end (IQM)")


def improvement(rows: Sequence[Row]) -> Figure:
    """Probability that a run of a method ends above a run of the baseline; 0.5 is a draw.

    Raises:
        InputError: when no row is of such a probability.
    """
    return _intervals(
        rows,
        "probability_of_improvement",
        lambda row: f"P(a run ends above one of {row.baseline})",
        middle=0.5,
    )


def profile(rows: Sequence[Row]) -> Figure:
    """Performance profile at the end: the share of runs above each threshold, with its band.

    Raises:
        InputError: when no row is of a profile.
    """

    def draw(axis: Axes, chosen: list[Row], looks: Looks) -> None:
        for method, points in _by_method(chosen, "profile"):
            steps = _at(points)
            axis.step(steps, [row.value for row in points], where="post", **looks[method])
            low, high = _ends(points)
            colour = looks[method]["color"]
            axis.fill_between(steps, low, high, step="post", color=colour, alpha=0.15, lw=0)
        axis.set_xlabel(f"{chosen[0].measure} at the end")
        axis.set_ylabel("share of runs above")
        axis.set_ylim(0, 1.02)
        axis.set_xlim(0, 1.02 * _at(chosen).max())
        lines = [axis.plot([], [], **looks[name], label=name)[0] for name in _methods(chosen)]
        axis.legend(
            handles=lines, loc="upper left", bbox_to_anchor=(1.0, 1.03), fontsize=SMALL,
            handlelength=1.8,
        )  # fmt: skip

    return _panels(rows, ("profile",), draw, _room)


def differences(
    rows: Sequence[Row],
    quantity: Literal["difference_auc", "difference_end"] = "difference_auc",
    margins: Mapping[str, float] | None = None,
) -> Figure:
    """Differences with intervals, a line for each comparison, and the word that each ends with.

    ``margins`` has for a suite how much is as good as none, drawn as a band around 0. A comparison
    without an interval is a hollow point.

    Raises:
        InputError: when no row is of such a difference.
    """

    def draw(axis: Axes, chosen: list[Row], looks: Looks) -> None:
        margin = (margins or {}).get(chosen[0].suite, 0.0)
        axis.axvspan(-margin, margin, color=COLOURS["muted"], alpha=0.18, lw=0)
        axis.axvline(0, color=COLOURS["muted"], linewidth=1.2)
        for place, row in enumerate(chosen):
            colour = COLOURS[VERDICTS.get(row.verdict, "muted")]
            if row.low is not None and row.high is not None:
                _bar(axis, row.low, row.high, place, colour)
            face = "none" if row.low is None else colour
            axis.plot(row.value, place, "o", color=colour, markerfacecolor=face, markersize=6)
            axis.annotate(
                row.verdict or "too few runs", (1.02, place), color=colour, va="center",
                xycoords=axis.get_yaxis_transform(), fontsize=SMALL,
            )  # fmt: skip
        names = [f"{row.method}\n− {row.baseline}" for row in chosen]
        axis.set_yticks(range(len(chosen)), names, fontsize=SMALL)
        axis.set_ylim(len(chosen) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
        axis.locator_params(axis="x", nbins=5)
        axis.set_xlabel(f"{QUANTITIES[quantity]} difference in {chosen[0].measure} (IQM)")

    return _panels(rows, (quantity,), draw, lambda rows: 0.5 * len(rows) + 1.1)


def _intervals(
    rows: Sequence[Row], quantity: str, label: Callable[[Row], str], middle: float | None = None
) -> Figure:
    """Points with intervals, a line for each method from the top, with the number beside it."""

    def draw(axis: Axes, chosen: list[Row], looks: Looks) -> None:
        if middle is not None:
            axis.axvline(middle, color=COLOURS["muted"], linewidth=1.2)
        for place, row in enumerate(chosen):
            colour = looks[row.method]["color"]
            low, high = _ends([row])
            _bar(axis, low[0], high[0], place, colour)
            axis.plot(row.value, place, "o", color=colour, markersize=6)
            axis.annotate(
                f"{float(f'{row.value:.3g}'):g}", (1.02, place), color=colour, va="center",
                xycoords=axis.get_yaxis_transform(), fontsize=SMALL,
            )  # fmt: skip
        axis.set_yticks(range(len(chosen)), [row.method for row in chosen])
        axis.set_ylim(len(chosen) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(label(chosen[0]))
        left, right = min(_ends(chosen)[0]), axis.get_xlim()[1]
        share = middle is not None or chosen[0].measure == "success"
        axis.set_xlim(min(0, left), 1.02 if share else right)

    return _panels(rows, (quantity,), draw, lambda rows: 0.34 * len(rows) + 1.1)


def _bar(axis: Axes, low: float, high: float, place: float, colour: str) -> None:
    axis.plot([low, high], [place, place], color=colour, lw=4, alpha=0.45, solid_capstyle="butt")


def _room(rows: Sequence[Row]) -> float:
    """Inches that curves need, so that the names fit beside them."""
    return max(3.2, 0.26 * len(_methods(rows)) + 0.9)


def _panels(
    rows: Sequence[Row],
    quantities: tuple[str, ...],
    draw: Callable[[Axes, list[Row], Looks], None],
    height: Callable[[list[Row]], float],
) -> Figure:
    """A figure with a panel for each suite below the other, each as high as its rows need."""
    chosen = _some(rows, *quantities)
    suites = list(dict.fromkeys(row.suite for row in chosen))
    looks = _looks(rows)
    groups = [[row for row in chosen if row.suite == suite] for suite in suites]
    heights = [height(group) for group in groups]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            len(suites), figsize=(WIDTH, sum(heights)), height_ratios=heights, squeeze=False
        )
        for suite, group, axis in zip(suites, groups, grid.flat, strict=True):
            axis.set_title(TITLES.get(suite, suite))
            draw(axis, group, looks)
    return figure


def _some(rows: Sequence[Row], *quantities: str) -> list[Row]:
    chosen = [row for row in rows if row.quantity in quantities]
    if not chosen:
        raise InputError(f"No row is of {quantities[0]}: pass the rows of a whole report.")
    return chosen


def _methods(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.method for row in rows))


def _by_method(rows: Sequence[Row], quantity: str) -> Iterator[tuple[str, list[Row]]]:
    """Each method with its rows of a quantity, those over all tasks."""
    for method in _methods(rows):
        points = [r for r in rows if (r.method, r.quantity, r.task) == (method, quantity, "")]
        if points:
            yield method, points


def _at(rows: Sequence[Row]) -> np.ndarray:
    """Steps or thresholds."""
    return np.array([row.env_step for row in rows], float)


def _ends(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Low and high ends; the value itself where there is no interval."""
    low = [row.value if row.low is None else row.low for row in rows]
    return low, [row.value if row.high is None else row.high for row in rows]


def _looks(rows: Sequence[Row]) -> Looks:
    """Colour and line of each method: the same in all suites and figures of a report."""
    baselines = {row.baseline for row in rows if row.baseline} or set(BASELINES)
    looks = {RANDOM: {"color": COLOURS["muted"], "linestyle": ":"}}
    names = ("model", "second", "third", "light", "truth")
    others = 0
    for method in _methods(rows):
        if method in baselines:
            looks[method] = {"color": COLOURS["baseline"], "linestyle": "--"}
        elif method != RANDOM:
            style = LINE_STYLES[others // len(names) % len(LINE_STYLES)]
            looks[method] = {"color": COLOURS[names[others % len(names)]], "linestyle": style}
            others += 1
    return looks


def _name_beside(axis: Axes, ends: dict[str, float], looks: Looks) -> None:
    """Write names at the right, each at its curve's end or as near as its neighbours allow."""
    low, high = axis.get_ylim()
    inches = axis.get_window_extent().height / axis.figure.dpi
    line = 1.3 * SMALL / 72 / inches
    names = sorted(ends, key=lambda name: ends[name])
    shares = [(ends[name] - low) / (high - low) for name in names]
    for name, share in zip(names, spread(shares, line), strict=True):
        where: dict[str, Any] = {"transform": axis.transAxes, "clip_on": False}
        axis.add_artist(Line2D([1.02, 1.1], [share, share], **where, **looks[name]))
        axis.annotate(
            name, (1.12, share), xycoords="axes fraction", va="center", fontsize=SMALL,
            color=looks[name]["color"],
        )  # fmt: skip


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Rising ``places`` moved as little as need be, so that neighbours are ``apart`` from 0 to 1.

    Places that would touch form a block around the mean of where they want to be.
    """

    def middle(block: tuple[float, int]) -> float:
        wish, count = block
        half = apart * (count - 1) / 2
        return max(min(wish, 1 - half), min(half, 0.5))

    blocks: list[tuple[float, int]] = []  # of each: the mean of its wishes, and its size
    for place in places:
        blocks.append((place, 1))
        while len(blocks) > 1:
            (below, few), (above, more) = blocks[-2:]
            if middle(blocks[-1]) - middle(blocks[-2]) >= apart * (few + more) / 2:
                break
            blocks[-2:] = [((below * few + above * more) / (few + more), few + more)]
    return [
        middle(block) + apart * (k - (block[1] - 1) / 2)
        for block in blocks
        for k in range(block[1])
    ]
