"""The tables of a sweep: what its finished runs measured, what its video models took."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apv_edu.errors import InputError
from apv_edu.files import write_atomically
from apv_edu.sweep_jobs import FinetuneJob, PretrainJob

TABLE, MODELS = "results.csv", "models.csv"
COLUMNS = (
    "task",
    "method",
    "seed",
    "env_step",
    "success",
    "return",
    "wall_seconds",
    "cpu_seconds",
    "revision",
    "versions",
)
RANDOM = "random"


def write_table(path: Path, cells: Sequence[FinetuneJob]) -> None:
    """Write the rows of the runs that are done, sorted, the random policy's once for each seed.

    Raises:
        InputError: when a ``done.json`` is damaged or of other settings, or the disk is full.
    """
    rows: dict[tuple, dict[str, Any]] = {}
    methods = {
        name: index for index, name in enumerate(dict.fromkeys(c.cell.method for c in cells))
    }
    for cell in cells:
        if (story := cell.done()) is None:
            continue
        for row in story["rows"]:
            versions = "; ".join(f"{name} {value}" for name, value in story["versions"].items())
            order = methods.get(row["method"], -1)
            row = {**row, "revision": story["revision"], "versions": versions}
            rows.setdefault((row["task"], order, row["seed"], row["env_step"]), row)
    _write(path, COLUMNS, [rows[key] for key in sorted(rows)])


def write_models(path: Path, models: Sequence[PretrainJob]) -> None:
    """Write what each video model that is done took: its updates, and seconds by the clock.

    Raises:
        InputError: when a ``done.json`` or a log is damaged or of other settings, or the disk full.
    """
    columns = ("model", "seed", "updates", "clock_seconds")
    _write(path, columns, [model.row() for model in models if model.done() is not None])


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] for row in rows)
    write_atomically(path, text.getvalue().encode())


def adopt(path: Path, cells: Sequence[FinetuneJob]) -> int:
    """Count those runs as done that a table of the same grid has, and say how many they were.

    A run that has been done in its own folder stays as it is. The table does not tell all the
    settings of its runs; that their last evaluation is the grid's last is what can be checked.

    Raises:
        InputError: when the table is missing, damaged, or has runs of another length.
    """
    rows: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not set(COLUMNS).issubset(reader.fieldnames or ()):
                raise ValueError(f"its columns are not {','.join(COLUMNS)}")
            for row in map(_typed, reader):
                rows.setdefault((row["task"], row["method"], row["seed"]), []).append(row)
    except (OSError, UnicodeDecodeError, csv.Error, TypeError, ValueError) as error:
        raise InputError(f"{path} is no table of a sweep ({error}): name a results.csv.") from error
    adopted = 0
    for job in cells:
        cell = job.cell
        found = rows.get((cell.task, cell.method, cell.seed))
        if found is None or job.done() is not None:
            continue
        last, wanted = found[-1], cell.config.steps * cell.config.world.action_repeat
        if last["env_step"] < wanted:
            raise InputError(
                f"{path}: the run {cell.task}, {cell.method}, {cell.seed} ends at step "
                f"{last['env_step']} and the grid goes on to {wanted}: name a table of this grid."
            )
        random = rows.get((cell.task, RANDOM, cell.seed), [])
        story = {key: last[key] for key in ("revision", "versions", "wall_seconds", "cpu_seconds")}
        kept = [
            {k: v for k, v in row.items() if k not in ("revision", "versions")}
            for row in random + found
        ]
        job.finish(story | {"rows": kept, "table": path.name})
        adopted += 1
    return adopted


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    versions = (pair.rpartition(" ") for pair in row["versions"].split("; "))
    numbers = {name: float(row[name]) for name in ("return", "wall_seconds", "cpu_seconds")}
    return {
        **{name: row[name] for name in ("task", "method", "revision")},
        **{name: int(row[name]) for name in ("seed", "env_step")},
        "success": float(row["success"]) if row["success"] else None,
        **numbers,
        "versions": {name: version for name, _, version in versions},
    }
