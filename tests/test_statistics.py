import numpy as np
import pytest
from scipy import stats

from apv_edu.statistics import bootstrap_interval, wilson_interval


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (8, 10), (10, 10), (1, 3), (57, 200)])
def test_wilson_equals_scipys(successes: int, trials: int):
    share, low, high = wilson_interval(successes, trials)
    wanted = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert share == successes / trials
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert 0 <= low < high <= 1
    assert (low == 0, high == 1) == (successes == 0, successes == trials)


def test_wilson_of_eight_in_ten_as_in_the_tables():
    assert wilson_interval(8, 10) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)


def test_the_bootstrap_of_many_values_is_the_normal_interval():
    values = np.random.default_rng(1).exponential(3.0, 400)
    mean, low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert mean == values.mean()
    assert low == pytest.approx(mean - half, abs=0.1 * half)
    assert high == pytest.approx(mean + half, abs=0.1 * half)
    assert high - mean > mean - low  # the values are skewed


def test_the_bootstrap_of_two_values_is_known():
    """The mean of two draws from {0, 1} is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4."""
    assert bootstrap_interval(np.array([0.0, 1.0])) == (0.5, 0.0, 1.0)
    assert bootstrap_interval(np.full(5, 2.5)) == (2.5, 2.5, 2.5)
    assert bootstrap_interval(np.array([7.0])) == (7.0, 7.0, 7.0)


def test_the_bootstrap_depends_on_its_seed_only():
    values = np.random.default_rng(0).normal(size=9)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
