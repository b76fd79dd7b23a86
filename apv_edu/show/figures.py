"""Figures as one piece of HTML: the picture in the page, and words for those who cannot see it."""

import base64
import html
import io

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML, display
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image

from apv_edu.errors import InputError

PIXEL_RATIO = 2
"""Image pixels per page pixel, so that dense screens show sharp lines."""

PAGE_PIXELS_PER_INCH = 100

CARD = (
    "background:#fff;color:#111;border:1px solid #d0d7de;border-radius:8px;padding:8px;"
    "display:block;width:fit-content;max-width:100%;box-sizing:border-box;margin:0 auto;"
)
"""A light card, the same on a light and on a dark page."""


def figure(fig: Figure, alt: str, caption: str = "") -> None:
    """Display a matplotlib figure, with alternative text, and close it.

    ``alt`` says in a sentence or two what the figure shows; ``caption`` is printed below it.

    Raises:
        InputError: for an empty ``alt`` or for something that is not a matplotlib figure.
    """
    display(HTML(figure_html(fig, alt, caption)))


def figure_html(fig: Figure, alt: str, caption: str = "") -> str:
    """The HTML that :func:`figure` displays; it refers to nothing outside itself.

    Raises:
        InputError: as in :func:`figure`.
    """
    return card(figure_tag(fig, alt), caption)


def figure_tag(fig: Figure, alt: str) -> str:
    """A bare ``<img>`` of a matplotlib figure, which is closed.

    Raises:
        InputError: as in :func:`figure`.
    """
    alt = alternative_text(alt)
    if not isinstance(fig, Figure):
        raise InputError(
            f"{type(fig).__name__} is not a matplotlib figure: pass the figure, not its axes."
        )
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=PIXEL_RATIO * PAGE_PIXELS_PER_INCH)
    plt.close(fig)
    with Image.open(buffer) as picture:
        width, height = (side // PIXEL_RATIO for side in picture.size)
    return image_tag(buffer.getvalue(), alt, width, height)


def picture_tag(picture: UInt8[np.ndarray, "height width 3"], alt: str, scale: int = 1) -> str:
    """A bare ``<img>`` of an RGB array, ``scale`` page pixels for each of its pixels.

    Raises:
        InputError: for an empty ``alt``.
    """
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    height, width = picture.shape[:2]
    return image_tag(buffer.getvalue(), alternative_text(alt), width * scale, height * scale)


def image_tag(png: bytes, alt: str, width: int, height: int) -> str:
    """An ``<img>`` that holds ``png`` and shrinks with the page; sizes in page pixels."""
    data = base64.b64encode(png).decode()
    return (
        f'<img class="dark-light" alt="{html.escape(alt)}" width="{width}" height="{height}" '
        f'style="max-width:100%;height:auto;image-rendering:auto;background:#fff" '
        f'src="data:image/png;base64,{data}">'
    )


def card(content: str, caption: str = "") -> str:
    """``content`` on a light card, with an optional caption below it."""
    words = (
        f'<figcaption style="padding-top:4px;color:#374151">{html.escape(caption)}</figcaption>'
        * bool(caption)
    )
    return f'<figure class="apv-card" style="{CARD}">{content}{words}</figure>'


def alternative_text(alt: str) -> str:
    """``alt`` itself, if it says anything.

    Raises:
        InputError: for an empty or missing text.
    """
    if not isinstance(alt, str) or not alt.strip():
        raise InputError(
            f"The alternative text is {alt!r}: say in one sentence what the picture shows."
        )
    return " ".join(alt.split())
