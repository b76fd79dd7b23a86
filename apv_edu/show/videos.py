"""Videos inside the page, and grids of videos to compare them frame by frame."""

import base64
import html
from collections.abc import Sequence

import imageio_ffmpeg
import mediapy
import numpy as np
from IPython.display import HTML, display
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from apv_edu.errors import InputError
from apv_edu.show.figures import alternative_text, card
from apv_edu.show.style import COLOURS, image_axes

Frames = UInt8[np.ndarray, "time height width 3"] | Float[np.ndarray, "time height width 3"]

PAGE_WIDTH = 320
"""Page pixels that a video fills when no scale is given."""

ENCODING_SCALE = 2
"""A pixel is stored as 2x2: MP4 keeps colour at half resolution, and small frames would smear."""


def video(
    frames: Frames, alt: str, *, fps: float = 10, scale: int | None = None, caption: str = ""
) -> None:
    """Display ``frames`` as a looping video with controls, stored in the page itself.

    ``frames`` are uint8, or floats in [0, 1]; ``fps`` is in frames a second; ``scale`` is the
    number of page pixels for each pixel, by default as many as fit into 320.

    Raises:
        InputError: for an empty ``alt``, or frames of another shape or type.
    """
    display(HTML(video_html(frames, alt, fps=fps, scale=scale, caption=caption)))


def video_html(
    frames: Frames, alt: str, *, fps: float = 10, scale: int | None = None, caption: str = ""
) -> str:
    """The HTML that :func:`video` displays; it refers to nothing outside itself.

    Raises:
        InputError: as in :func:`video`.
    """
    return card(video_tag(frames, alt, fps=fps, scale=scale), caption)


