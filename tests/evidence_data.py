"""What tests of scores and reports share: made results, as arrays and as files."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

REFERENCE = Path(os.environ.get("APV_REFERENCE_DIR", "missing")) / "paper_curves.csv"
"""Every point of the released curves; it is no part of this repository."""
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="needs APV_REFERENCE_DIR")

HEADER = "task,method,seed,env_step,success,return,wall_seconds,cpu_seconds,revision,versions"
TASKS = ("tabletop:reach", "tabletop:push")
STEPS = (3000, 6000, 9000, 12000, 13000)


def made(seed: int, runs: int, gain: float = 0.0) -> np.ndarray:
    """Returns (runs, tasks, steps) that rise to different levels in the two tasks."""
    rng = np.random.default_rng(seed)
    level = np.array([10.0, 30.0])[:, None] * np.linspace(0.2, 1, len(STEPS))
    return level + gain + rng.normal(0, 3, (runs, len(TASKS), len(STEPS)))


def lines(
    method: str, values: np.ndarray, tasks: tuple[str, ...] = TASKS, steps: tuple[int, ...] = STEPS
) -> list[list]:
    """Rows of a sweep's CSV; the success is half of a hundredth of the return."""
    return [
        [tasks[task], method, seed, steps[k], value / 200, value, 9.5, 8.5, "abc", "torch 2"]
        for (seed, task, k), value in np.ndenumerate(values)
    ]


def sweep(path: Path, *parts: list[list]) -> Path:
    with path.open("w", newline="") as file:
        file.write(HEADER + "\n")
        csv.writer(file).writerows(line for part in parts for line in part)
    return path
