"""One picture, several settings: live widgets in a notebook, a self-contained player in a page."""

import html
import itertools
import math
import os
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import ipywidgets
import numpy as np
from IPython.display import HTML, display
from matplotlib.figure import Figure

from apv_edu.errors import InputError
from apv_edu.show.figures import alternative_text, card, figure_tag, picture_tag
from apv_edu.show.videos import PAGE_WIDTH, as_uint8, video_tag

MOST_PICTURES = 64
"""Pictures a static player may hold: each is some tens of kilobytes of the page."""

STATIC = "APV_STATIC"
"""Environment variable: ``1`` while a book is built, when no kernel will answer the page later."""


def explore(draw: Callable[..., Any], alt: str, **choices: Sequence[Any]) -> None:
    """Display ``draw(**values)`` with a control for each name in ``choices``.

    ``draw`` returns a matplotlib figure, an RGB picture (height, width, 3) or frames (time, height,
    width, 3). Numbers get a slider, all else a list. In ``alt``, ``{name}`` stands for the value
    chosen. In a notebook a picture is drawn when it is asked for. With the environment variable
    ``APV_STATIC=1`` all are drawn at once and stored in the page.

    Raises:
        InputError: for an empty ``alt`` or one that names no choice, for choices that are missing,
            empty or too many, or for a picture of another kind.
    """
    _check(alt, choices)
    if os.environ.get(STATIC) == "1":
        display(HTML(explore_html(draw, alt, **choices)))
    else:
        display(explore_widget(draw, alt, **choices))


def explore_widget(draw: Callable[..., Any], alt: str, **choices: Sequence[Any]) -> ipywidgets.VBox:
    """The live form of :func:`explore`: widgets that draw on demand and remember.

    Raises:
        InputError: as in :func:`explore`.
    """
    _check(alt, choices)
    controls = {name: _widget(name, values) for name, values in choices.items()}
    stage = ipywidgets.HTML()
    drawn: dict[tuple[int, ...], str] = {}

    def update(_: object = None) -> None:
        index = tuple(int(control.index or 0) for control in controls.values())
        if index not in drawn:
            values = {name: choices[name][i] for name, i in zip(choices, index, strict=True)}
            drawn[index] = card(_tag(draw, alt, values))
        stage.value = drawn[index]

    for control in controls.values():
        control.observe(update, names="index")
    update()
    return ipywidgets.VBox([*controls.values(), stage])


def explore_html(draw: Callable[..., Any], alt: str, **choices: Sequence[Any]) -> str:
    """The static form of :func:`explore`: all pictures, the controls and their script in one piece.

    Raises:
        InputError: as in :func:`explore`.
    """
    _check(alt, choices)
    combinations = list(itertools.product(*choices.values()))
    pictures = []
    for number, values in enumerate(combinations):
        tag = _tag(draw, alt, dict(zip(choices, values, strict=True)), autoplay=number == 0)
        pictures.append(f'<div class="apv-picture"{" hidden" * (number > 0)}>{tag}</div>')
    controls = "".join(_control(name, values) for name, values in choices.items())
    folder = files("apv_edu.show")
    style, script = (
        folder.joinpath(f"explore.{kind}").read_text("utf-8") for kind in ("css", "js")
    )
    player = f'<div class="apv-controls">{controls}</div>{"".join(pictures)}'
    return (
        f"<style>{style}</style>"
        f'<div class="apv-explore" role="group" aria-label="Interactive figure">'
        f"{card(player)}</div>"
        f"<script>{script}</script>"
    )


def _check(alt: str, choices: dict[str, Sequence[Any]]) -> None:
    """Refuse what could not be drawn, before anything is drawn."""
    alternative_text(alt)
    if not choices:
        raise InputError(
            "Nothing to explore: name at least one choice, such as horizon=[1, 5, 15]."
        )
    for name, values in choices.items():
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray | range):
            raise InputError(f"The choice {name} is {values!r}: give a list of values.")
        if len(values) == 0:
            raise InputError(f"The choice {name} has no values: give a list of at least one.")
    count = math.prod(len(values) for values in choices.values())
    if count > MOST_PICTURES:
        raise InputError(
            f"{count} combinations of {', '.join(choices)} are more than {MOST_PICTURES}: "
            "give fewer values."
        )
    try:
        alt.format(**{name: values[0] for name, values in choices.items()})
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"The alternative text {alt!r} has a field that is none of {', '.join(choices)}: "
            "use {name} of a choice only."
        ) from error


def _tag(draw: Callable[..., Any], alt: str, values: dict[str, Any], autoplay: bool = True) -> str:
    """Draw one combination, as an ``<img>`` or a ``<video>``."""
    drawing = draw(**values)
    words = alt.format(**values)
    if isinstance(drawing, Figure):
        return figure_tag(drawing, words)
    if isinstance(drawing, np.ndarray) and drawing.ndim == 3:
        picture = as_uint8(drawing[None])[0]
        return picture_tag(picture, words, scale=max(1, PAGE_WIDTH // picture.shape[1]))
    if isinstance(drawing, np.ndarray) and drawing.ndim == 4:
        return video_tag(drawing, words, autoplay=autoplay)
    raise InputError(
        f"draw returned {type(drawing).__name__} for {values}: return a matplotlib figure, a "
        "picture (height, width, 3) or frames (time, height, width, 3)."
    )


def _is_scale(values: Sequence[Any]) -> bool:
    """Whether a slider suits: three or more numbers."""
    numbers = all(
        isinstance(value, int | float | np.number) and not isinstance(value, bool)
        for value in values
    )
    return numbers and len(values) > 2


def _words(value: object) -> str:
    """A value as a label: floats without noise."""
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _widget(name: str, values: Sequence[Any]) -> Any:
    """The ipywidgets control of one choice."""
    kind = ipywidgets.SelectionSlider if _is_scale(values) else ipywidgets.Dropdown
    options = [(_words(value), number) for number, value in enumerate(values)]
    return kind(
        options=options,
        description=name.replace("_", " "),
        style={"description_width": "initial"},
    )


def _control(name: str, values: Sequence[Any]) -> str:
    """The HTML control of one choice; its value is a position in ``values``."""
    words = [html.escape(_words(value)) for value in values]
    title = f'<span class="apv-name">{html.escape(name.replace("_", " "))}</span>'
    if _is_scale(values):
        control = (
            f'<input type="range" min="0" max="{len(words) - 1}" step="1" value="0" '
            f'autocomplete="off" data-words="{"|".join(words)}" aria-valuetext="{words[0]}">'
            f'<output aria-live="polite">{words[0]}</output>'
        )
    else:
        options = "".join(f'<option value="{i}">{word}</option>' for i, word in enumerate(words))
        control = f'<select autocomplete="off">{options}</select>'
    return f"<label>{title}{control}</label>"
