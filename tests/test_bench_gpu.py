import math
from types import SimpleNamespace

import pytest
import torch

from apv_edu.bench import gpu
from apv_edu.bench.gpu import SHAPES, bench_gpu
from apv_edu.bench.kernels import bench_kernels, counted
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


def test_kernels_are_those_that_ran_on_a_gpu():
    events = [
        SimpleNamespace(device_type=SimpleNamespace(name=kind), device_time=time)
        for kind, time in (("CUDA", 3.0), ("CPU", 50.0), ("CUDA", 4.5))
    ]
    assert counted(events) == {"kernels": 2, "busy_ms": 0.0075}


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_a_cpu_runs_no_kernels(monkeypatch):
    monkeypatch.setattr(gpu, "compile_parts", lambda *_: None)
    shapes = (("pre-training", 2, 4), ("fine-tuning", 2, 8))
    rows = bench_kernels(("smoke",), shapes=shapes, device="cpu")
    assert [(row["update"], row["way"]) for row in rows] == [
        (shape[0], way) for shape in shapes for way in ("naive eager", "careful eager", "graph")
    ]
    assert {row["kernels"] for row in rows} == {0} and {row["device"] for row in rows} == {"cpu"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(InputError, match="gpu measures a CUDA GPU and there is none here: leave"):
        bench_gpu()
    with pytest.raises(InputError, match="kernels measures a CUDA GPU"):
        bench_kernels()


@pytest.mark.gpu
def test_on_a_gpu_all_ways_run():
    rows = bench_gpu(("small",), shapes=SHAPES[:2], rounds=2, product=256)
    check(rows)
    assert all(row["peak_gib"] > 0 for row in rows)


@pytest.mark.gpu
def test_a_graph_has_fewer_kernels():
    rows = bench_kernels(("small",), shapes=SHAPES[:1])
    kernels = {row["way"]: row["kernels"] for row in rows}
    assert 0 < kernels["graph"] < kernels["careful eager"] < kernels["naive eager"]
