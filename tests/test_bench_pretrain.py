import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from apv_edu.bench import measure
from apv_edu.bench import pretrain as bench
from apv_edu.bench.naive import NaiveStep
from apv_edu.config import ModelSize
from apv_edu.video_model import ActionFreeVideoModel


@pytest.mark.parametrize("image_size", [32, 64])
def test_flop_count_agrees_with_torch_on_the_naive_step(image_size):
    size = ModelSize(image_size=image_size, depth=4, deter=24, hidden=16, stoch=4, classes=5)
    step = NaiveStep(ActionFreeVideoModel(size))
    frames = torch.zeros(2, 20, image_size, image_size, 3, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        step.step(frames)
    # torch leaves out a few gradients of the first step, whose input is the zero state.
    counted = bench.flops_per_step(size, 2, 20)
    assert counted == pytest.approx(counter.get_total_flops(), rel=5e-3)


def test_paper_size_work_is_as_published():
    assert bench.flops_per_step(bench.SIZES["paper"], 16, 25) == pytest.approx(239e9, rel=0.01)


def test_rows(monkeypatch):
    monkeypatch.setattr(measure, "GEMM", 256)
    monkeypatch.setattr(bench, "compiled", lambda model, step: 7.5)
    threads = torch.get_num_threads()
    rows = bench.bench_pretrain(("smoke", "smoke"), batch=2, length=5, rounds=2)
    assert torch.get_num_threads() == threads
    assert [row["step"] for row in rows] == ["apv_edu", "naive", "fast"] * 2
    naive = rows[1]
    assert naive["times_naive"] == 1
    for row in rows[:3]:
        assert row["size"] == "smoke" and row["wall_s"] > 0 and row["cpu_s"] > 0
        assert row["times_naive"] == pytest.approx(naive["cpu_s"] / row["cpu_s"])
        work = bench.flops_per_step(bench.SIZES["smoke"], 2, 5) / 1e9
        assert row["gflops"] * row["cpu_s"] == pytest.approx(work)
        assert row["share_of_peak"] == pytest.approx(row["gflops"] / row["sgemm_gflops"])
        assert row["compile_s"] == (7.5 if row["step"] == "fast" else 0)


def test_without_a_compiler_there_is_no_fast_row(monkeypatch, caplog):
    monkeypatch.setattr(measure, "GEMM", 256)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with caplog.at_level("INFO"):
        rows = bench.bench_pretrain(("smoke",), batch=2, length=5, rounds=1)
    assert [row["step"] for row in rows] == ["apv_edu", "naive"]
    assert "C++ compiler" in caplog.text


def test_a_step_of_the_book_learns():
    model = ActionFreeVideoModel(bench.SIZES["smoke"])
    before = [parameter.clone() for parameter in model.parameters()]
    bench.book_step(model, bench.random_frames(bench.SIZES["smoke"], 2, 3))()
    pairs = zip(before, model.parameters(), strict=True)
    assert not any(torch.equal(old, new) for old, new in pairs)
