import numpy as np
import pytest
from scipy import stats

from apv_edu.statistics import (
    area_under_curve,
    bootstrap_interval,
    half_way,
    iqm,
    stratified_interval,
    verdict,
    wilson_interval,
)


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


def middle_half(values: np.ndarray) -> float:
    """The IQM by hand, of any shape."""
    ordered = np.sort(values.ravel())
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean()


def by_hand(function, *arms: np.ndarray, resamples: int = 2500) -> np.ndarray:
    """A stratified bootstrap: for each task its runs are drawn anew, in each arm by itself."""
    rng = np.random.default_rng(123)
    drawn = []
    for _ in range(resamples):
        again = [
            np.stack([runs[rng.integers(len(runs), size=len(runs))] for runs in arm.T], axis=1)
            for arm in arms
        ]
        drawn.append(function(*again))
    return np.percentile(drawn, (2.5, 97.5))


RNG = np.random.default_rng(5)
LEVELS = np.array([0.0, 5.0, 20.0])
OURS = LEVELS + RNG.normal(size=(8, 3))  # runs, tasks
THEIRS = LEVELS + RNG.exponential(2.0, size=(5, 3))


@pytest.mark.parametrize("runs", [1, 4, 5, 8])
def test_iqm_is_the_mean_of_the_middle_half(runs: int):
    scores = np.random.default_rng(runs).exponential(size=(runs, 3, 2))
    assert iqm(scores) == pytest.approx([middle_half(scores[..., k]) for k in range(2)])
    assert float(iqm(scores[..., 0])) == pytest.approx(middle_half(scores[..., 0]))


def test_the_area_is_a_mean_height():
    steps = np.array([10, 20, 50])
    values = np.array([[[1.0, 3.0, 3.0], [0.0, 0.0, 4.0]]])
    assert area_under_curve(values, steps) == pytest.approx(np.array([[110 / 40, 60 / 40]]))
    assert area_under_curve(values[..., :1], steps[:1]) == pytest.approx(np.array([[1.0, 0.0]]))


@pytest.mark.parametrize(
    ("steps", "half"),
    [
        (5000 + 10_000 * np.arange(25), 125_000),
        (2000 + 20_000 * np.arange(50), 502_000),
        (np.array([3000, 6000, 9000, 12_020]), 6000),  # the last one is late
        (np.array([3000, 6000, 9000]), 6000),
        (np.array([7]), 7),
    ],
)
def test_half_way(steps: np.ndarray, half: int):
    assert steps[half_way(steps)] == half


@pytest.mark.parametrize("function", [middle_half, np.mean])
def test_the_interval_is_that_of_a_stratified_bootstrap(function):
    value, low, high = stratified_interval(
        lambda scores: np.array([function(scores)]), OURS, resamples=1500
    )[:, 0]
    wanted = by_hand(function, OURS)
    assert value == pytest.approx(function(OURS))
    assert (low, high) == pytest.approx(tuple(wanted), abs=0.1 * np.ptp(wanted))


def test_the_interval_of_a_difference_draws_each_arm_by_itself():
    def difference(a: np.ndarray, b: np.ndarray) -> float:
        return middle_half(a) - middle_half(b)

    value, low, high = stratified_interval(
        lambda a, b: iqm(a[..., None]) - iqm(b[..., None]), OURS, THEIRS, resamples=1500
    )[:, 0]
    wanted = by_hand(difference, OURS, THEIRS)
    assert value == pytest.approx(difference(OURS, THEIRS))
    assert (low, high) == pytest.approx(tuple(wanted), abs=0.1 * np.ptp(wanted))
    alone = stratified_interval(  # the same runs in both arms are no pairs
        lambda a, b: iqm(a[..., None]) - iqm(b[..., None]), OURS, OURS, resamples=200
    )
    assert alone[0] == 0 and alone[1] < 0 < alone[2]


def test_the_interval_depends_on_its_seed_only():
    def interval(seed: int) -> list[float]:
        return stratified_interval(iqm, OURS[..., None], seed=seed, resamples=50)[:, 0].tolist()

    np.random.seed(1)  # noqa: NPY002
    first, drawn = interval(3), np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert np.random.random() == drawn  # noqa: NPY002 (nobody else's draws are moved)
    assert interval(3) == first
    assert interval(4) != first
    assert len(interval(2**63)) == 3


def test_one_run_has_no_interval():
    for arms in ((OURS[:1],), (OURS, OURS[:1])):
        value, low, high = stratified_interval(lambda *a: iqm(a[0][..., None]), *arms)
        assert value == pytest.approx(middle_half(arms[0]))
        assert np.isnan(low) and np.isnan(high)


NAN = float("nan")


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.2, "shows"),
        (0.01, 0.03, "shows"),  # however small
        (0.0, 0.2, "undecided"),
        (0.0, 0.05, "absent"),
        (-0.05, 0.05, "absent"),
        (-0.02, 0.0, "absent"),
        (0.0, 0.0, "absent"),
        (-0.051, 0.05, "undecided"),
        (-0.05, 0.051, "undecided"),
        (-0.2, 0.0, "undecided"),
        (-0.2, -0.01, "shows the opposite"),
        (-0.2, 0.3, "undecided"),
        (NAN, NAN, "undecided"),
    ],
)
def test_the_verdict_at_its_borders(low: float, high: float, word: str):
    assert verdict(low, high, margin=0.05) == word


def test_without_a_margin_nothing_is_absent():
    assert verdict(-0.01, 0.01, NAN) == "undecided"
    assert verdict(0.01, 0.02, NAN) == "shows"
