"""Figures, videos and small players that live in a notebook and on a static page alike."""

from apv_edu.show.explore import explore
from apv_edu.show.figures import figure
from apv_edu.show.style import COLOURS, LINE_STYLES, image_axes, use_style
from apv_edu.show.videos import error_frames, filmstrip, grid, video

__all__ = [
    "COLOURS",
    "LINE_STYLES",
    "error_frames",
    "explore",
    "figure",
    "filmstrip",
    "grid",
    "image_axes",
    "use_style",
    "video",
]
