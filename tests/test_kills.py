"""SIGKILL at random moments must leave no trace in the result of a pre-training run."""

import random
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from run_killing import (
    Start,
    assert_same_file,
    assert_same_log,
    assert_same_names,
    finish,
    kill_anywhere,
    kill_while_training,
    start_command,
)

from apv_edu.data.video import pack_videos

STEPS = 30
OPTIONS = (
    f"--preset smoke --steps {STEPS} --checkpoint-every 3 --log-every 1 --validate-every 6 "
    "--horizon 2 --validation-videos 2 --threads 1 --device cpu --seed 5 --no-progress"
).split()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for index in range(4):
        video = np.cumsum(rng.integers(0, 20, (12, 64, 64, 3)), axis=0).astype(np.uint8)
        np.savez(folder / f"noise-{index}-12.npz", image=video)
    return folder


def on(data: Path) -> Start:
    def start(out: Path) -> subprocess.Popen:
        return start_command("pretrain", "--data", data, "--out", out, *OPTIONS)

    return start


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert_same_file(one / name, other / name, free=["command"])
    assert {row[0] for row in assert_same_log(one, other)} == set(range(1, STEPS + 1))
    assert_same_names(one, other)


def test_two_kills_leave_no_trace(videos: Path, tmp_path: Path):
    start = on(pack_videos(videos, tmp_path / "data", min_length=10, progress=False).path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(whole)
    rng = random.Random(time.time_ns())
    finish(uninterrupted)
    kills = 0
    while kills < 2:
        if kill_while_training(start, killed, STEPS, rng):
            kills += 1
        else:  # it was quicker than the signal: go on with a new run
            assert_same_run(whole, killed)
            killed, kills = tmp_path / f"{killed.name}+", 0
    finish(start(killed))
    assert_same_run(whole, killed)


@pytest.mark.long
def test_ten_kills_leave_no_trace(videos: Path, tmp_path: Path):
    """The run packs the videos itself; half the kills fall anywhere, start-up included."""
    start = on(videos)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.perf_counter()
    finish(start(whole))
    duration = time.perf_counter() - began
    rng = random.Random(time.time_ns())
    kills = runs = 0
    while kills < 10:
        if (killed / "model.safetensors").exists():  # it was quicker: go on with a new run
            assert_same_run(whole, killed)
            runs += 1
            killed = tmp_path / f"killed{runs}"
        if kills % 2:
            kills += kill_while_training(start, killed, STEPS, rng)
        else:
            kills += kill_anywhere(start, killed, duration, rng)
    finish(start(killed))
    assert_same_run(whole, killed)
