"""Replay: whole episodes in one ring of frames, on disk one file each, sampled as sequences."""

import io
import os
import re
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

from apv_edu.errors import InputError
from apv_edu.files import disk_errors, remove_leftovers, write_atomically


@dataclass(frozen=True, eq=False)
class Episode:
    """Entry t is the frame seen at t, and the action and reward that led to it (zero at t = 0)."""

    image: UInt8[np.ndarray, "time size size 3"]
    action: Float32[np.ndarray, "time action"]
    reward: Float32[np.ndarray, " time"]
    success: bool | None = None
    """Whether the task was solved at any time, where the task can tell."""


class Batch(NamedTuple):
    """Sequences of equal length; ``is_first`` is True at entry 0 of each and nowhere else."""

    image: UInt8[Tensor, "batch time size size 3"]
    action: Float32[Tensor, "batch time action"]
    reward: Float32[Tensor, "batch time"]
    is_first: Bool[Tensor, "batch time"]


class Replay:
    """The newest whole episodes that fit into ``capacity`` frames, with a ``folder`` also on disk.

    With a ``device`` the frames lie there, a GPU for one, and only indices travel at each sample.

    Raises:
        InputError: if ``capacity`` frames do not fit into memory; it says how many would.
    """

    def __init__(
        self,
        capacity: int,
        image_size: int,
        action_dim: int,
        *,
        folder: Path | str | None = None,
        device: torch.device | None = None,
    ) -> None:
        entry, free = 3 * image_size**2 + 4 * action_dim + 4, available_memory(device)
        if not 1 <= capacity <= free // entry:
            raise InputError(
                f"A replay of {capacity} frames takes {capacity * entry / 1e9:.1f} GB of memory "
                f"and {free / 1e9:.1f} GB are free: choose a capacity of 1 to {free // entry}."
            )
        self._entry = {
            "image": ((image_size, image_size, 3), np.dtype(np.uint8)),
            "action": ((action_dim,), np.dtype(np.float32)),
            "reward": ((), np.dtype(np.float32)),
        }
        self._ring = {
            key: _empty((capacity, *shape), kind, device)
            for key, (shape, kind) in self._entry.items()
        }
        self._on_device = device is not None
        self._spans = np.empty((0, 2), np.int64)
        """Start in the ring, and length, of each episode held, oldest first (episodes, 2)."""
        self._batch: Batch | None = None
        self.capacity = capacity
        self.folder = None if folder is None else Path(folder)
        self.added = 0
        """Episodes ever added, which is also the index of the next."""

    @property
    def episodes(self) -> int:
        """Episodes held."""
        return len(self._spans)

    @property
    def frames(self) -> int:
        """Entries held, of all episodes together."""
        return int(self._spans[:, 1].sum())

    @property
    def nbytes(self) -> int:
        """Bytes of memory when full."""
        return sum(ring.nbytes for ring in self._ring.values())

    def add(self, episode: Episode) -> None:
        """Append an episode, first on disk, and drop as many of the oldest as it takes.

        Their files stay until ``prune``: a killed run goes on from when it still held them.

        Raises:
            InputError: for other shapes or types, numbers that are not finite, an episode longer
                than the replay, a full disk, or a folder with the episodes of another run.
        """
        self._check(episode, "The episode")
        if self.folder is not None:
            if self.added == 0 and _files(self.folder):
                raise InputError(
                    f"{self.folder} holds episodes of another run: restore it or choose another."
                )
            write_episode(self.folder / f"{self.added:06d}-{len(episode.image)}.npz", episode)
        self._append(episode)

    def _append(self, episode: Episode) -> None:
        length = len(episode.image)
        fits = np.cumsum(self._spans[::-1, 1])[::-1] + length <= self.capacity
        start = self._spans[-1].sum() % self.capacity if self.episodes else 0
        rows = (start + np.arange(length)) % self.capacity
        for key, ring in self._ring.items():
            ring[torch.from_numpy(rows)] = torch.from_numpy(getattr(episode, key)).to(ring.device)
        self._spans = np.concatenate([self._spans[fits], [(start, length)]])
        self.added += 1

    def sample(self, batch: int, length: int, rng: np.random.Generator) -> Batch:
        """``batch`` sequences of ``length`` entries, in tensors that the next call overwrites.

        Each is from an episode drawn uniformly among the long enough. Ends are prioritised: of
        ``total + 1`` equally likely starts, those too late for a whole sequence become the last
        possible. The draw does not depend on where the episodes lie in the ring.

        Raises:
            InputError: if no episode is long enough.

        Source: ``_sample_sequence`` of the official ``common/replay.py``, at a fixed length.
        """
        spans = self._spans[self._spans[:, 1] >= length]
        if length < 1 or len(spans) == 0:
            longest = self._spans[:, 1].max(initial=0)
            raise InputError(
                f"The replay has no episode of {length} entries (its longest has {longest}): "
                "ask for shorter sequences or collect longer episodes first."
            )
        begin, total = spans[rng.integers(len(spans), size=batch)].T
        starts = (begin + np.minimum(rng.integers(total + 1), total - length)) % self.capacity
        return self._select(starts, length) if self._on_device else self._copy(starts, length)

    def _copy(self, starts: np.ndarray, length: int) -> Batch:
        batch = len(starts)
        if self._batch is None or self._batch.is_first.shape != (batch, length):
            image, action, reward = (
                _empty((batch, length, *shape), kind) for shape, kind in self._entry.values()
            )
            is_first = (torch.arange(length) == 0).repeat(batch, 1)
            self._batch = Batch(image, action, reward, is_first)
        for key, out in zip(self._ring, self._batch, strict=False):
            ring = self._ring[key].numpy()
            for sequence, start in zip(out.numpy(), starts.tolist(), strict=True):
                head = ring[start : start + length]
                sequence[: len(head)] = head
                if len(head) < length:  # the ring ends within it and goes on from its beginning
                    sequence[len(head) :] = ring[: length - len(head)]
        return self._batch

    def _select(self, starts: np.ndarray, length: int) -> Batch:
        device = self._ring["image"].device
        rows = torch.from_numpy((starts[:, None] + np.arange(length)) % self.capacity).to(device)
        image, action, reward = (ring[rows] for ring in self._ring.values())
        is_first = (torch.arange(length, device=device) == 0).expand(len(starts), -1)
        return Batch(image, action, reward, is_first)

    def prune(self) -> None:
        """Delete the files of dropped episodes: call it after a checkpoint that holds ``added``.

        Raises:
            InputError: if the folder cannot be written.
        """
        if self.folder is not None:
            _delete(_files(self.folder), range(self.added - self.episodes))

    def restore(self, folder: Path | str, *, added: int, episodes: int | None = None) -> None:
        """Hold again what the replay of ``folder`` held after ``added`` episodes, and go on there.

        Files of later episodes (a killed run's future), of dropped ones and halves of files are
        deleted. With ``episodes``, that replay's, not even its oldest can be missing unnoticed.

        Raises:
            InputError: if a file is missing, damaged or of other sizes; nothing is deleted then.
        """
        self.folder = Path(folder)
        files = _files(self.folder)
        oldest = max(0, min([added - 1, *files]) if episodes is None else added - episodes)
        self._spans, self.added = self._spans[:0], oldest
        for index in range(oldest, added):
            path = files.get(index, self.folder / f"{index:06d}-*.npz")
            episode = read_episode(path)
            self._check(episode, str(path))
            self._append(episode)  # drops again what had been dropped
        _delete(files, files.keys() - range(added - self.episodes, added))
        remove_leftovers(self.folder)

    def _check(self, episode: Episode, name: str) -> None:
        for key, (shape, kind) in self._entry.items():
            array, wanted = getattr(episode, key), (*episode.image.shape[:1], *shape)
            if array.dtype != kind or array.shape != wanted:
                raise InputError(
                    f"{name} has {array.dtype} {key} of shape {array.shape}, not {kind} "
                    f"{wanted}: convert it or change the sizes of the replay."
                )
            if not np.isfinite(array).all():
                raise InputError(f"{name} has a {key} that is not finite: mend what computed it.")
        if not 1 <= len(episode.image) <= self.capacity:
            raise InputError(
                f"{name} has {len(episode.image)} entries and the replay takes 1 to "
                f"{self.capacity}: raise its capacity or make episodes shorter."
            )


