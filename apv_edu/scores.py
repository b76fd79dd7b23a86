"""The results of many runs, read from sweeps and from released files, as arrays to compare."""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from apv_edu.errors import InputError
from apv_edu.pickled_arrays import read_array_tree

Measure = Literal["success", "return"]
RANDOM = "random"
"""The method whose runs learn nothing and are evaluated once."""
SWEEP = ("task", "method", "seed", "env_step", "success", "return")
"""What is read of a table by ``apv-edu sweep``; the task is ``suite:task``."""
CURVES = ("suite", "method", "task", "seed", "env_step", "value")
"""The columns of a table of published curves."""
EVALUATIONS = {"metaworld": (5000, 10_000), "dmc": (2000, 20_000)}
"""Environment steps of the first evaluation, and between two, in the authors' raw files.

Source: the released raw data; the curves reach 245 000 and 982 000 environment steps.
"""


@dataclass(frozen=True)
class Score:
    """One evaluation of one run."""

    suite: str
    measure: Measure
    method: str
    task: str
    seed: int
    env_step: int
    value: float


@dataclass(frozen=True)
class Arm:
    """All runs of one method on the tasks of a suite, evaluated at the same steps."""

    suite: str
    measure: Measure
    method: str
    tasks: tuple[str, ...]
    steps: Int[np.ndarray, " steps"]
    """Environment steps of the evaluations: medians over all runs of the suite."""
    values: Float[np.ndarray, "runs tasks steps"]


def measure_of(suite: str) -> Measure:
    """What the suite is judged by: success on Meta-World, return elsewhere."""
    return "success" if suite == "metaworld" else "return"


def read_scores(path: Path | str, measure: Measure | None = None) -> list[Score]:
    """The scores of a sweep's CSV, of a CSV of published curves, or of the authors' raw .pkl.

    Args:
        path: the file; its columns, or the ending ``.pkl``, tell its kind.
        measure: what to read of a sweep; by default ``measure_of`` the suite.

    Raises:
        InputError: when the file is missing, damaged, of no such kind, or without the measure.
    """
    path = Path(path)
    scores = _raw(path) if path.suffix == ".pkl" else _table(path, measure)
    if not scores:
        raise InputError(f"{path} holds no results: pass a table with at least one row.")
    other = next((score for score in scores if measure not in (None, score.measure)), None)
    if other is not None:
        raise InputError(
            f"{path} holds the {other.measure} of {other.suite} only: leave out the measure."
        )
    return scores


def _table(path: Path, measure: Measure | None) -> list[Score]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            if not (columns.issuperset(SWEEP) or columns.issuperset(CURVES)):
                raise InputError(
                    f"{path} has neither the columns {','.join(SWEEP)} of a sweep nor "
                    f"{','.join(CURVES)} of published curves: pass such a table, or a .pkl."
                )
            read = _published if columns.issuperset(CURVES) else _swept
            scores = []
            for line in reader:
                try:
                    score = read(line, measure)
                    if not math.isfinite(score.value):
                        raise ValueError(f"{score.value} is no result")
                except (TypeError, ValueError, AttributeError) as error:
                    raise InputError(
                        f"{path}, line {reader.line_num}: {error}; mend or remove the line."
                    ) from error
                scores.append(score)
            return scores
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}): check the name of the file.") from error


def _swept(line: dict[str, str], measure: Measure | None) -> Score:
    suite, colon, task = line["task"].partition(":")
    if not (suite and colon and task):
        raise ValueError(f"the task {line['task']!r} is no suite:task")
    chosen = measure or measure_of(suite)
    if not line[chosen]:
        raise ValueError(f"{suite} tells no {chosen}")
    where = (int(line["seed"]), int(line["env_step"]))
    return Score(suite, chosen, line["method"], task, *where, float(line[chosen]))


def _published(line: dict[str, str], _: Measure | None) -> Score:
    suite, where = line["suite"], (int(line["seed"]), int(line["env_step"]))
    value = float(line["value"])
    return Score(suite, measure_of(suite), line["method"], line["task"], *where, value)


