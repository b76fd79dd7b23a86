"""Means with intervals: the bootstrap for returns, Wilson's interval for success rates."""

import math

import numpy as np
from jaxtyping import Float

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
