"""Small videos of every form, whose frame number can be read back from the picture."""

from pathlib import Path

import av
import numpy as np
from PIL import Image

STEP = 20  # grey levels between consecutive frames


def numbered(length: int, height: int = 48, width: int = 48) -> np.ndarray:
    """Frames (T, H, W, 3) of one colour each: (STEP * t, 255 - STEP * t, 100), T <= 13."""
    level = STEP * np.arange(length, dtype=np.uint8)
    colour = np.stack([level, 255 - level, np.full_like(level, 100)], -1)
    return np.broadcast_to(colour[:, None, None], (length, height, width, 3)).copy()


def number_of(frames: np.ndarray) -> list[int]:
    """The frame numbers, read from the red channel."""
    red = frames[..., 0].reshape(len(frames), -1).mean(-1)
    return np.round(red / STEP).astype(int).tolist()


def write_npz(path: Path, frames: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    is_first = np.arange(len(frames)) == 0
    np.savez_compressed(path, image=frames, is_first=is_first, reward=np.zeros(len(frames)))
    return path


def write_folder(path: Path, frames: np.ndarray, suffix: str = ".png") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{t}{suffix}")
    return path


CODECS = {
    ".mp4": ("libx264", "yuv420p"),
    ".webm": ("libvpx", "yuv420p"),
    ".avi": ("mpeg4", "yuv420p"),
    ".gif": ("gif", "rgb8"),
}


def write_video(
    path: Path,
    frames: np.ndarray,
    codec: str = "",
    pixels: str = "",
    silence: float = 0.0,
    header_first: bool = False,
) -> Path:
    """Write ten frames a second; ``silence`` seconds of sound go with them (webm)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    default_codec, default_pixels = CODECS[path.suffix]
    pixels = pixels or default_pixels
    options = {"movflags": "faststart"} if header_first and path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec or default_codec, rate=10)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        sound = container.add_stream("libopus", rate=48000, layout="mono") if silence else None
        layout = {1: "gray", 3: "rgb24", 4: "rgba"}[frames.shape[-1]]
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(
                frame[..., 0] if layout == "gray" else frame, format=layout
            )
            container.mux(stream.encode(picture.reformat(format=pixels)))
        container.mux(stream.encode(None))
        if isinstance(sound, av.AudioStream):
            samples = np.zeros((1, int(48000 * silence)), np.float32)
            quiet = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
            quiet.sample_rate = 48000
            container.mux([*sound.encode(quiet), *sound.encode(None)])
    return path


def truncate(path: Path, share: float = 0.5) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
