"""What runs show: aggregates with intervals, and differences from a baseline, as one tidy table."""

import csv
import importlib.util
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Float

from apv_edu.config import check_seed
from apv_edu.errors import InputError
from apv_edu.files import write_atomically
from apv_edu.scores import RANDOM, Arm, Measure
from apv_edu.statistics import (
    area_under_curve,
    bootstrap_interval,
    half_way,
    iqm,
    stratified_interval,
    verdict,
)

BASELINES = ("DreamerV2", "dreamer")
"""The baseline, the first of these that a suite has, unless another is named."""
RETURNS = {"dmc": 1000.0, "tabletop": 50.0}
"""The scale of a suite's return: the most that an episode of the usual length can give."""
THRESHOLDS = 40
"""Steps of a performance profile from 0 to the scale."""


@dataclass(frozen=True)
class Row:
    """One number of a report, for one method on one suite."""

    suite: str
    method: str
    task: str
    """Empty when the number is over all tasks of the suite."""
    quantity: str
    """``iqm_curve``, ``iqm_end``, ``iqm_half``, ``auc``, ``mean_end``, ``difference_auc``,
    ``difference_end``, ``probability_of_improvement`` or ``profile``."""
    env_step: float | None
    """Environment steps of the evaluation; the threshold of a profile; None for an area."""
    value: float
    low: float | None
    high: float | None
    """Ends of the 95% bootstrap interval; None where there is one run only."""
    runs: int
    """The method's runs of each task."""
    verdict: str = ""
    """Of differences, by the rule of ``apv_edu.statistics.verdict``."""
    measure: Measure = "return"
    baseline: str = ""
    """What differences and probabilities compare with."""


@dataclass(frozen=True)
class Rules:
    """What a report is made by."""

    baseline: str | None = None
    """The method to compare with; None is DreamerV2 or dreamer where there is one."""
    margin: float = 0.05
    """A difference of less than this share of the scale is as good as none."""
    scale: float | None = None
    """The largest return; None is 1000 in dmc and 50 on the tabletop. That of success is 1."""
    seed: int = 0
    """Of the bootstrap."""
    resamples: int = 10_000
    """Of the runs, for aggregates and differences."""
    curve_resamples: int = 2000
    """The same for curves, profiles and probabilities of improvement."""

    def __post_init__(self):
        check_seed(self.seed)
        for name in ("resamples", "curve_resamples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} is too small: give at least 1.")
        if not self.margin > 0:
            raise InputError(f"margin={self.margin} is out of range: give a share such as 0.05.")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise InputError(f"scale={self.scale} is out of range: give the largest return.")

    def scale_of(self, arm: Arm) -> float:
        """The largest value an arm could have; NaN when nobody said."""
        if arm.measure == "success":
            return 1.0
        return self.scale or RETURNS.get(arm.suite, math.nan)


def make_report(arms: Sequence[Arm], rules: Rules) -> list[Row]:
    """All rows: suite by suite, each method by itself, then each beside the baseline.

    Raises:
        InputError: when no suite has the baseline that the rules name, or without rliable.
    """
    if importlib.util.find_spec("rliable") is None:
        raise InputError("A report needs rliable: install it with `pip install apv_edu[evidence]`.")
    methods = sorted({arm.method for arm in arms})
    if rules.baseline not in (None, *methods):
        names = ", ".join(methods)
        raise InputError(f"There is no baseline {rules.baseline!r}: choose one of {names}.")
    rows: list[Row] = []
    for suite in dict.fromkeys(arm.suite for arm in arms):
        of_suite = [arm for arm in arms if arm.suite == suite]
        for arm in of_suite:
            rows += _alone(arm, _top(of_suite, rules), rules)
        base = _baseline(of_suite, rules)
        for arm in of_suite:
            if base is not None and arm.method not in (base.method, RANDOM):
                rows += _compared(arm, base, rules)
    return rows


def _baseline(arms: Sequence[Arm], rules: Rules) -> Arm | None:
    found = {arm.method: arm for arm in arms}
    names = BASELINES if rules.baseline is None else (rules.baseline,)
    return next((found[name] for name in names if name in found), None)


def _top(arms: Sequence[Arm], rules: Rules) -> float:
    """Where the profiles of a suite end: at its scale, or else at the best run."""
    scale = rules.scale_of(arms[0])
    return max(arm.values[..., -1].max() for arm in arms) if math.isnan(scale) else scale


def _alone(arm: Arm, top: float, rules: Rules) -> Iterator[Row]:
    from rliable.library import score_distributions
    from rliable.metrics import aggregate_mean

    make = _maker(arm)
    often = {"seed": rules.seed, "resamples": rules.resamples}
    less = {"seed": rules.seed, "resamples": rules.curve_resamples}
    end, half = arm.values[..., -1], half_way(arm.steps)
    last = float(arm.steps[-1])
    if arm.method == RANDOM:  # which has no curve
        yield make("iqm_end", last, stratified_interval(_one(iqm), end, **often)[:, 0])
    else:
        curve = stratified_interval(iqm, arm.values, **less)
        for step, interval in zip(arm.steps, curve.T, strict=True):
            yield make("iqm_curve", float(step), interval)
        three = np.stack(
            [end, arm.values[..., half], area_under_curve(arm.values, arm.steps)], axis=-1
        )
        names = {"iqm_end": last, "iqm_half": float(arm.steps[half]), "auc": None}
        intervals = stratified_interval(iqm, three, **often)
        for (name, step), interval in zip(names.items(), intervals.T, strict=True):
            yield make(name, step, interval)
    mean = stratified_interval(_one(aggregate_mean), end, **often)[:, 0]
    yield make("mean_end", last, mean)
    for task, runs in zip(arm.tasks, end.T, strict=True):
        mean, low, high = bootstrap_interval(runs, **often)
        known = (low, high) if len(runs) > 1 else (math.nan, math.nan)
        yield make("mean_end", last, (mean, *known), task)
    # Rounded, so that a threshold of 0.7 is no more and no less than a success of 0.7.
    thresholds = np.round(np.linspace(0, top, THRESHOLDS + 1), 6)
    profile = stratified_interval(lambda runs: score_distributions(runs, thresholds), end, **less)
    for threshold, interval in zip(thresholds, profile.T, strict=True):
        yield make("profile", float(threshold), interval)


