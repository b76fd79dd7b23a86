"""Reports of made results against a few lines of NumPy, and of the released curves."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evidence_data import REFERENCE, STEPS, TASKS, lines, made, needs_reference, sweep
from test_statistics import by_hand, middle_half

from apv_edu import cli
from apv_edu.errors import InputError
from apv_edu.report import Row, Rules, make_report, read_report, table
from apv_edu.scores import Score, arrange, read_scores

RELEASED = Path(__file__).parents[1] / "assets" / "results" / "released.csv"
OURS, THEIRS, RANDOM = made(0, 6, gain=4.0), made(1, 4), made(2, 4)[..., :1]
QUICK = Rules(resamples=1500, curve_resamples=600)
ROUGH = Rules(resamples=300, curve_resamples=5)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sweep(
        tmp_path_factory.mktemp("sweep") / "results.csv",
        lines("random", RANDOM, steps=(0,)),
        lines("dreamer", THEIRS),
        lines("apv", OURS),
    )


@pytest.fixture(scope="module")
def rows(results: Path) -> list[Row]:
    return make_report(arrange(read_scores(results)), QUICK)


def found(rows: list[Row], method: str, quantity: str, task: str = "") -> list[Row]:
    return [row for row in rows if (row.method, row.quantity, row.task) == (method, quantity, task)]


def areas(values: np.ndarray) -> np.ndarray:
    """The mean height of curves by hand."""
    widths = np.diff(STEPS)
    return ((values[..., 1:] + values[..., :-1]) / 2 * widths).sum(-1) / widths.sum()


def close(row: Row, value: float, ends: np.ndarray, atom: float = 0.0) -> None:
    """The value to its digits, the interval to what two bootstraps (of atoms) differ by."""
    assert row.value == pytest.approx(value, rel=1e-4, abs=1e-6)
    assert (row.low, row.high) == pytest.approx(tuple(ends), abs=0.1 * np.ptp(ends) + atom)


@pytest.mark.parametrize(("method", "values"), [("apv", OURS), ("dreamer", THEIRS)])
def test_aggregates_of_made_results(rows: list[Row], method: str, values: np.ndarray):
    half = STEPS.index(6000)  # hardly before half of 13000
    of_runs = {
        "iqm_end": (13_000, values[..., -1]),
        "iqm_half": (6000, values[..., half]),
        "auc": (None, areas(values)),
    }
    for quantity, (step, scores) in of_runs.items():
        (row,) = found(rows, method, quantity)
        assert (row.env_step, row.runs) == (step, len(values))
        close(row, middle_half(scores), by_hand(middle_half, scores))
    curve = found(rows, method, "iqm_curve")
    assert [row.env_step for row in curve] == list(STEPS)
    for k, row in enumerate(curve):
        assert row.value == pytest.approx(middle_half(values[..., k]), rel=1e-4)
    close(curve[1], middle_half(values[..., 1]), by_hand(middle_half, values[..., 1]))
    end = values[..., -1]
    close(found(rows, method, "mean_end")[0], end.mean(), by_hand(np.mean, end))
    for k, task in enumerate(TASKS):
        (row,) = found(rows, method, "mean_end", task.split(":")[1])
        close(row, end[:, k].mean(), by_hand(np.mean, end[:, [k]]))


def test_profiles_of_made_results(rows: list[Row]):
    end = OURS[..., -1]
    profile = found(rows, "apv", "profile")
    assert [row.env_step for row in profile] == np.linspace(0, 50, 41).tolist()
    for row in profile:
        assert row.env_step is not None
        assert row.value == pytest.approx((end > row.env_step).mean(), rel=1e-4)
    assert profile[28].env_step == 35 and 0 < profile[28].value < 1
    share = lambda scores: (scores > 35).mean()
    close(profile[28], share(end), by_hand(share, end), atom=1 / 12)


def better(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How often one of ours is above one of theirs, ties by half, averaged over tasks."""
    pairs = ours[:, None] - theirs[None]
    return ((pairs > 0) + 0.5 * (pairs == 0)).mean()


def test_differences_of_made_results(rows: list[Row]):
    for quantity, function in (("difference_end", lambda v: v[..., -1]), ("difference_auc", areas)):
        (row,) = found(rows, "apv", quantity)
        assert (row.baseline, row.runs) == ("dreamer", 6)
        arms = function(OURS), function(THEIRS)
        difference = lambda a, b: middle_half(a) - middle_half(b)
        close(row, difference(*arms), by_hand(difference, *arms))
        assert row.low is not None
        assert row.verdict == ("shows" if row.low > 0 else "undecided")
    (row,) = found(rows, "apv", "probability_of_improvement")
    arms = OURS[..., -1], THEIRS[..., -1]
    close(row, better(*arms), by_hand(better, *arms), atom=1 / 24)
    for quantity in ("difference_end", "difference_auc", "probability_of_improvement"):
        assert len([row for row in rows if row.quantity == quantity]) == 1


