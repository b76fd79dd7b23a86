"""Time to open a dataset of many videos, time to sample it, and the memory that this takes."""

import json
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

import apv_edu
from apv_edu.bench.measure import MIB, apart, log, private_bytes
from apv_edu.data.packing import FORMAT, FRAMES, MANIFEST
from apv_edu.data.video import VideoDataset

BATCH = (16, 25)
"""Sequences and their length in the paper's pre-training."""


def sparse_dataset(folder: Path, *, videos: int, frames: int, image_size: int = 64) -> Path:
    """Write a packed dataset of black ``videos`` of ``frames`` frames each into ``folder``.

    No frame is ever written, so the file takes no room on a disk that knows sparse files, and
    what is read of it comes from memory: the figures are those of a disk that never delays.
    """
    shape = (videos * frames, image_size, image_size, 3)
    np.lib.format.open_memmap(folder / FRAMES, mode="w+", dtype=np.uint8, shape=shape)
    manifest = {
        "format": FORMAT,
        "apv_edu": apv_edu.__version__,
        "settings": {"image_size": image_size},
        "frames": videos * frames,
        "sha256": "",
        "videos": [
            {
                "name": f"video{index}",
                "label": f"task{index % 50}",
                "split": "train",
                "start": index * frames,
                "length": frames,
            }
            for index in range(videos)
        ],
        "skipped": [],
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def bench_data(
    *, videos: int = 5000, frames: int = 30, image_size: int = 64, batches: int = 2000
) -> list[dict]:
    """One row: seconds to open, milliseconds a batch of 16x25 frames, and private memory.

    Private memory, in MiB, is what the process holds beside pages of mapped files, which the
    system takes back when it needs them: before and after ``batches`` batches. All happens in a
    process of its own, on ``videos`` of ``frames`` frames (see ``sparse_dataset``).
    """
    log.info(f"data: {videos} videos, {batches} batches")
    with TemporaryDirectory() as folder:
        sparse_dataset(Path(folder), videos=videos, frames=frames, image_size=image_size)
        return [apart(_stream, folder, batches)]


def _stream(folder: str, batches: int) -> dict:
    start = time.perf_counter()
    dataset = VideoDataset.open(folder)
    open_s = time.perf_counter() - start
    rng = np.random.default_rng(0)
    dataset.sample(*BATCH, rng)
    before, seconds = private_bytes(), []
    for _ in range(batches):
        start = time.perf_counter()
        dataset.sample(*BATCH, rng)
        seconds.append(time.perf_counter() - start)
    after = private_bytes()
    return {
        "videos": len(dataset.videos),
        "gb": dataset.frames.nbytes / 1e9,
        "open_s": open_s,
        "batch_ms": median(seconds) * 1e3,
        "batches": batches,
        "before_mib": before / MIB,
        "after_mib": after / MIB,
        "grown_mib": (after - before) / MIB,
    }
