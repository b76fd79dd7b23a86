"""The curves of many runs as one tidy table: who, which seed, when, what."""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from apv_edu import checkpoint
from apv_edu.errors import InputError
from apv_edu.files import write_atomically
from apv_edu.finetune import AGENT, CHECKPOINT
from apv_edu.logger import read_csv

KEPT = ("random/", "eval/", "episode/")
"""Beginnings of the names that are kept: the random policy, evaluations, training episodes."""
CPU = "time/cpu_seconds"


@dataclass(frozen=True)
class Point:
    """One number of one run."""

    task: str
    variant: str
    seed: int
    step: int
    """The agent's steps so far, those of the random start included."""
    cpu_seconds: float
    """The run's own processor time so far."""
    name: str
    """Such as ``eval/return``, ``eval/success``, ``random/success``, ``episode/return``."""
    value: float


def read_run(folder: Path | str) -> list[Point]:
    """The points of a fine-tuning run, finished or not.

    Raises:
        InputError: when the folder holds no run, or a damaged one.
    """
    folder = Path(folder)
    path = next((folder / f for f in (AGENT, CHECKPOINT) if (folder / f).exists()), None)
    if path is None:
        raise InputError(f"{folder} holds no fine-tuning run: pass the OUT of `apv-edu finetune`.")
    settings = checkpoint.load(path)[1].get("settings", {})
    if not {"task", "seed", "agent"} <= settings.keys():
        raise InputError(f"{path} is of no fine-tuning run: pass the OUT of `apv-edu finetune`.")
    who = (settings["task"], settings["agent"]["variant"], settings["seed"])
    rows = read_csv(folder / "metrics.csv")
    cpu = {step: value for step, name, value in rows if name == CPU}
    points, now = [], 0.0
    for step, name, value in rows:
        now = cpu.get(step, now)
        if name.startswith(KEPT):
            points.append(Point(*who, step, round(now, 1), name, float(f"{value:.6g}")))
    return points


def write_points(path: Path | str, points: Sequence[Point]) -> None:
    """Write points as a CSV with a column for each field.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([f.name for f in fields(Point)])
    writer.writerows(astuple(point) for point in points)
    write_atomically(path, text.getvalue().encode())


def read_points(path: Path | str) -> list[Point]:
    """The points of a CSV by ``write_points``.

    Raises:
        InputError: when the file is missing or no such table.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            return [
                Point(
                    row["task"],
                    row["variant"],
                    int(row["seed"]),
                    int(row["step"]),
                    float(row["cpu_seconds"]),
                    row["name"],
                    float(row["value"]),
                )
                for row in csv.DictReader(file)
            ]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no table of learning curves ({error!r}): make one with `apv-edu curves`."
        ) from error
