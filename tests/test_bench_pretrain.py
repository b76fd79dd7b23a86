import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from apv_edu.bench import __main__ as command
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


def test_rows_and_json(monkeypatch, tmp_path, capsys):
    tiny = ModelSize(image_size=32, depth=1, deter=4, hidden=4, stoch=2, classes=2)
    monkeypatch.setattr(bench, "SIZES", {"small": tiny, "paper": tiny})
    monkeypatch.setattr(bench, "ROUNDS", {"small": 2, "paper": 2})
    monkeypatch.setattr(bench, "GEMM", 256)
    threads = torch.get_num_threads()
    assert command.main(["pretrain", "--json", str(tmp_path / "bench.json")]) == 0
    assert torch.get_num_threads() == threads
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["size"], row["step"]) for row in rows] == [
        (size, step) for size in ("small", "paper") for step in ("apv_edu", "naive")
    ]
    for ours, naive in zip(rows[::2], rows[1::2], strict=True):
        assert ours["times_naive"] == pytest.approx(naive["cpu_s"] / ours["cpu_s"])
        assert 0 < ours["share_of_peak"] < 1
        work = bench.flops_per_step(tiny, 16, 25) / 1e9
        assert ours["gflops"] * ours["cpu_s"] == pytest.approx(work)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == list(rows[0]) and len(printed) == 1 + len(rows)
    assert f"{rows[0]['cpu_s']:.3g}" in printed[1].split()


def test_an_unwritable_file_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench, "bench_pretrain", lambda: [{"size": "small", "cpu_s": 1.0}])
    assert command.main(["pretrain", "--json", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
