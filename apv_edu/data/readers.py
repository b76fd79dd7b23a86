"""Read a video in any form that people have: npz episode, video file, folder of image frames.

A frame that is not square is cropped to its centre square, then resized with Pillow's bilinear
filter, which is antialiased: when it shrinks, its triangle grows to cover every source pixel.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from apv_edu.data.decoding import (
    IMAGE_SUFFIXES,
    Frame,
    file_frames,
    image_frames,
    natural,
    npz_frames,
)
from apv_edu.errors import InputError

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".gif"})
MAX_FRAMES = 1_000_000
"""Most frames of one video: 9 hours at 30 frames a second."""

# Folders beside the *_rgb cameras in RLBench's native layout that hold no video.
_NOT_VIDEO = re.compile(r"(^|_)(depth|masks?|point_cloud)$", re.IGNORECASE)


def read_video(
    path: str | os.PathLike[str], *, image_size: int = 64, stride: int = 1
) -> UInt8[np.ndarray, "time size size 3"]:
    """Read one video whole, each frame cropped to its centre square and resized.

    Args:
        path: an npz episode with ``image`` (T, H, W, 3) uint8 (the official form), a video file
            (mp4, webm, avi, gif, ...), or a folder of RGB image frames.
        image_size: height and width of a returned frame, in pixels.
        stride: keep every ``stride``-th frame, from the first.

    Returns:
        RGB frames (T, S, S, 3), uint8 in 0..255.

    Raises:
        InputError: for a video that is missing, truncated, corrupt, empty, grey, transparent,
            absurdly large or of another type.
    """
    return np.stack(list(iterate_video(path, image_size=image_size, stride=stride)))


def iterate_video(
    path: str | os.PathLike[str], *, image_size: int = 64, stride: int = 1
) -> Iterator[UInt8[np.ndarray, "size size 3"]]:
    """Yield the frames of ``read_video`` one by one, in constant memory.

    Raises:
        InputError: as ``read_video``; that a file is truncated may show only at its end.
    """
    path = Path(path)
    if image_size < 1 or stride < 1:
        raise InputError(
            f"image_size={image_size} and stride={stride} are too small: both must be at least 1."
        )
    frames = _frames(path)
    count = 0
    while True:
        try:
            frame = next(frames, None)
        except InputError:
            raise
        except Exception as error:  # a damaged file makes its parser raise anything
            raise InputError(
                f"{path} cannot be read, so it is truncated or corrupt ({error}): "
                "copy or download it again."
            ) from error
        if frame is None:
            break
        if count == MAX_FRAMES:
            raise InputError(f"{path} has more than {MAX_FRAMES} frames: split it.")
        if count % stride == 0:
            yield _resize(frame, image_size)
        count += 1
    if count == 0:
        raise InputError(f"{path} holds no frames: remove it or record it again.")


def find_videos(folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Every video under ``folder``, in natural order (``episode2`` before ``episode10``).

    A video is an npz file, a video file, or a folder that holds image frames and no video file (in
    RLBench's native layout each ``*_rgb`` camera folder is one). Hidden files and the folders
    ``*_mask``, ``*_depth`` and ``*_point_cloud`` are left out.

    Raises:
        InputError: if the folder does not exist or holds no video.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: check the name of the folder of videos.")
    found: list[Path] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a symbolic link back up
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [
            f for f in folders if not f.startswith((".", "__")) and not _NOT_VIDEO.search(f)
        ]
        visible = [Path(root, name) for name in files if not name.startswith(".")]
        videos = [f for f in visible if f.suffix.lower() in VIDEO_SUFFIXES | {".npz"}]
        if videos:
            found += videos
        elif any(f.suffix.lower() in IMAGE_SUFFIXES for f in visible):
            found.append(Path(root))
    if not found:
        raise InputError(
            f"{folder} holds no videos: put npz episodes, mp4, webm, avi or gif files, "
            "or folders of image frames there."
        )
    return tuple(sorted(found, key=natural))


def _frames(path: Path) -> Iterator[Frame]:
    if path.is_dir():
        return image_frames(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise InputError(f"{path} does not exist: check the name of the video.")
    if suffix == ".npz":
        return npz_frames(path)
    if suffix in VIDEO_SUFFIXES:
        return file_frames(path)
    raise InputError(
        f"{path} is not a video: give an npz file, a video file "
        f"({', '.join(sorted(VIDEO_SUFFIXES))}) or a folder of image frames."
    )


def _resize(frame: Frame, size: int) -> UInt8[np.ndarray, "size size 3"]:
    height, width, _ = frame.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frame[top : top + side, left : left + side]
    if side == size:
        return square
    image = Image.fromarray(np.ascontiguousarray(square))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
