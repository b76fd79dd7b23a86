"""Decode the three forms of video, one full-size RGB frame at a time, and refuse what is not one.

Nothing that a file holds is executed or followed: npz arrays are read as plain numbers and never
unpickled, and the decoder may open no other file and no address.
"""

import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL import Image

from apv_edu.errors import InputError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
MAX_PIXELS = 2**26
"""Most pixels of a source frame, against files made to exhaust memory: 8192 x 8192."""

Frame = UInt8[np.ndarray, "height width 3"]

_FILES_ONLY = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,matroska,webm,avi,gif"}
_IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")
_KEPT = 0.9  # a file that lasts less than this share of its announced duration is truncated
_AGAIN = "copy or download it again"


def npz_frames(path: Path) -> Iterator[Frame]:
    """Stream the array ``image`` (T, H, W, 3) uint8 of an npz file; NumPy parses its header only.

    Raises:
        InputError: for another dtype, shape or order, or if the array is missing.
        Exception: whatever a damaged archive makes its parser raise.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if "image" not in names:
            raise InputError(
                f"{path} has no array `image` (it has: {', '.join(names) or 'nothing'}): "
                "save the frames under that name."
            )
        with archive.open("image.npy") as file:
            old = np.lib.format.read_magic(file) == (1, 0)
            formats = np.lib.format
            read_header = formats.read_array_header_1_0 if old else formats.read_array_header_2_0
            shape, fortran, dtype = read_header(file)
            _check_array(path, shape, fortran, dtype)
            for _ in range(shape[0]):
                frame = np.frombuffer(file.read(shape[1] * shape[2] * 3), np.uint8)
                yield frame.reshape(shape[1:])  # raises ValueError where the data stop early


def _check_array(path: Path, shape: tuple[int, ...], fortran: bool, dtype: np.dtype) -> None:
    if dtype.hasobject:
        raise InputError(
            f"{path} stores Python objects in `image`, which are never unpickled: "
            "save one uint8 array of shape (T, H, W, 3)."
        )
    if dtype != np.uint8:
        raise InputError(f"{path} has `image` of dtype {dtype}: convert it to uint8 in 0..255.")
    if len(shape) == 3 or (len(shape) == 4 and shape[-1] == 1):
        raise InputError(f"{path} is grey (`image` has shape {shape}): convert it to RGB.")
    if len(shape) == 4 and shape[-1] == 4:
        raise InputError(f"{path} is RGBA (`image` has shape {shape}): convert it to RGB.")
    if len(shape) != 4 or shape[-1] != 3:
        raise InputError(f"{path} has `image` of shape {shape}: reshape it to (T, H, W, 3).")
    if fortran:
        raise InputError(f"{path} is in Fortran order: save np.ascontiguousarray(image).")
    if shape[0]:
        _check_size(path, shape[1], shape[2])


def image_frames(folder: Path) -> Iterator[Frame]:
    """Read the image files of a folder, all of one size, in natural order.

    Raises:
        InputError: for a damaged, grey, transparent or palette image, or one of another size.
    """
    first: tuple[int, int] | None = None
    for file in image_files(folder):
        try:
            with Image.open(file, formats=_IMAGE_FORMATS) as image:
                _check_size(file, image.height, image.width)
                if image.mode != "RGB":
                    kind = "grey" if image.mode[0] in "1LI" else image.mode
                    raise InputError(f"{file} is a {kind} image: convert it to RGB.")
                first = first or image.size
                if image.size != first:
                    raise InputError(
                        f"{file} is {image.width} x {image.height} pixels and the first frame "
                        f"{first[0]} x {first[1]}: make all frames of a video one size."
                    )
                frame = np.asarray(image)
        except InputError:
            raise
        except Exception as error:  # a damaged file makes its parser raise anything
            raise InputError(f"{file} cannot be read as an image ({error}): {_AGAIN}.") from error
        yield frame


def file_frames(path: Path) -> Iterator[Frame]:
    """Decode a video file with PyAV (FFmpeg), upright as its rotation mark says.

    Raises:
        InputError: for damaged, grey or transparent frames, for an mp4 that ends before its index
            does, or, at the end, for a file that lasts less than 90% of the duration it announces.
        Exception: whatever else the decoder raises.
    """
    start: float | None = None
    end = 0.0
    with av.open(str(path.absolute()), options=_FILES_ONLY) as container:
        if not container.streams.video:
            raise InputError(f"{path} has no video stream: remove it.")
        stream = container.streams.video[0]
        _check_index(path, container, stream)
        announced = _announced_seconds(container, stream)
        _check_size(path, stream.codec_context.height, stream.codec_context.width)
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise InputError(f"{path} has damaged frames: {_AGAIN}.")
            if frame.time is not None:
                start = frame.time if start is None else start
                end = frame.time + frame.duration * float(frame.time_base or 0)
            yield _rgb(path, frame)
    seconds = end - start if start is not None else 0.0
    if seconds < _KEPT * announced:
        raise InputError(
            f"{path} is truncated ({seconds:.2f} s of {announced:.2f} s are there): {_AGAIN}."
        )
    if path.suffix.lower() == ".gif" and not path.read_bytes().rstrip(b"\0").endswith(b";"):
        raise InputError(f"{path} is truncated (a gif ends with a semicolon): {_AGAIN}.")


def _check_index(path: Path, container: InputContainer, stream: VideoStream) -> None:
    """Refuse an mp4 or mov whose index names packets beyond the end of the file."""
    if "mp4" in container.format.name.split(","):
        entries = getattr(stream, "index_entries", ())  # older versions of PyAV show no index
        end, size = max((e.pos + e.size for e in entries), default=0), path.stat().st_size
        if end > size:
            raise InputError(f"{path} is truncated ({size} bytes of {end} are there): {_AGAIN}.")


def _announced_seconds(container: InputContainer, stream: VideoStream) -> float:
    """The duration in seconds that the file's header promises, 0 if it promises none."""
    if container.format.name == "avi":  # whose duration FFmpeg corrects to the file's true size
        return stream.frames / float(stream.average_rate or 1)
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))  # webm
    if tag:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    if container.streams.audio or not container.duration:
        return 0.0
    return container.duration / av.time_base


