"""Means with intervals, of episodes and of runs, and what an interval says about an effect."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float, Num

Z95 = 1.959963984540054
"""The normal quantile of a two-sided 95% interval."""


def bootstrap_interval(
    values: Float[np.ndarray, " n"], *, seed: int = 0, resamples: int = 10_000
) -> tuple[float, float, float]:
    """Mean, and the 95% percentile bootstrap interval of the mean.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", chapter 13.
    """
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def wilson_interval(successes: int, trials: int) -> tuple[float, float, float]:
    """Share of successes, and its 95% score interval, which is not empty at 0 or at 1.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
    """
    share = successes / trials
    centre = share + Z95**2 / (2 * trials)
    spread = Z95 * math.sqrt(share * (1 - share) / trials + Z95**2 / (4 * trials**2))
    scale = 1 + Z95**2 / trials
    low = (centre - spread) / scale if successes > 0 else 0.0  # not a rounding error beside it
    high = (centre + spread) / scale if successes < trials else 1.0
    return share, low, high


def iqm(scores: Float[np.ndarray, "runs tasks *rest"]) -> Float[np.ndarray, "*rest"]:
    """Interquartile mean of the runs of all tasks: the mean without a quarter at either end.

    It is ``rliable.metrics.aggregate_iqm`` for each of the rest at once.
    Source: Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice",
    NeurIPS 2021.
    """
    from scipy.stats import trim_mean

    return trim_mean(scores.reshape(-1, *scores.shape[2:]), proportiontocut=0.25, axis=0)


def area_under_curve(
    values: Float[np.ndarray, "runs tasks steps"], steps: Num[np.ndarray, " steps"]
) -> Float[np.ndarray, "runs tasks"]:
    """Mean height of each run's curve between its first and its last evaluation, by trapezoids."""
    if len(steps) == 1:
        return values[..., 0]
    return np.trapezoid(values, steps, axis=-1) / (steps[-1] - steps[0])


def half_way(steps: Num[np.ndarray, " steps"]) -> int:
    """Index of the first evaluation at half of the last one's steps.

    One that is a little early (by up to a quarter of the steps between evaluations) counts, for
    the last one is a little late: episodes are played to their end.
    """
    early = np.median(np.diff(steps)) / 4 if len(steps) > 1 else 0
    return int(np.argmax(steps >= steps[-1] / 2 - early))


def stratified_interval(
    function: Callable[..., Float[np.ndarray, " n"]],
    *arms: Float[np.ndarray, "_ tasks *rest"],
    seed: int = 0,
    resamples: int = 10_000,
) -> Float[np.ndarray, "3 n"]:
    """``function(*arms)``, and the low and high ends of its 95% stratified bootstrap intervals.

    Runs are drawn with replacement within each task, and independently in each arm. The interval
    is NaN where an arm has only one run, which says nothing about others. Of arms with more axes
    than runs and tasks each number is drawn by itself: such intervals hold for one step each.

    Source: Agarwal et al., 2021, with their library rliable.
    """
    from rliable.library import get_interval_estimates

    if min(len(arm) for arm in arms) < 2:
        value = function(*arms)
        return np.stack([value, np.full_like(value, np.nan), np.full_like(value, np.nan)])
    with _numpy_seed(seed):
        points, intervals = get_interval_estimates({"": list(arms)}, function, reps=resamples)
    return np.stack([points[""], *intervals[""]])


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Within, NumPy's global generator starts at ``seed``: rliable draws from it alone.

    Its ``random_state`` reaches arch's part of the bootstrap, which draws nothing.
    """
    before = np.random.get_state()  # noqa: NPY002
    start = np.random.RandomState(np.random.MT19937(seed))
    np.random.set_state(start.get_state())  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def verdict(low: float, high: float, margin: float) -> str:
    """What the 95% interval of a difference says about an effect, in a word or three.

    ``shows`` when the interval lies above 0 and ``shows the opposite`` when it lies below; else
    ``absent`` when it lies within ``-margin`` and ``margin``, the ends included: an effect that
    matters would have shown. Else, and when there is no interval (NaN), ``undecided``.
    """
    if low > 0:
        return "shows"
    if high < 0:
        return "shows the opposite"
    return "absent" if -margin <= low and high <= margin else "undecided"