def test_ties_count_by_half():
    values = np.round(made(3, 6) / 3) * 3
    arms = arrange([*read_lines("dreamer", values), *read_lines("apv", values + 3)])
    (row,) = found(make_report(arms, ROUGH), "apv", "probability_of_improvement")
    assert row.value == pytest.approx(better(values[..., -1] + 3, values[..., -1]), rel=1e-4)


def read_lines(method: str, values: np.ndarray) -> Iterator[Score]:
    for (seed, task, k), value in np.ndenumerate(values):
        yield Score("tabletop", "return", method, str(task), seed, STEPS[k], float(value))


def test_the_random_policy_has_an_end_and_no_curve(rows: list[Row]):
    (row,) = found(rows, "random", "iqm_end")
    assert row.env_step == 0 and row.value == pytest.approx(middle_half(RANDOM), rel=1e-4)
    kinds = {row.quantity for row in rows if row.method == "random"}
    assert kinds == {"iqm_end", "mean_end", "profile"}


def test_one_run_has_no_interval_and_decides_nothing():
    arms = arrange([*read_lines("dreamer", THEIRS[:1]), *read_lines("apv", OURS)])
    report = make_report(arms, ROUGH)
    (row,) = found(report, "apv", "difference_end")
    assert (row.low, row.high, row.verdict) == (None, None, "undecided")
    alone = [row for row in report if row.method == "dreamer"]
    assert alone and all(row.low is None and row.high is None for row in alone)
    assert all(row.low is not None for row in report if row.method == "apv" and not row.baseline)
    assert "undecided" in table(report)


@pytest.mark.parametrize(
    ("shift", "rules", "word"),
    [
        (9.0, ROUGH, "shows"),
        (-9.0, ROUGH, "shows the opposite"),
        (0.0, ROUGH, "undecided"),
        (0.0, replace(ROUGH, margin=0.5), "absent"),
        (0.0, replace(ROUGH, scale=500.0), "absent"),
    ],
)
def test_the_words_of_differences(shift: float, rules: Rules, word: str):
    values = made(4, 5)
    arms = arrange([*read_lines("dreamer", values), *read_lines("apv", values + shift)])
    (row,) = found(make_report(arms, rules), "apv", "difference_end")
    assert row.verdict == word


def test_the_baseline(results: Path):
    arms = arrange(read_scores(results))
    report = make_report(arms, replace(ROUGH, baseline="apv"))
    assert {(row.method, row.baseline) for row in report if row.baseline} == {("dreamer", "apv")}
    report = make_report([arm for arm in arms if arm.method != "dreamer"], ROUGH)
    assert not any(row.baseline or row.verdict for row in report)
    with pytest.raises(InputError, match="no baseline 'x': choose one of apv, dreamer, random"):
        make_report(arms, replace(ROUGH, baseline="x"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"resamples": 0}, "resamples=0 is too small"),
        ({"curve_resamples": 0}, "curve_resamples=0 is too small"),
        ({"margin": 0.0}, "margin=0.0 is out of range"),
        ({"margin": float("nan")}, "margin=nan is out of range"),
        ({"scale": 0.0}, "scale=0.0 is out of range"),
        ({"seed": -1}, "seed=-1 is out of range"),
    ],
)
def test_rules_out_of_range(change: dict, word: str):
    with pytest.raises(InputError, match=word):
        replace(ROUGH, **change)


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main(["report", *map(str, arguments)])
    out, error = capsys.readouterr()
    return status, out, error


FEW = ["--resamples", 40, "--curve-resamples", 20]


