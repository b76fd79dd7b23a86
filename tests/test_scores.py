"""Results of runs, read from three kinds of files."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from evidence_data import HEADER, REFERENCE, STEPS, lines, made, needs_reference, sweep

from apv_edu.errors import InputError
from apv_edu.scores import EVALUATIONS, arrange, measure_of, read_scores

PUBLISHED = "suite,method,task,seed,env_step,value\n"


def arms_of(path: Path, measure=None) -> dict:
    return {(arm.suite, arm.method): arm for arm in arrange(read_scores(path, measure))}


def test_a_sweep_as_arrays(tmp_path: Path):
    ours, theirs = made(0, 4), made(1, 2)
    random = made(2, 4)[..., :1]
    mixed = lines("apv", ours)[::-1]  # the order of rows is the sweep's own
    path = sweep(
        tmp_path / "a.csv", lines("random", random, steps=(0,)), mixed, lines("dreamer", theirs)
    )
    arms = arms_of(path)
    assert list(arms) == [("tabletop", name) for name in ("random", "apv", "dreamer")]
    arm = arms["tabletop", "apv"]
    assert arm.tasks == ("reach", "push") and arm.measure == "return"
    assert arm.steps.tolist() == list(STEPS)
    np.testing.assert_allclose(arm.values, ours)
    np.testing.assert_allclose(arms["tabletop", "dreamer"].values, theirs)
    assert arms["tabletop", "random"].steps.tolist() == [0]
    np.testing.assert_allclose(arms["tabletop", "random"].values, random)


def test_the_measure(tmp_path: Path):
    values = made(0, 2)[:, :1]
    for suite, wanted in (("metaworld", "success"), ("dmc", "return"), ("tabletop", "return")):
        path = sweep(tmp_path / "a.csv", lines("apv", values, (f"{suite}:x",)))
        for asked in (None, "success", "return"):
            (arm,) = arms_of(path, asked).values()
            assert arm.measure == (asked or wanted)
            scale = 200 if arm.measure == "success" else 1
            np.testing.assert_allclose(arm.values * scale, values)


def test_a_world_that_tells_no_success(tmp_path: Path):
    rows = [[*row[:4], "", *row[5:]] for row in lines("apv", made(0, 1))]
    path = sweep(tmp_path / "a.csv", rows)
    assert len(read_scores(path)) == len(rows)
    with pytest.raises(InputError, match=r"a\.csv, line 2: tabletop tells no success"):
        read_scores(path, "success")


def test_steps_that_are_nearly_the_same(tmp_path: Path):
    """Episodes are played to their end, so that the last evaluation may be a little late."""
    parts = [
        [[*row[:2], seed, *row[3:]] for row in lines("apv", made(0, 1), steps=steps)]
        for seed, steps in enumerate(
            [(3000, 6000, 9000, 12000, 12050), (3000, 6010, 9000, 12000, 12100), (3001, *STEPS[1:])]
        )
    ]
    (arm,) = arms_of(sweep(tmp_path / "a.csv", *parts)).values()
    assert arm.steps.tolist() == [3000, 6000, 9000, 12000, 12100]
    assert arm.values.shape == (3, 2, 5)
    far = [[*row[:2], 3, *row[3:]] for row in lines("apv", made(0, 1), steps=(4500, *STEPS[1:]))]
    with pytest.raises(InputError, match=r"evaluation 1 is at 3000 to 4500 .* only 3000 lie"):
        arms_of(sweep(tmp_path / "a.csv", *parts, far))
    near = [[*row[:2], 3, *row[3:]] for row in lines("apv", made(0, 1), steps=(4499, *STEPS[1:]))]
    assert arms_of(sweep(tmp_path / "a.csv", *parts, near))


def test_other_numbers_of_evaluations_are_named(tmp_path: Path):
    part = lines("apv", made(0, 2))
    path = sweep(tmp_path / "a.csv", lines("dreamer", made(0, 3)), part[:-1])
    with pytest.raises(
        InputError, match=r"apv, push, seed 1 has 4 evaluations and dreamer, .* has 5: finish"
    ):
        arms_of(path)


def test_missing_cells_are_named(tmp_path: Path):
    part = [row for row in lines("apv", made(0, 3)) if row[:3] != ["tabletop:push", "apv", 1]]
    path = sweep(tmp_path / "a.csv", lines("dreamer", made(0, 5)), part)
    with pytest.raises(InputError, match=r"tabletop, apv lacks 1 runs \(push seed 1\): finish"):
        arms_of(path)
    other = lines("apv", made(0, 9)[:, :1], ("tabletop:x",))
    path = sweep(tmp_path / "a.csv", lines("dreamer", made(0, 9)), other)
    with pytest.raises(InputError, match=r"dreamer lacks 9 runs \(x seed 0, .* x seed 5, \.\.\.\)"):
        arms_of(path)


def test_a_result_that_is_there_twice(tmp_path: Path):
    part = lines("apv", made(0, 2))
    path = sweep(tmp_path / "a.csv", part, part[3:4])
    with pytest.raises(InputError, match="Step 12000 of tabletop, apv, reach, seed 0 is there twi"):
        arms_of(path)


TABLES = {
    "empty": ("", "has neither the columns task,method,"),
    "other": ("a,b\n1,2\n", "nor suite,method,task,seed,env_step,value of published curves"),
    "no rows": (PUBLISHED, "holds no results"),
    "binary": ("\0\1\2", "has neither the columns"),
    "short": (PUBLISHED + "dmc,APV\n", "line 2"),
    "word": (PUBLISHED + "dmc,APV,a,0,2000,high\n", "line 2: could not convert"),
    "step": (PUBLISHED + "dmc,APV,a,0,2e3,1\n", "line 2: invalid literal"),
    "nan": (PUBLISHED + "dmc,APV,a,0,2000,1\ndmc,APV,a,0,3000,nan\n", "line 3: nan is no result"),
    "no suite": (HEADER + "\nreach,apv,0,0,1,1,1,1,a,b\n", "the task 'reach' is no suite:task"),
    "half a row": (HEADER + "\n" + "tabletop:reach,apv", "line 2"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_are_none(tmp_path: Path, name: str):
    path = tmp_path / "a.csv"
    path.write_text(TABLES[name][0])
    with pytest.raises(InputError) as caught:
        read_scores(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and message.endswith(".") and "\n" not in message
    assert TABLES[name][1] in message


def test_no_file_or_no_text(tmp_path: Path):
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("a.csv", "b.csv"):
        with pytest.raises(InputError, match=rf"{name} cannot be read"):
            read_scores(tmp_path / name)
    with pytest.raises(InputError, match="There is no file"):
        read_scores(tmp_path / "a.pkl")


def test_the_authors_raw_files(tmp_path: Path):
    rng = np.random.default_rng(0)
    reach, hop = rng.random((8, 25)), 1000 * rng.random((8, 50)).astype(np.float32)
    path = tmp_path / "a.pkl"
    path.write_bytes(
        pickle.dumps({"APV": {"metaworld_lever_pull": reach}, "X": {"dmc_hopper_hop": hop}})
    )
    arms = arms_of(path)
    arm = arms["metaworld", "APV"]
    assert arm.tasks == ("lever_pull",) and arm.measure == "success"
    assert arm.steps[[0, 1, -1]].tolist() == [5000, 15_000, 245_000]
    np.testing.assert_array_equal(arm.values[:, 0], reach)
    arm = arms["dmc", "X"]
    assert arm.tasks == ("hopper_hop",) and arm.measure == "return"
    assert arm.steps[[0, 1, -1]].tolist() == [2000, 22_000, 982_000]
    np.testing.assert_array_equal(arm.values[:, 0], hop)
    with pytest.raises(InputError, match="holds the success of metaworld only: leave out"):
        read_scores(path, "return")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"APV": np.zeros((8, 25))}, "holds no results"),
        ({"APV": {"rlbench_reach": np.zeros((8, 25))}}, "'rlbench_reach', which is no array of"),
        ({"APV": {"metaworld_reach": np.zeros(25)}}, "which is no array of runs"),
        ({"APV": {"metaworld_reach": {}}}, "which is no array of runs"),
        ({"APV": {"metaworld_reach": np.zeros((8, 25), int)}}, "which is no array of runs"),
        ({"APV": {"metaworld_reach": np.full((8, 25), np.nan)}}, "that are not finite"),
        ({"APV": {"metaworld_reach": np.zeros((8, 0))}}, "holds no results"),
        ((np.zeros(3),), "something else than dictionaries"),
    ],
)
def test_raw_files_of_something_else(tmp_path: Path, value, words: str):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(InputError, match=words):
        read_scores(path)


@needs_reference
def test_the_released_curves(tmp_path: Path):
    """The table and raw files made of it are the same scores, by the same convention of steps."""
    arms = arms_of(REFERENCE)
    assert {key: arm.values.shape for key, arm in arms.items()} == {
        ("metaworld", "DreamerV2"): (8, 6, 25),
        ("metaworld", "APV"): (8, 6, 25),
        ("dmc", "DreamerV2"): (8, 3, 50),
        ("dmc", "APV (Locomotion)"): (8, 3, 50),
        ("dmc", "APV (Manipulation)"): (8, 3, 50),
    }
    for (suite, method), arm in arms.items():
        first, apart = EVALUATIONS[suite]
        assert arm.steps.tolist() == [first + apart * k for k in range(len(arm.steps))]
        assert arm.measure == measure_of(suite)
        tree = {method: {f"{suite}_{t}": arm.values[:, k] for k, t in enumerate(arm.tasks)}}
        path = tmp_path / "a.pkl"
        path.write_bytes(pickle.dumps(tree, 2))
        again = arms_of(path)[suite, method]
        assert (again.tasks, again.measure) == (arm.tasks, arm.measure)
        np.testing.assert_array_equal(again.steps, arm.steps)
        np.testing.assert_array_equal(again.values, arm.values)
