import numpy as np
import pytest

from apv_edu.bench.render import SAMPLES, bench_render, outline_change
from apv_edu.errors import InputError


@pytest.mark.gl
def test_rows_compare_both_qualities_of_the_same_world():
    (row,) = bench_render(repeats=2, worlds=("dmc:quadruped-walk",))
    assert row["world"] == "dmc:quadruped-walk"
    assert row["ratio"] == pytest.approx(row["fast_fps"] / row["exact_fps"])
    assert 0.1 < row["difference"] < 12
    assert 0 <= row["outline_pixels"] < 20 and 0 <= row["outline_shift_px"] <= 1


def test_unknown_world():
    with pytest.raises(InputError, match="dmc:quadruped-walk"):
        bench_render(worlds=("dmc:quadruped_walk",))


def pictures(size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Twice the same two things, of 2 x 4 and of 3 x 3 pixels, before nothing."""
    picture = np.zeros((size * SAMPLES, size * SAMPLES), np.int32)
    picture[SAMPLES : 3 * SAMPLES, SAMPLES : 5 * SAMPLES] = 5
    picture[5 * SAMPLES :, 5 * SAMPLES :] = 7
    return picture, picture.copy()


def test_equal_outlines_and_those_that_move_by_less_than_half_a_pixel():
    some, others = pictures()
    assert outline_change(some, others) == (0, 0)
    others[SAMPLES, :] = 0
    others[6 * SAMPLES, 6 * SAMPLES] = 0  # a pinhole
    assert outline_change(some, others) == (0, 0)


@pytest.mark.parametrize("turned", [False, True])
def test_outlines_that_move(turned):
    some, others = pictures()
    others[SAMPLES : SAMPLES + 2] = 0
    assert outline_change(*((others, some) if turned else (some, others))) == (4, 0.5)
    some, others = pictures()
    others[SAMPLES : 4 * SAMPLES, SAMPLES : 5 * SAMPLES] = 5
    assert outline_change(*((others, some) if turned else (some, others))) == (4, 1)
    others[SAMPLES : 5 * SAMPLES, SAMPLES : 5 * SAMPLES] = 5
    assert outline_change(*((others, some) if turned else (some, others))) == (8, 2)


def test_a_thing_that_is_gone_or_another_in_its_place():
    some, others = pictures()
    others[others == 7] = 0
    assert outline_change(some, others) == (9, np.inf)
    others[some == 7] = 8
    assert outline_change(some, others) == (9, np.inf)
