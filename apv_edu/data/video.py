"""Datasets of videos: many videos packed once into one array, sampled as sequences of frames."""

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from apv_edu.data import packing
from apv_edu.data.packing import FORMAT, FRAMES, MANIFEST, RESIZING, PathLike
from apv_edu.errors import InputError

SPLITS = ("train", "validation")
_AGAIN = "pack the videos again into a new folder"


@dataclass(frozen=True)
class Video:
    """One video of a dataset: ``length`` frames from frame ``start`` of the packed array."""

    name: str
    label: str
    split: str
    start: int
    length: int


@dataclass(frozen=True, eq=False)
class VideoDataset:
    """Packed videos: a folder with ``frames.npy``, memory-mapped, and ``manifest.json``."""

    path: Path
    manifest: dict[str, Any]
    frames: UInt8[np.ndarray, "frames size size 3"]
    """All videos one after another, read from the disk as needed."""
    videos: tuple[Video, ...]
    _spans: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    """For each split, ``start`` and ``length`` of its videos (videos, 2)."""

    def __post_init__(self) -> None:
        for name in SPLITS:
            spans = [(v.start, v.length) for v in self.videos if v.split == name]
            self._spans[name] = np.array(spans, np.int64).reshape(-1, 2)

    @staticmethod
    def open(path: str | os.PathLike[str], *, verify: bool = False) -> "VideoDataset":
        """Open a packed dataset; only the manifest is read, whatever the size.

        Args:
            path: the folder that ``pack_videos`` made.
            verify: also compare the sha256 checksum, which reads all frames.

        Raises:
            InputError: if the folder is missing, incomplete or damaged.
        """
        path = Path(path)
        manifest, videos = _read_manifest(path / MANIFEST)
        file, size = path / FRAMES, manifest["settings"]["image_size"]
        try:
            frames = np.load(file, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise InputError(f"{file} is missing: {_AGAIN}.") from error
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{file} is truncated or damaged ({error}): {_AGAIN}.") from error
        expected = (manifest["frames"], size, size, 3)
        if frames.dtype != np.uint8 or frames.shape != expected:
            raise InputError(
                f"{file} is {frames.dtype} {frames.shape}, but the manifest says uint8 "
                f"{expected}: {_AGAIN}."
            )
        if file.stat().st_size != frames.offset + frames.nbytes:
            raise InputError(f"{file} is longer than the array it holds: {_AGAIN}.")
        if verify and packing.sha256(file) != manifest["sha256"]:
            raise InputError(f"{file} does not match the checksum in its manifest: {_AGAIN}.")
        return VideoDataset(path, manifest, frames, videos)

    @property
    def image_size(self) -> int:
        """Height and width of a frame in pixels."""
        return self.frames.shape[1]

    def split(self, name: str) -> tuple[Video, ...]:
        """The videos of ``"train"`` or ``"validation"``.

        Raises:
            InputError: for another name.
        """
        self._check_split(name)
        return tuple(video for video in self.videos if video.split == name)

    def clip(
        self, video: Video, start: int = 0, length: int | None = None
    ) -> UInt8[np.ndarray, "time size size 3"]:
        """A view of ``length`` frames (None: all that follow) of a video, from its ``start``-th.

        Raises:
            InputError: if the video does not have them.
        """
        length = video.length - start if length is None else length
        if start < 0 or length < 1 or start + length > video.length:
            raise InputError(
                f"Frames {start} to {start + length} of {video.name} were asked for and it has "
                f"{video.length}: choose others."
            )
        return self.frames[video.start + start : video.start + start + length]

    def sample(
        self,
        batch: int,
        length: int,
        rng: np.random.Generator,
        split: str = "train",
        rows: slice = slice(None),
    ) -> UInt8[np.ndarray, "rows time size size 3"]:
        """Random sequences: a video drawn uniformly, then a start drawn uniformly within it.

        Uniform over videos, as the official loader draws its episodes, so that a long video does
        not outweigh a short one; videos shorter than ``length`` are never drawn.

        Args:
            batch: sequences.
            length: frames a sequence.
            rng: the source of all randomness.
            split: ``"train"`` or ``"validation"``.
            rows: which of the batch to return; no frame of the others is read.

        Raises:
            InputError: if no video of the split is long enough.
        """
        spans = self._long_enough(length, split)
        starts, lengths = spans[rng.integers(len(spans), size=batch)].T
        return self._gather((starts + rng.integers(lengths - length + 1))[rows], length)

    def clips(
        self, count: int, length: int, split: str = "validation", seed: int = 0
    ) -> UInt8[np.ndarray, "count time size size 3"]:
        """Fixed clips for evaluation, the same for the same dataset and arguments.

        Spread evenly: every long enough video gives a clip before one gives two, every label
        gives one before any gives two, and the clips of one video start in equal parts of it.

        Raises:
            InputError: if no video of the split is long enough, or for an impossible argument.
        """
        if count < 1 or seed < 0:
            raise InputError(f"Out of range: {count=} must be at least 1 and {seed=} at least 0.")
        spans = self._long_enough(length, split)
        labels = [v.label for v in self.split(split) if v.length >= length]
        rng = np.random.default_rng(seed)
        order = _interleave(labels, rng)
        rounds = math.ceil(count / len(order))
        picked = np.tile(order, rounds)[:count]
        part = np.repeat(np.arange(rounds), len(order))[:count]
        starts, lengths = spans[picked].T
        offset = (part + rng.random(count)) / rounds * (lengths - length + 1)
        return self._gather(starts + offset.astype(np.int64), length)

    def _gather(
        self, starts: np.ndarray, length: int
    ) -> UInt8[np.ndarray, "batch time size size 3"]:
        frames = np.asarray(self.frames)  # a plain view: slices of a memmap are slower to make
        out = np.empty((len(starts), length, *frames.shape[1:]), np.uint8)
        for row, start in enumerate(starts):
            out[row] = frames[start : start + length]
        return out

    def _long_enough(self, length: int, split: str) -> np.ndarray:
        self._check_split(split)
        spans = self._spans[split]
        longest = int(spans[:, 1].max(initial=0))
        if length < 1 or longest < length:
            raise InputError(
                f"{self.path} has no {split} video of {length} frames (its longest has {longest}): "
                "ask for shorter sequences or pack more and longer videos."
            )
        return spans[spans[:, 1] >= length]

    def _check_split(self, name: str) -> None:
        if name not in SPLITS:
            raise InputError(f"Unknown split {name!r}: choose one of {', '.join(SPLITS)}.")


def _interleave(labels: Sequence[str], rng: np.random.Generator) -> list[int]:
    """A random order of the videos in which every label comes once before any comes twice."""
    seen: dict[str, int] = {}
    turns = []
    for index in map(int, rng.permutation(len(labels))):
        turns.append((seen.get(labels[index], 0), index))
        seen[labels[index]] = turns[-1][0] + 1
    return [index for _, index in sorted(turns, key=lambda turn: turn[0])]


def pack_videos(
    source: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    image_size: int = 64,
    stride: int = 1,
    min_length: int = 25,
    validation_fraction: float = 0.1,
    seed: int = 0,
    progress: bool = True,
) -> VideoDataset:
    """Pack every video of one or several folders into the dataset ``out``, once.

    ``out`` appears whole or not at all; if it is there already, from the same settings and the
    same sources (by name, size and time of change), it is opened and returned. A video that cannot
    be used is skipped, named on stderr and recorded with its reason in ``manifest["skipped"]``.
    Splits are by video and by label (``packing.split_by_label``; labels: ``packing.gather``).

    Args:
        source: a folder, a list of folders, or a single video.
        out: the folder to make.
        image_size: height and width of a packed frame, in pixels.
        stride: keep every ``stride``-th frame.
        min_length: skip a video with fewer frames than this after ``stride``.
        validation_fraction: share of each label's videos that training never sees.
        seed: decides which.
        progress: show a progress bar with the time left.

    Raises:
        InputError: if no video is usable, ``out`` holds something else, or the disk is full.
    """
    out = Path(os.path.abspath(out))
    in_range = 0 <= validation_fraction < 1 and min(image_size, stride, min_length) >= 1
    if not in_range or seed < 0:
        raise InputError(
            f"Out of range: {validation_fraction=} must be in [0, 1), {image_size=}, {stride=} and "
            f"{min_length=} at least 1, and {seed=} at least 0."
        )
    sources = packing.gather(source)
    settings = {
        "image_size": image_size,
        "resizing": RESIZING,
        "stride": stride,
        "min_length": min_length,
        "validation_fraction": validation_fraction,
        "seed": seed,
    }
    fingerprint = packing.fingerprint(sources)
    if done := _existing(out, settings, fingerprint):
        return done
    with packing.locked_partial(out) as partial:
        if done := _existing(out, settings, fingerprint):  # another process was quicker
            return done
        about = {"fingerprint": fingerprint, **packing.provenance(source)}
        skipped = packing.build(sources, partial, settings=settings, about=about, progress=progress)
        packing.publish(partial, out)
    if skipped:
        names = ", ".join(video["name"] for video in skipped[:5])
        more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        print(
            f"Skipped {len(skipped)} of {len(sources)} videos: {names}{more}; "
            f"the reasons are in {out / MANIFEST}.",
            file=sys.stderr,
        )
    return VideoDataset.open(out)


def _existing(out: Path, settings: dict[str, Any], fingerprint: str) -> VideoDataset | None:
    """The dataset already at ``out`` if it is the one asked for, None if nothing is there."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MANIFEST).exists():
        raise InputError(f"{out} exists and is not a packed dataset: choose another folder as out.")
    dataset = VideoDataset.open(out)
    before = dataset.manifest["settings"]
    changed = [
        f"{k}={before.get(k)!r}, not {v!r}" for k, v in settings.items() if before.get(k) != v
    ]
    if dataset.manifest.get("fingerprint") != fingerprint:
        changed.append("other videos")
    if changed:
        raise InputError(
            f"{out} was packed from or with {'; '.join(changed)}: delete it or choose another out."
        )
    return dataset


def _read_manifest(path: Path) -> tuple[dict[str, Any], tuple[Video, ...]]:
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, and this version reads {FORMAT}")
        videos = tuple(Video(**video) for video in manifest["videos"])
        end = 0
        for video in videos:  # they stand one after another without a gap
            if video.start != end or video.length < 1 or video.split not in SPLITS:
                raise ValueError(f"bad entry of {video.name}")
            end += video.length
        if end != manifest["frames"] or not videos:
            raise ValueError(f"{end} frames in its videos and {manifest['frames']} in all")
        if not (isinstance(manifest["sha256"], str) and manifest["settings"]["image_size"] >= 1):
            raise ValueError("no checksum or image size")
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} is not a packed dataset (no {MANIFEST}): make one with pack_videos."
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error!r}): {_AGAIN}.") from error
    return manifest, videos
