"""Figures, videos and players: self-contained, described in words, and honest about bad input."""

import base64
import importlib
import io
import re
from importlib.resources import files

import av
import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from apv_edu import show
from apv_edu.errors import InputError
from apv_edu.show.explore import explore_html, explore_widget
from apv_edu.show.figures import figure_html
from apv_edu.show.videos import video_html


def some_frames(time: int = 6, side: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (time, side, side, 3), dtype=np.uint8)


def line(slope: float = 1.0) -> plt.Figure:  # pyright: ignore[reportPrivateImportUsage]
    fig, axis = plt.subplots(figsize=(3, 2))
    axis.plot([0, 1], [0, slope])
    return fig


def decoded(page: str, kind: str) -> bytes:
    return base64.b64decode(re.findall(rf'src="data:{kind};base64,([^"]+)"', page)[0])


def external(page: str) -> list[str]:
    return re.findall(r"""(?:src|href)=["'](?!data:)|https?://|@import""", page)


def test_figure_is_a_described_picture_and_is_closed():
    fig = line()
    page = figure_html(fig, 'A line that "rises" <fast>', caption="Slope 1 & more")
    assert 'alt="A line that &quot;rises&quot; &lt;fast&gt;"' in page
    assert "Slope 1 &amp; more" in page
    assert Image.open(io.BytesIO(decoded(page, "image/png"))).size == (600, 400)
    assert 'width="300" height="200"' in page
    assert not plt.fignum_exists(fig.number)
    assert not external(page)


@pytest.mark.parametrize("alt", ["", "  \n", None])
def test_alternative_text_is_required(alt):
    for call in (
        lambda: figure_html(line(), alt),
        lambda: video_html(some_frames(), alt),
        lambda: explore_html(lambda a: line(a), alt, a=[1, 2, 3]),
        lambda: explore_widget(lambda a: line(a), alt, a=[1, 2, 3]),
    ):
        with pytest.raises(InputError, match="alternative text"):
            call()
    plt.close("all")


def test_figure_refuses_axes():
    with pytest.raises(InputError, match="not a matplotlib figure"):
        figure_html(plt.subplots()[1], "axes")  # pyright: ignore[reportArgumentType]
    plt.close("all")


def test_video_holds_the_frames():
    frames = some_frames(7)
    page = video_html(frames, "Noise", fps=5)
    for attribute in ("controls", "loop", "muted", "autoplay", "playsinline", 'aria-label="Noise"'):
        assert attribute in page
    assert not external(page)
    with av.open(io.BytesIO(decoded(page, "video/mp4")), "r") as container:
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        assert container.streams.video[0].average_rate == 5
    small = read.reshape(7, 16, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(small - frames).mean() < 12  # compressed, but each pixel keeps its own colour


def test_float_frames_are_the_same_video():
    frames = some_frames()
    assert video_html(frames / 255.0, "Noise") == video_html(frames, "Noise")


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((4, 8, 8), np.uint8), r"shape \(4, 8, 8\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), "not empty"),
        (np.zeros((4, 8, 8, 3), np.int64), "type int64"),
        (np.full((4, 8, 8, 3), np.nan), "not finite"),
    ],
)
def test_bad_frames_are_named(frames, words):
    with pytest.raises(InputError, match=words):
        video_html(frames, "Broken")


def test_bad_speed_is_named():
    with pytest.raises(InputError, match="0 frames a second"):
        video_html(some_frames(), "Still", fps=0)


def test_error_frames_are_black_where_videos_agree():
    truth, other = some_frames(), some_frames()
    other[:, 3, 5] = 255 - truth[:, 3, 5]
    error = show.error_frames(truth, other)
    assert error[:, 3, 5].any()
    error[:, 3, 5] = 0
    assert not error.any()
    with pytest.raises(InputError, match="cut both"):
        show.error_frames(truth, other[:2])


