import numpy as np
import pytest
import torch

from apv_edu.bench import replay as bench
from apv_edu.data.replay import Batch, Episode, Replay
from apv_edu.errors import InputError


def test_rows_compare_ways_of_drawing_the_same_batch(monkeypatch):
    monkeypatch.setattr(bench, "BATCHES", ((2, 5), (3, 4)))
    rows = bench.bench_replay(frames=60, episode=20, image_size=8, rounds=2)
    assert [(row["batch"], row["from"]) for row in rows] == [
        (batch, way) for batch in ("2x5", "3x4") for way in ("ring", "official", "lists", "copy")
    ]
    for ring, official, *others in zip(*(rows[way::4] for way in range(4)), strict=True):
        assert official["times_official"] == 1
        for row in (ring, *others):
            assert row["times_official"] == pytest.approx(official["cpu_s"] / row["cpu_s"])
        for row in (ring, official, *others):
            assert row["wall_s"] > 0
            assert row["gb_of_250k"] == pytest.approx(250_000 * (8 * 8 * 3 + 4 * 4 + 4) / 1e9)


@pytest.mark.parametrize("official", [True, False])
def test_lists_draw_what_the_ring_draws(official):
    """One sequence at a time both take the same numbers from the generator."""
    replay = Replay(60, 8, 2)
    rng = np.random.default_rng(0)
    episodes = []
    for length in (20, 9, 31):
        image = rng.integers(0, 256, (length, 8, 8, 3), np.uint8)
        action, reward = rng.random((length, 2), np.float32), rng.random(length, np.float32)
        episodes.append(Episode(image, action, reward))
        replay.add(episodes[-1])
    ours, theirs = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(50):
        wanted = replay.sample(1, 9, ours)
        drawn = bench.sample_lists(episodes, 1, 9, theirs, official=official)
        for name in Batch._fields:
            ring, lists = getattr(wanted, name), getattr(drawn, name)
            assert ring.dtype == lists.dtype and torch.equal(ring, lists)


def test_frames_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="GB are free"):
        bench.bench_replay(frames=10**10)
