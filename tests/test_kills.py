"""SIGKILL at random moments must leave no trace in the result of a run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from apv_edu import checkpoint
from apv_edu.data.video import pack_videos
from apv_edu.logger import read_csv

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


def start(data: Path, out: Path) -> subprocess.Popen:
    arguments = ["pretrain", "--data", str(data), "--out", str(out), *OPTIONS]
    return subprocess.Popen(
        [sys.executable, "-m", "apv_edu.cli", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def kill(process: subprocess.Popen) -> bool:
    """Whether it was still running."""
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def identity(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def kill_while_training(data: Path, out: Path, rng: random.Random) -> bool:
    """Start the run and kill it when it has logged a random number of steps, plus a moment.

    The number lies in the first half of what is left to do. Whether it was still running.
    """
    log, saved = out / "metrics.csv", out / "checkpoint.safetensors"
    before = identity(log)
    first = checkpoint.load(saved)[1]["step"] if saved.exists() else 0
    target = rng.randint(first + 1, first + max(1, (STEPS - first) // 2))
    process = start(data, out)
    while process.poll() is None:
        rows = read_csv(log) if identity(log) != before else []  # a resumed run writes a new file
        if rows and rows[-1][0] >= target:
            time.sleep(rng.uniform(0, 0.05))
            break
        time.sleep(0.002)
    return kill(process)


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "checkpoint.safetensors"):
        (tensors, story), (others, other_story) = (checkpoint.load(p / name) for p in (one, other))
        assert {**story, "command": ""} == {**other_story, "command": ""}
        assert tensors.keys() == others.keys()
        for key, tensor in tensors.items():
            assert tensor.numpy().tobytes() == others[key].numpy().tobytes(), key
    logs = ([r for r in read_csv(p / "metrics.csv") if "time" not in r[1]] for p in (one, other))
    mine, theirs = logs
    assert mine == theirs
    assert {row[0] for row in mine} == set(range(1, STEPS + 1))
    files = ({p.name for p in run.iterdir() if p.is_file()} for run in (one, other))
    mine, theirs = files
    assert mine == theirs  # no temporary file is left either


def test_two_kills_leave_no_trace(videos: Path, tmp_path: Path):
    data = pack_videos(videos, tmp_path / "data", min_length=10, progress=False).path
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(data, whole)
    rng = random.Random(time.time_ns())
    finish(uninterrupted)
    kills = 0
    while kills < 2:
        if kill_while_training(data, killed, rng):
            kills += 1
        else:  # it was quicker than the signal: go on with a new run
            assert_same_run(whole, killed)
            killed, kills = tmp_path / f"{killed.name}+", 0
    finish(start(data, killed))
    assert_same_run(whole, killed)


@pytest.mark.long
def test_ten_kills_leave_no_trace(videos: Path, tmp_path: Path):
    """The run packs the videos itself; half the kills fall anywhere, start-up included."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.perf_counter()
    finish(start(videos, whole))
    duration = time.perf_counter() - began
    rng = random.Random(time.time_ns())
    kills = 0
    while kills < 10:
        if (killed / "model.safetensors").exists():  # it was quicker: go on with a new run
            assert_same_run(whole, killed)
            killed = tmp_path / f"killed{kills}"
        if kills % 2:
            kills += kill_while_training(videos, killed, rng)
        else:
            process = start(videos, killed)
            time.sleep(rng.uniform(0, duration))
            kills += kill(process)
    finish(start(videos, killed))
    assert_same_run(whole, killed)
