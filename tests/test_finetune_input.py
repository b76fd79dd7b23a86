import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from finetune_runs import (
    LIMIT,
    SIZE,
    TASK,
    Silence,
    assert_same_run,
    nothing_in,
    quick,
    refused,
    run,
)
from gymnasium.wrappers import RescaleAction

from apv_edu import checkpoint
from apv_edu.data import replay as replay_module
from apv_edu.data.video import pack_videos
from apv_edu.envs import make_env


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gymnasium.make("CartPole-v1"), "The action space Discrete(2) is no Box"),
        (lambda: gymnasium.make("Pendulum-v1"), "gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)"),
        (
            lambda: RescaleAction(gymnasium.make("Pendulum-v1"), np.float32(-1), np.float32(1)),
            "has no 'image'",
        ),
    ],
)
def test_a_world_that_no_agent_can_use_is_refused(make, words: str, tmp_path: Path):
    refused(lambda: run(tmp_path, make=make), words, ": wrap the world")
    assert nothing_in(tmp_path)


def test_frames_of_another_size_are_refused(tmp_path: Path):
    world = partial(make_env, TASK, image_size=64, time_limit=LIMIT)
    refused(lambda: run(tmp_path, make=world), "64")
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_replay_larger_than_memory_is_refused_before_anything_starts(tmp_path, monkeypatch):
    refused(
        lambda: run(tmp_path, quick("dreamer", replay=10**10)),
        "A replay of 10000000000 frames takes 30840.0 GB of memory and",
        "GB are free: choose a capacity of 1 to ",
    )
    monkeypatch.setattr(replay_module, "available_memory", lambda _: 10**6)
    paper = "A replay of 500 frames takes 0.0 GB of memory and 0.0 GB are free"
    refused(lambda: run(tmp_path, quick("dreamer", replay=500)), paper, "of 1 to 324.")
    assert nothing_in(tmp_path)


def test_other_settings_are_refused_by_name(whole: Path, tmp_path: Path, model: Path):
    run(tmp_path, quick(steps=10), video_model=model)
    later = partial(run, tmp_path, video_model=model)
    config = quick()
    agent = replace(config.agent, bonus=replace(config.agent.bonus, beta=0.5))
    refused(
        lambda: later(replace(config, agent=agent, batch_size=3), seed=7),
        "(agent.bonus.beta: 1.0 there, 0.5 now; batch_size: 2 there, 3 now; seed: 5 there, 7 now)",
    )
    refused(lambda: later(config, task="tabletop:push"), "task: tabletop:reach there")
    refused(lambda: later(replace(config, envs=2)), "envs: 1 there, 2 now")
    refused(lambda: run(tmp_path), "agent.variant: apv there, dreamer now", "video_model: ")
    tensors, story = checkpoint.load(model)
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, {name: tensor + 1 for name, tensor in tensors.items()}, story)
    refused(lambda: run(tmp_path, config, video_model=other), "(video_model: ")
    moved = model.rename(model.with_name("moved.safetensors"))  # a path is no identity
    try:
        run(tmp_path, config, video_model=moved, logger=Silence())
    finally:
        moved.rename(model)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"seed": 2**64}, "is out of range"),
        ({"threads": 0}, "threads=0 is too small"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"config": quick("apv")}, "'apv' starts from a video model: name the model.safetensors"),
        ({"config": quick("naive")}, "'naive' starts from a video model"),
        ({"video_model": "m"}, "'dreamer' takes no video model: leave it out, or choose apv"),
        ({"task": "tabletop:pull"}, "Unknown task 'tabletop:pull': use suite:task, the nearest"),
        ({"task": "reach"}, "Unknown task 'reach'"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], words: str, tmp_path: Path):
    refused(lambda: run(tmp_path / "run", **options), words)
    assert nothing_in(tmp_path / "run")


def test_a_video_model_of_another_kind_or_size_is_refused(whole: Path, tmp_path: Path, model: Path):
    def start(video: Path, **sizes: int) -> None:
        config = quick()
        agent = replace(config.agent, model=replace(SIZE, **sizes))
        run(tmp_path / "run", replace(config, agent=agent), video_model=video)

    refused(
        lambda: start(model, deter=48),
        "holds a model of other sizes (deter=32) than asked for (deter=48): pass the sizes",
    )
    for name, kind in (("agent", "agent"), ("checkpoint", "finetuning")):
        refused(
            lambda name=name: start(whole / f"{name}.safetensors"),
            f"is a '{kind}', not a video model: pass the model.safetensors of a pre-training run",
        )
    refused(lambda: start(tmp_path / "none.safetensors"), "There is no checkpoint", "none.safe")
    frames = tmp_path / "videos"
    frames.mkdir()
    for index in range(2):
        np.savez(frames / f"a-{index}-4.npz", image=np.zeros((4, 32, 32, 3), np.uint8))
    data = pack_videos(frames, tmp_path / "data", image_size=32, min_length=2, progress=False)
    refused(lambda: start(data.path), "There is no checkpoint", str(data.path))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(model.read_bytes()[:-5])
    refused(lambda: start(damaged), "damaged.safetensors is damaged")
    assert nothing_in(tmp_path / "run")


def test_what_else_may_lie_in_the_checkpoints_place(whole: Path, tmp_path: Path):
    run(tmp_path, quick("dreamer", steps=20))
    path = tmp_path / "checkpoint.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    refused(lambda: run(tmp_path), "checkpoint.safetensors is damaged")
    path.write_bytes((tmp_path / "agent.safetensors").read_bytes())
    refused(lambda: run(tmp_path), "no checkpoint to resume (a 'agent')")
    path.write_bytes(good)
    run(tmp_path)
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("harm", ["cut", "missing"])
def test_a_damaged_replay_is_named(harm: str, whole: Path, tmp_path: Path):
    run(tmp_path, quick("dreamer", steps=20))
    path = tmp_path / "replay" / f"000000-{LIMIT + 1}.npz"
    good = path.read_bytes()
    if harm == "cut":
        path.write_bytes(good[:-50])
        refused(lambda: run(tmp_path), f"000000-{LIMIT + 1}.npz is damaged")
    else:
        path.unlink()
        refused(lambda: run(tmp_path), "000000-*.npz is missing")
    path.write_bytes(good)
    run(tmp_path)
    assert_same_run(whole, tmp_path)


def test_two_processes_do_not_share_a_folder(tmp_path: Path):
    code = (
        "import sys, pathlib; from apv_edu.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "mine\n"
    logger = Silence()
    refused(lambda: run(tmp_path, logger=logger), "Another process is writing to", "another folder")
    assert not logger.numbers and logger.closed
    other.kill()
    other.communicate()
