"""Write many videos into one uint8 array on disk, whole or not at all."""

import hashlib
import io
import json
import os
import re
import shutil
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

import apv_edu
from apv_edu.data.decoding import image_files
from apv_edu.data.readers import find_videos, iterate_video
from apv_edu.errors import InputError
from apv_edu.files import claim, disk_errors

PathLike = str | os.PathLike[str]

FORMAT = 1
FRAMES, MANIFEST = "frames.npy", "manifest.json"
RESIZING = "centre crop to a square, then Pillow's bilinear filter (antialiased)"

# RLBench's native layout: the task is above these folders.
_INNER = re.compile(r"(episodes?|variations?|all_variations)[0-9]*$", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One video to pack."""

    path: Path
    name: str
    """Its path below the folder that all sources share."""
    label: str
    extent: tuple[int, int, int]
    """Files, bytes and sum of the times of change in ns: of one file, or of a folder's images."""


def gather(source: PathLike | Sequence[PathLike]) -> list[Source]:
    """Every video of one or several folders (a single video file will do), in natural order.

    The label is the folder that holds the video (in RLBench's native layout: the task), or for an
    official episode ``<label>-<number>-<length>.npz`` the first part of its name.

    Raises:
        InputError: if there is none, or a folder is missing.
    """
    roots = [Path(os.path.abspath(path)) for path in _listed(source)]
    if not roots:
        raise InputError("No source was given: name a folder of videos.")
    found = {
        video: None  # a dict drops what overlapping folders hold twice, and keeps the order
        for root in roots
        for video in (find_videos(root) if not root.is_file() else (root,))
    }
    base = Path(os.path.commonpath(roots))
    if base in found:  # the source is one video
        base = base.parent
    return [
        Source(path, path.relative_to(base).as_posix(), label_of(path), _extent(path))
        for path in found
    ]


def provenance(source: PathLike | Sequence[PathLike]) -> dict[str, Any]:
    """``source`` as it was given, and ``collected``: how ``apv_edu`` recorded it, if it did."""
    collected = []
    for path in _listed(source):
        with suppress(OSError, ValueError):
            record = json.loads((Path(path) / "collect.json").read_bytes())
            collected.append({key: record[key] for key in record if key != "seeds"})
    return {"source": _listed(source), "collected": collected}


def _listed(source: PathLike | Sequence[PathLike]) -> list[str]:
    paths = [source] if isinstance(source, str | os.PathLike) else source
    return [os.fspath(path) for path in paths]


def label_of(path: Path) -> str:
    """The label of a video, read from its name and the folders above it (see ``gather``)."""
    official = re.fullmatch(r"(.+)-[0-9]+-[0-9]+", path.stem)
    if path.suffix.lower() == ".npz" and official:
        return official[1]
    parent = path.parent
    while _INNER.match(parent.name):
        parent = parent.parent
    return parent.name


def _extent(path: Path) -> tuple[int, int, int]:
    files = image_files(path) if path.is_dir() else [path]
    stats = [file.stat() for file in files if file.exists()]  # a link to nowhere does not
    return len(stats), sum(s.st_size for s in stats), sum(s.st_mtime_ns for s in stats)


def fingerprint(sources: Sequence[Source]) -> str:
    """A sha256 over names, sizes and times of change, which tells lists of sources apart."""
    lines = sorted(f"{source.name}\t{source.extent}" for source in sources)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def build(
    sources: Sequence[Source],
    folder: Path,
    *,
    settings: dict[str, Any],
    about: dict[str, Any],
    progress: bool = True,
) -> list[dict[str, str]]:
    """Write ``frames.npy`` and ``manifest.json`` into ``folder``.

    Args:
        sources: the videos.
        folder: an existing folder.
        settings: ``image_size``, ``stride``, ``min_length``, ``validation_fraction``, ``seed``.
        about: further entries of the manifest.
        progress: show a progress bar with the time left.

    Returns:
        ``name`` and ``reason`` of each video that was skipped.

    Raises:
        InputError: if no video is usable.
        OSError: if a file cannot be written.
    """
    videos, skipped = _write_frames(sources, folder / FRAMES, settings, progress)
    if not videos:
        others = f" (nor are {len(skipped) - 1} others)" if len(skipped) > 1 else ""
        reason = skipped[0]["reason"].removesuffix(".")
        raise InputError(
            f"No video is usable ({reason}){others}: mend them, or name another folder."
        )
    splits = split_by_label(
        [video["label"] for video in videos], settings["validation_fraction"], settings["seed"]
    )
    manifest = {
        "format": FORMAT,
        "apv_edu": apv_edu.__version__,
        "settings": settings,
        **about,
        "frames": sum(video["length"] for video in videos),
        "sha256": sha256(folder / FRAMES),
        "videos": [video | {"split": split} for video, split in zip(videos, splits, strict=True)],
        "skipped": skipped,
    }
    with (folder / MANIFEST).open("wb") as file:
        file.write(json.dumps(manifest, indent=1).encode())
        _to_disk(file)
    return skipped


def _write_frames(
    sources: Sequence[Source], path: Path, settings: dict[str, Any], progress: bool
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Stream all usable videos into one .npy array (N, S, S, 3); memory stays constant."""
    size, stride, least = (settings[key] for key in ("image_size", "stride", "min_length"))
    videos, skipped, total = [], [], 0
    with path.open("wb") as file:
        file.write(_npy_header(0, size))
        for source in tqdm(sources, "packing", unit="video", disable=not progress):
            begin, length = file.tell(), 0
            try:
                for frame in iterate_video(source.path, image_size=size, stride=stride):
                    file.write(frame.tobytes())
                    length += 1
                if length < least:
                    raise InputError(
                        f"{source.path} has {length} frames at stride {stride}, fewer than the "
                        f"{least} of a sequence: lower min_length or stride, or record it longer."
                    )
            except InputError as error:  # take out what of it is already there
                file.seek(begin)
                file.truncate()
                skipped.append({"name": source.name, "reason": str(error)})
                continue
            videos.append(
                {"name": source.name, "label": source.label, "start": total, "length": length}
            )
            total += length
        file.seek(0)
        file.write(_npy_header(total, size))
        _to_disk(file)
    return videos, skipped


def _npy_header(frames: int, size: int) -> bytes:
    """NumPy's header, which leaves room for the first axis to grow: its length never changes."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (frames, size, size, 3)}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def split_by_label(labels: Sequence[str], fraction: float, seed: int) -> list[str]:
    """``"train"`` or ``"validation"`` for each video, in equal shares of every label.

    A label of n >= 2 videos gives ``round(fraction * n)`` of them to validation, at least 1 and
    at most n - 1; labels of a single video are treated together as one. What a label gives does
    not depend on the other labels. A ``fraction`` of 0 gives none.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        groups[label].append(index)
    alone = [members[0] for members in groups.values() if len(members) == 1]
    shared = {label: members for label, members in groups.items() if len(members) > 1}
    split = ["train"] * len(labels)
    for label, members in [*shared.items(), ("", alone)]:
        most = len(members) - 1
        if fraction == 0 or most < 1:
            continue
        rng = np.random.default_rng([seed, zlib.crc32(label.encode())])
        held_out = min(max(round(fraction * len(members)), 1), most)
        for index in rng.permutation(members)[:held_out]:
            split[index] = "validation"
    return split


def sha256(path: Path) -> str:
    """The sha256 checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def locked_partial(out: Path) -> Iterator[Path]:
    """A hidden empty folder beside ``out`` to build in, for one process at a time.

    It is gone afterwards unless renamed; what a killed process left in it is cleared by the next.

    Raises:
        InputError: if another process is building there, or it cannot be written (a full disk).
    """
    partial = out.with_name(f".{out.name}.partial")
    with disk_errors(out):
        partial.mkdir(parents=True, exist_ok=True)
        with (partial / FRAMES).open("ab") as lock:
            claim(lock, out)
            try:
                yield partial
            finally:
                shutil.rmtree(partial, ignore_errors=True)


def publish(partial: Path, out: Path) -> None:
    """Rename the finished folder ``partial`` to ``out``, in one step."""
    partial.replace(out)
    folder = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
