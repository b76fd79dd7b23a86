from dataclasses import replace

import pytest
import torch

from apv_edu.bench import plain, tricks
from apv_edu.bench.finetune import CONFIGS
from apv_edu.bench.plain import Work

SMOKE = Work(CONFIGS["smoke"], batch=3, pretrain_length=6, finetune_length=9)
SMALLER = replace(SMOKE.config, model=replace(SMOKE.config.model, image_size=32, classes=5))
WORKS = {"64 pixels": SMOKE, "32 pixels": replace(SMOKE, config=SMALLER)}
DETERMINISTIC = {
    "first layer": plain.first_layer,
    "last layer": plain.last_layer,
    "channels": plain.channels,
    "objects": lambda work: plain.scan(work, "", "", "", objects=True),
    "prior": lambda work: plain.scan(work, "", "", "", prior_inside=True),
    "evidence": lambda work: plain.scan(work, "", "", "", evidence_inside=True),
    "all habits": lambda work: plain.scan(
        work, "", "", "", objects=True, prior_inside=True, evidence_inside=True
    ),
    "optimizer": plain.optimizer,
    "bonus": plain.bonus,
    "imagination": tricks.imagination,
}


@pytest.fixture(autouse=True)
def double():
    """In float64 two orders of summing cannot hide a mistake."""
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(torch.float32)


def check_same(pair: plain.Pair, rtol: float, atol: float) -> None:
    one, other = pair.plain(), pair.ours()
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        assert left.any()
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


@pytest.mark.parametrize("work", WORKS.values(), ids=WORKS)
@pytest.mark.parametrize("make", DETERMINISTIC.values(), ids=DETERMINISTIC)
def test_both_ways_compute_the_same(make, work):
    pair = make(work)
    for _ in range(3):  # an optimizer's steps are not alike
        check_same(pair, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("way", ["exponential_", "multinomial"])
def test_samples_have_the_same_distribution(way):
    config = replace(SMOKE.config, model=replace(SMOKE.config.model, stoch=1, classes=3))
    work = Work(config, batch=1, finetune_length=1)
    pair = plain.sampling(work, way)
    many = [
        torch.cat([ours for _ in range(6000) for ours in way()]) for way in (pair.plain, pair.ours)
    ]
    one, other = (torch.bincount(samples, minlength=3) / len(samples) for samples in many)
    assert len(many[0]) == len(many[1]) >= 6000 and min(one) > 0.01
    torch.testing.assert_close(one, other, rtol=0, atol=0.015)


def test_samples_are_as_many_as_an_update_draws():
    pair = plain.sampling(SMOKE, "multinomial")
    starts, size = 3 * 9, SMOKE.config.model
    drawn = starts * (2 + SMOKE.config.behavior.horizon) * size.stoch
    assert len(pair.plain()[0]) == len(pair.ours()[0]) == drawn


def test_the_replays_ways_draw_the_same_sequence():
    torch.set_default_dtype(torch.float32)
    pair = tricks.replay(replace(SMOKE, batch=1), frames=60, episode=20)
    for _ in range(20):
        check_same(pair, rtol=0, atol=0)


@pytest.mark.long
def test_compiled_parts_compute_the_same():
    torch.set_default_dtype(torch.float32)
    pair = tricks.compiling(SMOKE)
    assert pair is not None
    check_same(pair, rtol=1e-3, atol=1e-3)


def test_rows(monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(tricks, "compiling", lambda work: plain.optimizer(work))
    threads = torch.get_num_threads()
    rows = tricks.bench_tricks(
        ("smoke", "smoke"), batch=2, pretrain_length=5, finetune_length=8, rounds=1
    )
    assert torch.get_num_threads() == threads
    assert len(rows) == 2 * 13 and rows[0].keys() == rows[-1].keys()
    assert len({(row["part"], row["plain"]) for row in rows}) == 12  # and the stand-in
    for row in rows:
        assert min(row["plain_s"], row["ours_s"], row["update_s"]) > 0
        assert row["gain"] == pytest.approx(row["plain_s"] / row["ours_s"])
        saved = row["plain_s"] - row["ours_s"]
        assert row["share"] == pytest.approx(saved / row["update_s"])
        assert row["update"] in ("pretraining", "fine-tuning")


def test_without_a_compiler_the_compiled_parts_are_left_out(monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert tricks.compiling(SMOKE) is None