def _raw(path: Path) -> list[Score]:
    """The authors' ``{method: {"suite_task": array (runs, evaluations)}}``."""
    scores = []
    for method, tasks in read_array_tree(path).items():
        for name, values in tasks.items() if isinstance(tasks, dict) else ():
            suite, _, task = name.partition("_")
            array = values if isinstance(values, np.ndarray) else np.array(None)
            if suite not in EVALUATIONS or array.ndim != 2 or array.dtype.kind != "f":
                raise InputError(
                    f"{path} holds {method!r}, {name!r}, which is no array of runs and "
                    "evaluations of metaworld_... or dmc_...: pass metaworld_raw_data.pkl or "
                    "dmc_raw_data.pkl."
                )
            if not np.isfinite(array).all():
                raise InputError(
                    f"{path} holds numbers of {method!r}, {name!r} that are not finite: "
                    "download it again."
                )
            first, apart = EVALUATIONS[suite]
            scores += [
                Score(suite, measure_of(suite), method, task, run, first + apart * k, float(value))
                for (run, k), value in np.ndenumerate(array)
            ]
    return scores


def arrange(scores: Iterable[Score]) -> list[Arm]:
    """Scores as one array for each suite and method, in the order in which they appear.

    Within a suite the k-th evaluations of all runs count as one step. Methods may have different
    numbers of runs; the random policy's only evaluation is an arm of its own with one step.

    Raises:
        InputError: when a cell is there twice or missing, or evaluations do not match.
    """
    cells: dict[tuple[str, str], dict[tuple[str, int], dict[int, float]]] = {}
    measures: dict[str, Measure] = {}
    tasks: dict[str, dict[str, None]] = {}
    for score in scores:
        who = f"{score.suite}, {score.method}, {score.task}, seed {score.seed}"
        runs = cells.setdefault((score.suite, score.method), {})
        run = runs.setdefault((score.task, score.seed), {})
        if score.env_step in run:
            raise InputError(
                f"Step {score.env_step} of {who} is there twice: pass each result once."
            )
        run[score.env_step] = score.value
        measures[score.suite] = score.measure
        tasks.setdefault(score.suite, {})[score.task] = None
    arms = {}
    for suite, names in tasks.items():
        methods = [method for where, method in cells if where == suite]
        for group in (set(methods) - {RANDOM}, {RANDOM}):
            runs = {method: cells[suite, method] for method in methods if method in group}
            for method, found in runs.items():
                _check_complete(suite, method, found, tuple(names))
            steps = _common_steps(suite, runs)
            for method, found in runs.items():
                seeds = sorted({seed for _, seed in found})
                values = np.array(
                    [
                        [
                            [value for _, value in sorted(found[task, seed].items())]
                            for task in names
                        ]
                        for seed in seeds
                    ]
                )
                arm = Arm(suite, measures[suite], method, tuple(names), steps, values)
                arms[suite, method] = arm
    return [arms[key] for key in cells]


def _check_complete(
    suite: str, method: str, found: Iterable[tuple[str, int]], tasks: Sequence[str]
) -> None:
    found = set(found)
    seeds = sorted({seed for _, seed in found})
    missing = [f"{task} seed {s}" for task in tasks for s in seeds if (task, s) not in found]
    if missing:
        shown = ", ".join(missing[:6]) + ", ..." * (len(missing) > 6)
        raise InputError(
            f"{suite}, {method} lacks {len(missing)} runs ({shown}): finish them, or report other "
            "tasks and seeds apart, for every method needs each of its seeds on every task."
        )


def _common_steps(
    suite: str, runs: dict[str, dict[tuple[str, int], dict[int, float]]]
) -> Int[np.ndarray, " steps"]:
    """The steps of the k-th evaluations, if they are the same in all runs but for a few steps."""
    steps = {
        f"{method}, {task}, seed {seed}": sorted(run)
        for method, found in runs.items()
        for (task, seed), run in found.items()
    }
    if not steps:
        return np.zeros(0, np.int64)
    least = min(steps, key=lambda name: len(steps[name]))
    most = max(steps, key=lambda name: len(steps[name]))
    if len(steps[least]) != len(steps[most]):
        raise InputError(
            f"{suite}: {least} has {len(steps[least])} evaluations and {most} has "
            f"{len(steps[most])}: finish the shorter run, or report them apart."
        )
    table = np.array(list(steps.values()))
    common = np.rint(np.median(table, 0)).astype(np.int64)
    apart = np.median(np.diff(common)) if len(common) > 1 else max(common[0], 1)
    spread = np.ptp(table, 0)
    if spread.max() >= apart / 2:
        k = int(spread.argmax())
        raise InputError(
            f"{suite}: evaluation {k + 1} is at {table[:, k].min()} to {table[:, k].max()} "
            f"environment steps in different runs, though only {apart:g} lie between evaluations: "
            "report runs of other budgets apart."
        )
    return common