def _empty(
    shape: tuple[int, ...], kind: np.dtype[Any], device: torch.device | None = None
) -> Tensor:
    # NumPy takes memory page by page as it is written, and large arrays in huge pages, which
    # saves half the time of torch's memory.
    tensor = torch.from_numpy(np.empty(shape, kind))
    return tensor if device is None else torch.empty_like(tensor, device=device)


def write_episode(path: Path | str, episode: Episode) -> None:
    """Write one official episode file, whole or not at all.

    Raises:
        InputError: if the disk is full or the folder cannot be written.
    """
    steps = np.arange(len(episode.image))
    is_last = steps == len(steps) - 1
    arrays = {key: array for key, array in vars(episode).items() if key != "success"}
    arrays |= {"is_first": steps == 0, "is_last": is_last, "is_terminal": is_last & False}
    if episode.success is not None:
        arrays["success"] = is_last & episode.success
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_atomically(path, content.getvalue())


def read_episode(path: Path | str) -> Episode:
    """Read one official episode file; it was a success if any entry was.

    Raises:
        InputError: if it is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            success = bool(file["success"].any()) if "success" in file else None
            return Episode(file["image"], file["action"], file["reward"], success)
    except Exception as error:  # a damaged file makes its parser raise anything
        wrong = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise InputError(f"{path} is {wrong}: put it back or take another folder.") from error


def _files(folder: Path) -> dict[int, Path]:
    """The episodes in ``folder``, ``{index:06d}-{length}.npz``, by index and oldest first."""
    paths = sorted(path for path in folder.glob("*.npz") if re.match("[0-9]{6,}-[0-9]", path.name))
    return {int(path.name.split("-")[0]): path for path in paths}


def _delete(files: dict[int, Path], indices: Container[int]) -> None:
    for path in (path for index, path in files.items() if index in indices):
        with disk_errors(path):
            path.unlink(missing_ok=True)


def available_memory(device: torch.device | None = None) -> int:
    """Bytes that are free for this process: of a GPU, or else of memory within its container."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, ValueError):
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    with suppress(OSError, IndexError):
        table = Path("/proc/meminfo").read_text()
        limits.append(1024 * int(re.findall("MemAvailable: +([0-9]+) kB", table)[0]))
    return min(limits)