def test_grid_shows_every_video_at_its_place():
    rows = [[some_frames() // 2, some_frames()], [some_frames() // 3, some_frames() // 4]]
    frames = show.grid(rows, ["truth", "prediction"], context=2, scale=2)
    assert frames.dtype == np.uint8 and len(frames) == 6
    assert frames.shape[1] % 2 == 0 and frames.shape[2] % 2 == 0
    top = 22  # height of a label
    band = top + 2 * 16 + 4
    for row, videos in enumerate(rows):
        for column, one in enumerate(videos):
            y, x = row * band + top, column * (2 * 16 + 4)
            assert (frames[:, y : y + 32 : 2, x : x + 32 : 2] == one).all()
    labels = frames[:, :top]
    assert (labels[1] != labels[2]).any(), "the label tells shown frames from hidden ones"


def test_grid_and_filmstrip_refuse_what_does_not_fit():
    with pytest.raises(InputError, match="1 labels for 2 rows"):
        show.grid([[some_frames()], [some_frames()]], ["truth"])
    with pytest.raises(InputError, match="all must be the same"):
        show.grid([[some_frames()], [some_frames(3)]], ["truth", "prediction"])
    with pytest.raises(InputError, match="0 to 5"):
        show.filmstrip([some_frames()], ["truth"], [0, 6])
    with pytest.raises(InputError, match="2 labels for 1 videos"):
        show.filmstrip([some_frames()], ["truth", "more"], [0])


def test_filmstrip_has_a_picture_for_each_time():
    frames = some_frames()
    fig = show.filmstrip([frames, frames // 2], ["truth", "prediction"], [0, 2, 5], context=2)
    shown = [np.asarray(axis.images[0].get_array()) for axis in fig.axes]
    assert len(shown) == 6
    assert (shown[1] == frames[2]).all() and (shown[5] == frames[5] // 2).all()
    assert [axis.get_title(loc="center") for axis in fig.axes[:3]] == [
        "shown\nt = 0",
        "hidden\nt = 2",
        "hidden\nt = 5",
    ]
    plt.close(fig)


def test_static_player_holds_every_combination_in_order():
    seen = []

    def draw(slope, sign):
        seen.append((slope, sign))
        return line(slope if sign == "up" else -slope)

    page = explore_html(draw, "Slope {slope}, {sign}", slope=[1, 2, 3.5], sign=["up", "down"])
    assert seen == [(s, sign) for s in (1, 2, 3.5) for sign in ("up", "down")]
    alts = re.findall(r'alt="([^"]+)"', page)
    assert alts == [f"Slope {s}, {sign}" for s, sign in seen]
    assert len(set(re.findall(r'src="([^"]+)"', page))) == 6
    assert page.count('<div class="apv-picture" hidden>') == 5
    assert page.count("<input") == 1 and page.count("<select") == 1
    assert not external(page)
    assert " id=" not in page, "players on one page must not share ids"


def test_static_player_shows_pictures_and_videos():
    frames = some_frames()
    page = explore_html(lambda t: frames[t], "Frame {t}", t=range(3))
    assert page.count("<img") == 3
    page = explore_html(lambda gain: frames // gain, "Gain {gain}", gain=[1, 2])
    assert page.count("<video") == 2 and page.count("autoplay") == 1


def test_live_player_draws_on_demand_and_remembers():
    seen = []

    def draw(slope, sign):
        seen.append((slope, sign))
        return line(slope)

    box = explore_widget(draw, "Slope {slope}", slope=[1, 2, 3], sign=["up", "down"])
    slider, choice, stage = box.children
    assert isinstance(slider, ipywidgets.SelectionSlider)
    assert isinstance(choice, ipywidgets.Dropdown)
    first = stage.value
    assert seen == [(1, "up")] and 'alt="Slope 1"' in first
    slider.index = 2
    assert seen == [(1, "up"), (3, "up")] and 'alt="Slope 3"' in stage.value
    slider.index = 0
    assert len(seen) == 2 and stage.value == first
    choice.index = 1
    assert seen[-1] == (1, "down")


@pytest.mark.parametrize(("value", "kind"), [("1", "HTML"), ("", "VBox")])
def test_explore_asks_the_environment(monkeypatch, value, kind):
    shown = []
    module = importlib.import_module("apv_edu.show.explore")
    monkeypatch.setattr(module, "display", shown.append)
    monkeypatch.setenv("APV_STATIC", value)
    show.explore(lambda a: line(a), "Line {a}", a=[1, 2, 3])
    assert [type(one).__name__ for one in shown] == [kind]


@pytest.mark.parametrize(
    ("alt", "choices", "words"),
    [
        ("Line", {}, "at least one choice"),
        ("Line", {"a": []}, "no values"),
        ("Line", {"a": "abc"}, "give a list"),
        ("Line", {"a": 3}, "give a list"),
        ("Line", {"a": range(30), "b": range(30)}, "900 combinations"),
        ("Line {c}", {"a": [1, 2]}, "none of a"),
    ],
)
def test_explore_refuses_bad_choices_before_drawing(alt, choices, words):
    def draw(**_):
        raise AssertionError("drawn")

    with pytest.raises(InputError, match=words):
        explore_html(draw, alt, **choices)
    with pytest.raises(InputError, match=words):
        explore_widget(draw, alt, **choices)


def test_explore_names_a_bad_drawing():
    with pytest.raises(InputError, match="draw returned NoneType"):
        explore_html(lambda a: None, "Nothing", a=[1, 2])


def test_style_is_asked_for_and_colours_differ():
    assert len({value.lower() for value in show.COLOURS.values()}) == len(show.COLOURS)
    with plt.rc_context():
        before = plt.rcParams["font.size"]
        show.use_style()
        assert plt.rcParams["font.size"] != before
    with pytest.raises(InputError, match="empty"):
        show.image_axes(0, 3)
    with pytest.raises(InputError, match="3 titles"):
        show.image_axes(1, 2, titles=("a", "b", "c"))


def test_the_package_carries_the_player():
    names = {one.name for one in files("apv_edu.show").iterdir()}
    assert {"explore.js", "explore.css"} <= names