def test_the_command_writes_the_same_report_again(results: Path, tmp_path: Path, capsys):
    names = ["report.csv", "curves.png", "end.png", "profile.png", "improvement.png"]
    first, second = tmp_path / "first", tmp_path / "second"
    status, out, _ = call(capsys, results, "--out", first, *FEW)
    assert status == 0
    assert out.splitlines()[-5:] == [str(first / name) for name in names]
    assert "tabletop: return over 2 tasks" in out and "apv - dreamer: area " in out
    np.random.seed(7)  # noqa: NPY002
    assert call(capsys, results, "--out", second, *FEW)[0] == 0
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    report = make_report(arrange(read_scores(results)), Rules(resamples=40, curve_resamples=20))
    assert read_report(first / "report.csv") == report
    header = (first / "report.csv").read_text().splitlines()[0]
    assert header.startswith("suite,method,task,quantity,env_step,value,low,high,runs,verdict,")
    assert call(capsys, results, "--out", second, *FEW, "--seed", 1)[0] == 0
    other = read_report(second / "report.csv")
    for quantity in {row.quantity for row in report}:
        one, two = ([r for r in rows if r.quantity == quantity] for rows in (report, other))
        assert one != two, quantity
        assert [row.value for row in one] == [row.value for row in two]


def test_the_command_puts_files_together(results: Path, tmp_path: Path, capsys):
    part = sweep(tmp_path / "part.csv", lines("naive", made(8, 2)))
    other = sweep(tmp_path / "other.csv", lines("apv", made(9, 2), ("dmc:a", "dmc:b")))
    assert call(capsys, results, part, other, "--out", tmp_path, *FEW)[0] == 0
    report = read_report(tmp_path / "report.csv")
    methods = list(dict.fromkeys((row.suite, row.method) for row in report))
    names = ("random", "dreamer", "apv", "naive")
    assert methods == [*(("tabletop", name) for name in names), ("dmc", "apv")]
    assert (tmp_path / "improvement.png").exists()
    assert call(capsys, other, "--out", tmp_path, *FEW)[0] == 0  # here is no baseline
    assert not (tmp_path / "improvement.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--out {out}", "No file is named"),
        ("{out}/none.csv --out {out}", "none.csv cannot be read"),
        ("{csv} --out {out} --baseline x", "There is no baseline 'x'"),
        ("{csv} --out {out} --margin -1", "margin=-1.0 is out of range"),
        ("{csv} --out {out} --seed -1", "seed=-1 is out of range"),
        ("{csv} {csv} --out {out}", "is there twice"),
    ],
)
def test_bad_input_is_one_line(results, tmp_path, capsys, arguments: str, message: str):
    words = arguments.format(out=tmp_path / "out", csv=results).split()
    status, out, error = call(capsys, *words)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert message in error
    assert not (tmp_path / "out").exists()


def test_without_rliable_the_remedy_is_named(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, out, error = call(capsys, results, "--out", tmp_path / "out")
    assert (status, out) == (2, "") and "apv_edu[evidence]" in error


def test_tables_that_are_no_report(results: Path, tmp_path: Path):
    for path in (results, tmp_path / "none.csv"):
        with pytest.raises(InputError, match=rf"{path.name} is no report"):
            read_report(path)


PAPER = {
    ("metaworld", "DreamerV2"): (0.679, 0.575, 0.767, 0.329, 0.596),
    ("metaworld", "APV"): (0.954, 0.912, 0.979, 0.787, 0.856),
    ("dmc", "DreamerV2"): (701, 631, 771, 412, 665),
    ("dmc", "APV (Locomotion)"): (797, 766, 825, 608, 714),
    ("dmc", "APV (Manipulation)"): (782, 728, 829, 529, 716),
}
"""IQM at the end, its interval, IQM at half, mean at the end, of the released curves."""


def agrees(report: list[Row]) -> None:
    for (suite, method), (value, low, high, half, mean) in PAPER.items():
        of_suite = [row for row in report if row.suite == suite]
        digits, slack = (3, 0.02) if suite == "metaworld" else (0, 15)
        (end,) = found(of_suite, method, "iqm_end")
        assert round(end.value, digits) == value
        assert (end.low, end.high) == pytest.approx((low, high), abs=slack)
        assert round(found(of_suite, method, "iqm_half")[0].value, digits) == half
        assert round(found(of_suite, method, "mean_end")[0].value, digits) == mean
        assert end.runs == 8


@needs_reference
def test_the_released_curves_give_the_papers_numbers():
    agrees(make_report(arrange(read_scores(REFERENCE)), Rules(resamples=500, curve_resamples=2)))


def test_the_shipped_report_holds_the_papers_numbers():
    agrees(read_report(RELEASED))
    assert RELEASED.stat().st_size < 200_000


@needs_reference
def test_the_shipped_report_is_that_of_the_released_curves():
    few = make_report(arrange(read_scores(REFERENCE)), Rules(resamples=2, curve_resamples=2))
    blank = {"low": None, "high": None, "verdict": ""}
    assert [replace(row, **blank) for row in read_report(RELEASED)] == [
        replace(row, **blank) for row in few
    ]