def _rgb(path: Path, frame: VideoFrame) -> Frame:
    _check_size(path, frame.height, frame.width)
    components = frame.format.components
    if len(components) < 3:
        raise InputError(f"{path} is a grey video ({frame.format.name}): convert it to RGB.")
    if any(component.is_alpha for component in components):  # as in any gif, opaque as a rule
        rgba = frame.to_ndarray(format="rgba")
        if rgba[..., 3].min() < 255:
            raise InputError(f"{path} is RGBA with transparent pixels: convert it to RGB.")
        rgb = rgba[..., :3]
    else:
        rgb = frame.to_ndarray(format="rgb24")
    return np.rot90(rgb, round(frame.rotation / 90))  # counter-clockwise; a telephone's videos


def image_files(folder: Path) -> list[Path]:
    """The image frames directly in ``folder``, in natural order (``2.png`` before ``10.png``)."""
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if not e.name.startswith(".")]
    frames = [folder / n for n in names if os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES]
    return sorted(frames, key=natural)


def natural(path: Path) -> list[list[int | str]]:
    """A key that sorts paths by the numbers in them: ``episode2`` before ``episode10``."""
    parts = [re.split(r"([0-9]+)", part) for part in path.parts]
    return [[int(t) if i % 2 else t for i, t in enumerate(tokens)] for tokens in parts]


def _check_size(path: Path, height: int, width: int) -> None:
    if not 0 < height * width <= MAX_PIXELS:
        raise InputError(
            f"{path} has frames of {height} x {width} pixels and at most {MAX_PIXELS} pixels "
            "are read: resize it first."
        )
