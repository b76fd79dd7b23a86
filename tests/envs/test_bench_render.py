import pytest

from apv_edu.bench.render import bench_render
from apv_edu.errors import InputError


@pytest.mark.gl
def test_rows_compare_both_qualities_of_the_same_world():
    (row,) = bench_render(repeats=2, worlds=("dmc:quadruped-walk",))
    assert row["world"] == "dmc:quadruped-walk"
    assert row["ratio"] == pytest.approx(row["fast_fps"] / row["exact_fps"])
    assert 0.1 < row["difference"] < 12


def test_unknown_world():
    with pytest.raises(InputError, match="dmc:quadruped-walk"):
        bench_render(worlds=("dmc:quadruped_walk",))
