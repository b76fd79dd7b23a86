"""Where numbers and videos of a run go: a tidy CSV, TensorBoard, or both.

A loop calls the ``Logger`` it is given and knows nothing else. ``resume(step)`` makes a log
continue after a checkpoint of that step, so that a killed run leaves no row twice.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from apv_edu.errors import InputError
from apv_edu.files import disk_errors, write_atomically


class Logger(Protocol):
    """What a loop may ask of a logger."""

    def resume(self, step: int) -> None:
        """Forget everything logged after ``step``; 0 starts anew."""
        ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log named numbers at ``step``."""
        ...

    def video(self, step: int, name: str, frames: UInt8[np.ndarray, "time height width 3"]) -> None:
        """Log a video at ``step``."""
        ...

    def close(self) -> None:
        """Write out what is still held back, and let go of the files."""
        ...


class CSVLogger:
    """One CSV with a row (step, name, value) a number; videos are mp4 files in its folder.

    Every call reaches the operating system at once, so rows logged before a checkpoint survive
    a kill after it.
    """

    columns = ("step", "name", "value")

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.file: io.TextIOWrapper | None = None

    def resume(self, step: int) -> None:
        """Keep the rows up to ``step`` and drop the later ones and a half-written last line."""
        self.close()
        rows = [row for row in read_csv(self.path) if row[0] <= step] if step else []
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([self.columns, *rows])
        write_atomically(self.path, text.getvalue().encode())
        with disk_errors(self.path):
            self.file = self.path.open("a", newline="", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row for each number."""
        if self.file is None:
            self.resume(0)
        assert self.file is not None
        rows = [(step, name, repr(float(value))) for name, value in values.items()]
        with disk_errors(self.path):
            csv.writer(self.file, lineterminator="\n").writerows(rows)
            self.file.flush()

    def video(self, step: int, name: str, frames: UInt8[np.ndarray, "time height width 3"]) -> None:
        """Write ``<name>_<step>.mp4`` beside the CSV."""
        path = self.path.parent / f"{name.replace('/', '_')}_{step:07d}.mp4"
        write_atomically(path, encode_mp4(frames))

    def close(self) -> None:
        """Close the file."""
        if self.file is not None:
            file, self.file = self.file, None
            with disk_errors(self.path):
                file.close()


class TensorBoardLogger:
    """Event files for TensorBoard; a video is an animated image, which needs no further package."""

    def __init__(self, folder: Path | str, fps: int = 8):
        self.folder, self.fps = Path(folder), fps
        self.writer = None

    def resume(self, step: int) -> None:
        """Open a new event file that tells TensorBoard to forget what came after ``step``."""
        from torch.utils.tensorboard.writer import SummaryWriter  # slow to import

        self.close()
        purge = step + 1 if step else None
        with disk_errors(self.folder):
            for old in [] if step else self.folder.glob("events.out.tfevents.*"):
                old.unlink()
            self.writer = SummaryWriter(str(self.folder), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        if self.writer is None:
            self.resume(0)
        assert self.writer is not None
        with disk_errors(self.folder):
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def video(self, step: int, name: str, frames: UInt8[np.ndarray, "time height width 3"]) -> None:
        """Show the video among TensorBoard's images."""
        from tensorboard.compat.proto.summary_pb2 import (  # protobuf makes its classes at import
            Summary,  # pyright: ignore[reportAttributeAccessIssue]
        )

        if self.writer is None:
            self.resume(0)
        assert self.writer is not None
        height, width = frames.shape[1:3]
        image = Summary.Image(
            height=height,
            width=width,
            colorspace=3,
            encoded_image_string=encode_gif(frames, self.fps),
        )
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        with disk_errors(self.folder):
            self.writer._get_file_writer().add_summary(summary, step)
            self.writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        if self.writer is not None:
            writer, self.writer = self.writer, None
            with disk_errors(self.folder):
                writer.close()


class Loggers:
    """Several loggers as one."""

    def __init__(self, *loggers: Logger):
        self.loggers = loggers

    def resume(self, step: int) -> None:
        """Resume each."""
        for logger in self.loggers:
            logger.resume(step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers to each."""
        for logger in self.loggers:
            logger.scalars(step, values)

    def video(self, step: int, name: str, frames: UInt8[np.ndarray, "time height width 3"]) -> None:
        """Log the video to each."""
        for logger in self.loggers:
            logger.video(step, name, frames)

    def close(self) -> None:
        """Close each, even if another fails."""
        with ExitStack() as stack:
            for logger in self.loggers:
                stack.callback(logger.close)


def folder_logger(folder: Path | str) -> Loggers:
    """The usual pair for a run: ``metrics.csv`` and ``tensorboard/`` in ``folder``."""
    folder = Path(folder)
    return Loggers(CSVLogger(folder / "metrics.csv"), TensorBoardLogger(folder / "tensorboard"))


def read_csv(path: Path | str) -> list[tuple[int, str, float]]:
    """The whole rows (step, name, value) of a ``CSVLogger``; none if the file is not there.

    Raises:
        InputError: when a whole line is not such a row.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a killed writer may leave a half line at the end
        rows = list(csv.reader(io.StringIO(whole)))[1:]
        return [(int(step), name, float(value)) for step, name, value in rows]
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{path} is damaged: delete it (it holds numbers, no weights) and run again."
        ) from error


def curves(path: Path | str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The CSV of a run as ``{name: (steps, values)}``, ready to plot."""
    points: dict[str, list[tuple[int, float]]] = {}
    for step, name, value in read_csv(path):
        points.setdefault(name, []).append((step, value))
    return {
        name: (np.array([s for s, _ in pairs]), np.array([v for _, v in pairs]))
        for name, pairs in points.items()
    }


def encode_video(
    path: Path | str, frames: UInt8[np.ndarray, "time height width 3"], fps: int = 8
) -> bytes:
    """The bytes of a video file called ``path``: a GIF if the name says so, else an mp4."""
    return (encode_gif if Path(path).suffix == ".gif" else encode_mp4)(frames, fps)


def encode_mp4(frames: UInt8[np.ndarray, "time height width 3"], fps: int = 8) -> bytes:
    """H.264 in mp4, playable in every browser; an odd height or width loses its last line."""
    height, width = (side // 2 * 2 for side in frames.shape[1:3])
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames[:, :height, :width]:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


def encode_gif(frames: Sequence[np.ndarray] | np.ndarray, fps: int = 8) -> bytes:
    """An endlessly repeating GIF of uint8 frames (height, width, 3)."""
    first, *rest = (Image.fromarray(frame) for frame in frames)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    return file.getvalue()
