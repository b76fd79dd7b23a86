import math

import pytest
import torch

from apv_edu.bench import gpu
from apv_edu.bench.gpu import SHAPES, bench_gpu
from apv_edu.errors import InputError

WAYS = {"naive eager", "careful eager", "graph", "arithmetic"}


def check(rows: list[dict]) -> None:
    for row in rows:
        wall = row["wall_ms"]
        assert 0 < wall < math.inf
        others = {r["way"]: r["wall_ms"] for r in rows if r["batch"] == row["batch"]}
        assert set(others) == WAYS
        assert row["times_naive"] == pytest.approx(others["naive eager"] / wall)
        assert row["times_careful"] == pytest.approx(others["careful eager"] / wall)
        runs = {"pre-training": 600_000, "fine-tuning": 50_000}
        assert row["run_h"] == pytest.approx(runs[row["update"]] * wall / 3.6e6)
    work = {row["batch"]: row["tflops"] * row["wall_ms"] for row in rows}
    assert all(r["tflops"] * r["wall_ms"] == pytest.approx(work[r["batch"]]) for r in rows)


def test_the_same_code_on_a_cpu(monkeypatch):
    """Nothing is compiled or recorded there, but every way runs."""
    monkeypatch.setattr(gpu, "compile_parts", lambda *_: None)
    shapes = (("pre-training", 2, 4), ("fine-tuning", 2, 8))
    rows = bench_gpu(("smoke",), shapes=shapes, device="cpu", rounds=1, product=16)
    assert len(rows) == len(WAYS) * len(shapes)
    check(rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(InputError, match="gpu measures a CUDA GPU and there is none here: leave"):
        bench_gpu()


@pytest.mark.gpu
def test_on_a_gpu_all_ways_run():
    rows = bench_gpu(("small",), shapes=SHAPES[:2], rounds=2, product=256)
    check(rows)
    assert all(row["peak_gib"] > 0 for row in rows)
