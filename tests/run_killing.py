"""How the tests kill runs, and what it means that two runs are the same."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from apv_edu import checkpoint
from apv_edu.logger import read_csv

Start = Callable[[Path], subprocess.Popen]
"""Starts the run whose folder is given, in a process of its own."""


def start_command(*arguments: object) -> subprocess.Popen:
    """``apv-edu`` with ``arguments``."""
    return subprocess.Popen(
        [sys.executable, "-m", "apv_edu.cli", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def kill(process: subprocess.Popen) -> bool:
    """Whether it was still running."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def kill_while_training(start: Start, out: Path, steps: int, rng: random.Random) -> bool:
    """Start the run and kill it when it has logged a random number of steps, plus a moment.

    The number lies in the first half of what is left to do. Whether it was still running.
    """
    log, saved = out / "metrics.csv", out / "checkpoint.safetensors"
    before = _identity(log)
    first = checkpoint.load(saved)[1]["step"] if saved.exists() else 0
    target = rng.randint(first + 1, first + max(1, (steps - first) // 2))
    process = start(out)
    while process.poll() is None:
        rows = read_csv(log) if _identity(log) != before else []  # a resumed run writes a new file
        if rows and rows[-1][0] >= target:
            time.sleep(rng.uniform(0, 0.05))
            break
        time.sleep(0.002)
    return kill(process)


def kill_anywhere(start: Start, out: Path, within: float, rng: random.Random) -> bool:
    """Start the run and kill it at a random moment of its first ``within`` seconds."""
    process = start(out)
    time.sleep(rng.uniform(0, within))
    return kill(process)


def assert_same_file(one: Path, other: Path, free: Container[str] = ()) -> None:
    """Two checkpoints with the same tensors, bit for bit, and story, but for ``free`` of it."""

    def fixed(story: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in story.items() if name not in free}

    (tensors, story), (others, other_story) = (checkpoint.load(path) for path in (one, other))
    assert fixed(story) == fixed(other_story)
    assert tensors.keys() == others.keys()
    for key, tensor in tensors.items():
        assert tensor.numpy().tobytes() == others[key].numpy().tobytes(), key


def assert_same_log(one: Path, other: Path) -> list[tuple[int, str, float]]:
    """Two run folders with the same rows but for the clock's; returns them."""
    logs = ([r for r in read_csv(p / "metrics.csv") if "time" not in r[1]] for p in (one, other))
    mine, theirs = logs
    assert mine == theirs
    return mine


def assert_same_names(one: Path, other: Path) -> None:
    """Two folders with files of the same names: no temporary one is left either."""
    files = ({p.name for p in run.iterdir() if p.is_file()} for run in (one, other))
    mine, theirs = files
    assert mine == theirs


def _identity(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None
