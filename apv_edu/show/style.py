"""One look for every figure: colours for colour-blind eyes, text that a phone can show."""

from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apv_edu.errors import InputError

COLOURS = {
    "model": "#0072B2",
    "baseline": "#D55E00",
    "second": "#009E73",
    "third": "#CC79A7",
    "light": "#56B4E9",
    "truth": "#000000",
    "muted": "#6B7280",
}
"""Colours by role, after the colour-blind safe palette of Okabe and Ito (2008)."""

LINE_STYLES = ("-", "--", "-.", ":")
"""Use one per curve as well, so that no reader depends on colour alone."""

STYLE: dict[Any, Any] = {
    "figure.figsize": (6.0, 3.6),
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.facecolor": "white",
    "axes.prop_cycle": cycler(
        color=[COLOURS[name] for name in ("model", "baseline", "second", "third", "light", "truth")]
    ),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 14,
    "axes.titlelocation": "left",
    "grid.color": "#E5E7EB",
    "font.size": 13,
    "legend.frameon": False,
    "lines.linewidth": 2.2,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
}
"""Matplotlib settings: at 390 pixels of width the text of a 6 inch figure is 10 pixels high."""


def use_style() -> None:
    """Give all later matplotlib figures of this process the book's look: call it at the top."""
    plt.rcParams.update(STYLE)


def image_axes(
    rows: int = 1, columns: int = 1, *, size: float = 1.5, titles: tuple[str, ...] = ()
) -> tuple[Figure, list[Axes]]:
    """Bare axes for pictures, in reading order: no ticks, no frame, no grid.

    ``size`` is the width and height of a picture in inches; ``titles`` stand above the first ones.

    Raises:
        InputError: for a grid without cells or with more titles than cells.
    """
    if rows < 1 or columns < 1:
        raise InputError(f"A grid of {rows} x {columns} pictures is empty: give at least 1 x 1.")
    if len(titles) > rows * columns:
        raise InputError(
            f"{len(titles)} titles for {rows * columns} pictures: give at most one each."
        )
    with plt.rc_context(STYLE):
        head = 0.35 if titles else 0.0
        figure, grid = plt.subplots(
            rows, columns, figsize=(columns * size, rows * (size + head)), squeeze=False
        )
        axes = list(grid.flat)
        for axis in axes:
            axis.set_axis_off()
        for axis, title in zip(axes, titles, strict=False):
            axis.set_title(title, fontsize=12, loc="center")
    return figure, axes