def _compared(arm: Arm, base: Arm, rules: Rules) -> Iterator[Row]:
    from rliable.metrics import probability_of_improvement

    make, last = _maker(arm, base.method), float(arm.steps[-1])
    ends = [each.values[..., -1] for each in (arm, base)]
    both = [
        np.stack([area_under_curve(each.values, each.steps), each.values[..., -1]], axis=-1)
        for each in (arm, base)
    ]
    margin = rules.margin * rules.scale_of(arm)
    differences = stratified_interval(
        lambda ours, theirs: iqm(ours) - iqm(theirs),
        *both,
        seed=rules.seed,
        resamples=rules.resamples,
    )
    names = {"difference_auc": None, "difference_end": last}
    for (name, step), interval in zip(names.items(), differences.T, strict=True):
        yield make(name, step, interval, margin=margin)
    better = stratified_interval(
        _one(probability_of_improvement), *ends, seed=rules.seed, resamples=rules.curve_resamples
    )
    yield make("probability_of_improvement", last, better[:, 0])


def _one(function: Callable[..., Any]) -> Callable[..., Float[np.ndarray, "1"]]:
    """``function`` with its number as an array."""
    return lambda *arms: np.array([function(*arms)])


def _maker(arm: Arm, baseline: str = "") -> Callable[..., Row]:
    """A function that makes rows of ``arm``, rounded, so that a file holds just what is said."""

    def make(
        quantity: str,
        step: float | None,
        interval: Sequence[float],
        task: str = "",
        margin: float | None = None,
    ) -> Row:
        value, low, high = (round(float(f"{number:.5g}"), 6) + 0.0 for number in interval)
        said = "" if margin is None else verdict(low, high, margin)
        ends = (None, None) if math.isnan(low) else (low, high)
        return Row(
            arm.suite, arm.method, task, quantity, step, value, *ends,
            len(arm.values), said, arm.measure, baseline,
        )  # fmt: skip

    return make


def write_report(path: Path | str, rows: Sequence[Row]) -> None:
    """Write rows as a CSV with a column for each field, whole or not at all.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = asdict(row).items()
        writer.writerow({k: f"{v:.10g}" if isinstance(v, float) else v for k, v in cells})
    write_atomically(path, text.getvalue().encode())


def read_report(path: Path | str) -> list[Row]:
    """The rows of a CSV by ``write_report``.

    Raises:
        InputError: when the file is missing or no such table.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            return [_row(line) for line in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no report ({error!r}): make one with `apv-edu report`."
        ) from error


def _row(line: dict[str, str]) -> Row:
    if line["measure"] not in get_args(Measure):
        raise ValueError(f"measure {line['measure']!r}")
    cells: dict[str, Any] = dict(line)
    cells |= {k: float(line[k]) if line[k] else None for k in ("env_step", "low", "high")}
    return Row(**(cells | {"value": float(line["value"]), "runs": int(line["runs"])}))


def table(rows: Sequence[Row]) -> str:
    """The main numbers as text: what each method reached, then how it differs from the baseline."""
    lines = []
    for suite in dict.fromkeys(row.suite for row in rows):
        of_suite = [row for row in rows if row.suite == suite]
        found = {(row.method, row.quantity): row for row in of_suite if not row.task}
        methods = list(dict.fromkeys(row.method for row in of_suite))
        tasks = len({row.task for row in of_suite if row.task})
        wide = max(map(len, methods))
        names = ("iqm_end", "iqm_half", "auc", "mean_end")
        lines += [
            f"{suite}: {of_suite[0].measure} over {tasks} task{'s' * (tasks > 1)}",
            f"  {'':{wide}}  runs" + "".join(f"  {name:22}" for name in names).rstrip(),
        ]
        for method in methods:
            cells = [f"{_shown(found.get((method, name))):22}" for name in names]
            runs = found[method, "mean_end"].runs
            lines.append(f"  {method:{wide}}  {runs:4}  {'  '.join(cells)}".rstrip())
        for method in methods:
            if (method, "difference_end") not in found:
                continue
            area, end, better = (
                found[method, name]
                for name in ("difference_auc", "difference_end", "probability_of_improvement")
            )
            lines += [
                f"  {method} - {end.baseline}: area {_shown(area)} {area.verdict}; "
                f"end {_shown(end)} {end.verdict}; better with probability {_shown(better)}"
            ]
    return "\n".join(lines)


def _shown(row: Row | None) -> str:
    """A value and its interval."""
    if row is None:
        return "-"
    value, *ends = (
        f"{float(f'{number:.3g}'):g}"  # three digits, and 1000 rather than 1e+03
        for number in (row.value, row.low, row.high)
        if number is not None
    )
    return f"{value} [{', '.join(ends)}]" if ends else value