def video_tag(
    frames: Frames, alt: str, *, fps: float = 10, scale: int | None = None, autoplay: bool = True
) -> str:
    """A bare ``<video>`` of ``frames``.

    Raises:
        InputError: as in :func:`video`.
    """
    alt = alternative_text(alt)
    frames = as_uint8(frames)
    if fps <= 0:
        raise InputError(f"A video cannot play at {fps} frames a second: give a positive number.")
    height, width = frames.shape[1:3]
    scale = scale or max(1, PAGE_WIDTH // width)
    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    enlarged = frames.repeat(ENCODING_SCALE, axis=1).repeat(ENCODING_SCALE, axis=2)
    mp4 = mediapy.compress_video(enlarged, fps=fps, codec="h264", crf=20)
    label = html.escape(alt)
    return (
        f'<video aria-label="{label}" title="{label}" controls loop muted playsinline '
        f'{"autoplay " * autoplay}width="{width * scale}" height="{height * scale}" '
        'style="max-width:100%;height:auto;image-rendering:pixelated;display:block" '
        f'src="data:video/mp4;base64,{base64.b64encode(mp4).decode()}"></video>'
    )


def as_uint8(frames: Frames) -> UInt8[np.ndarray, "time height width 3"]:
    """Frames as uint8; floats count as [0, 1] and are clipped to it.

    Raises:
        InputError: for another shape or type, for no frames, or for values that are not numbers.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError(
            f"Frames have shape {frames.shape}: a video is (time, height, width, 3), not empty."
        )
    if frames.dtype == np.uint8:
        return frames
    if not np.issubdtype(frames.dtype, np.floating):
        raise InputError(f"Frames have type {frames.dtype}: give uint8, or floats in [0, 1].")
    if not np.isfinite(frames).all():
        raise InputError(
            "Frames hold values that are not finite: look for NaN in the model's output."
        )
    return (frames.clip(0, 1) * 255).round().astype(np.uint8)


def error_frames(truth: Frames, prediction: Frames) -> UInt8[np.ndarray, "time height width 3"]:
    """Absolute difference of two videos, black where they agree.

    Raises:
        InputError: if their shapes differ.
    """
    truth, prediction = as_uint8(truth), as_uint8(prediction)
    if truth.shape != prediction.shape:
        raise InputError(
            f"The videos have shapes {truth.shape} and {prediction.shape}: cut both to the same."
        )
    return np.abs(truth.astype(np.int16) - prediction).astype(np.uint8)


def grid(
    rows: Sequence[Sequence[Frames]], labels: Sequence[str], *, context: int = 0, scale: int = 2
) -> UInt8[np.ndarray, "time height width 3"]:
    """Frames of one video that shows several: a labelled row for each of ``rows``.

    Each row is a list of videos, a column each; usual rows are truth, prediction and error.
    ``scale`` enlarges each pixel. With ``context`` > 0 the label of the first row counts the
    frames and says which of them the model was shown.

    Raises:
        InputError: if labels or shapes do not match.
    """
    if len(rows) != len(labels) or not rows:
        raise InputError(f"{len(labels)} labels for {len(rows)} rows of videos: give one each.")
    tiles = [[as_uint8(one) for one in row] for row in rows]
    shapes = {one.shape for row in tiles for one in row}
    if len(shapes) != 1 or len({len(row) for row in tiles}) != 1:
        raise InputError(
            f"The rows hold {[len(row) for row in tiles]} videos of shapes {sorted(shapes)}: "
            "all must be the same."
        )
    length, gap = next(iter(shapes))[0], 4
    padding = ((0, 0), (0, gap), (0, gap), (0, 0))
    bands = []
    for label, row in zip(labels, tiles, strict=True):
        enlarged = [one.repeat(scale, axis=1).repeat(scale, axis=2) for one in row]
        band = np.concatenate(
            [np.pad(one, padding, constant_values=255) for one in enlarged], axis=2
        )
        first = context and not bands
        words = [_count(label, t, context, length) if first else label for t in range(length)]
        heads = {word: _label(word, band.shape[2]) for word in set(words)}
        bands += [np.stack([heads[word] for word in words]), band]
    frames = np.concatenate(bands, axis=1)
    height, width = frames.shape[1:3]
    even = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    return np.pad(frames, even, constant_values=255)


def _count(label: str, t: int, context: int, length: int) -> str:
    """Which frame this is, and whether the model saw it."""
    if t < context:
        return f"{label}: shown {t + 1}/{context}"
    return f"{label}: hidden {t - context + 1}/{length - context}"


def _label(text: str, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """A white strip with ``text``, as large as the width allows."""
    size = 16
    while size > 8 and ImageFont.load_default(size).getlength(text) > width - 4:
        size -= 1
    strip = Image.new("RGB", (width, 22), "white")
    ImageDraw.Draw(strip).text((2, 11), text, "black", ImageFont.load_default(size), anchor="lm")
    return np.asarray(strip)


def filmstrip(
    rows: Sequence[Frames], labels: Sequence[str], times: Sequence[int], *, context: int = 0
) -> Figure:
    """A figure with a row for each video and a column for each of ``times`` (frame numbers from 0).

    Frames before ``context`` carry the title "shown", the others "hidden" (six columns at most are
    readable on a phone).

    Raises:
        InputError: if labels, shapes or times do not match.
    """
    videos = [as_uint8(row) for row in rows]
    if len(videos) != len(labels) or not videos:
        raise InputError(f"{len(labels)} labels for {len(videos)} videos: give one each.")
    shortest = min(len(one) for one in videos)
    if not times or not all(0 <= t < shortest for t in times):
        raise InputError(
            f"Frames {list(times)} asked of {shortest}: name some from 0 to {shortest - 1}."
        )
    fig, axes = image_axes(len(videos), len(times), size=1.15)
    for row, (frames, label) in enumerate(zip(videos, labels, strict=True)):
        for column, t in enumerate(times):
            axis = axes[row * len(times) + column]
            axis.imshow(frames[t])
            if row == 0:
                known = ("shown" if t < context else "hidden") + "\n" if context else ""
                colour = COLOURS["second" if t < context else "baseline"] if context else "black"
                axis.set_title(f"{known}t = {t}", fontsize=12, color=colour, loc="center")
            if column == 0:
                axis.text(
                    -0.06,
                    0.5,
                    label,
                    rotation=90,
                    va="center",
                    ha="right",
                    transform=axis.transAxes,
                )
    return fig
