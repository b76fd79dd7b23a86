import errno
import gc
import io
import os
import resource
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from broken_worlds import Breaking
from finetune_runs import (
    LIMIT,
    TASK,
    assert_same_run,
    quick,
    refused,
    run,
)

from apv_edu import checkpoint, files
from apv_edu import finetune as module
from apv_edu.agent import APVAgent
from apv_edu.envs import make_env
from apv_edu.logger import CSVLogger, TensorBoardLogger, folder_logger


@pytest.mark.parametrize("how", ["reset", "step"])
def test_a_world_that_crashes_is_started_once_more(how: str, whole: Path, tmp_path: Path, capsys):
    make = partial(Breaking, how, episode=3, once=tmp_path / "mark")
    run(tmp_path / "run", make=make)
    assert (tmp_path / "mark").exists()
    assert_same_run(whole, tmp_path / "run")
    out, error = capsys.readouterr()
    assert "crashed (RuntimeError: the table fell over): starting it once more" in error
    assert out == ""


def test_a_world_that_crashes_again_is_named(whole: Path, tmp_path: Path):
    refused(
        lambda: run(tmp_path, make=partial(Breaking, "step", episode=3)),
        f"The world {TASK} crashed twice (RuntimeError: the table fell over): mend it",
    )
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["step"] == 20
    run(tmp_path)  # mended
    assert_same_run(whole, tmp_path)


def test_the_second_start_does_not_hold_two_replays(tmp_path: Path, monkeypatch):
    alive, honest = [], module.Replay

    def counted(*arguments: Any, **options: Any) -> Any:
        gc.collect()
        assert not any(reference() for reference in alive)
        made = honest(*arguments, **options)
        alive.append(weakref.ref(made))
        return made

    monkeypatch.setattr(module, "Replay", counted)
    run(tmp_path / "run", make=partial(Breaking, "step", episode=3, once=tmp_path / "mark"))
    assert len(alive) == 2


def test_a_killed_worker_is_replaced_and_then_named(tmp_path: Path):
    config = quick("dreamer", envs=2, steps=40)
    longer = replace(config, steps=60)
    run(tmp_path / "whole", config, make=partial(Breaking, "step", episode=99))
    once = tmp_path / "mark"
    run(tmp_path / "one", config, make=partial(Breaking, "kill", episode=2, once=once))
    assert once.exists()
    assert_same_run(tmp_path / "whole", tmp_path / "one")
    refused(
        lambda: run(tmp_path / "two", longer, make=partial(Breaking, "kill", episode=2)),
        f"The world {TASK} crashed twice (its process died): mend it",
    )
    assert checkpoint.load(tmp_path / "two" / "checkpoint.safetensors")[1]["step"] == 40


@pytest.mark.parametrize("name", ["model_loss", "actor_loss", "critic_grad_norm"])
def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    name: str, whole: Path, tmp_path: Path, monkeypatch
):
    honest = APVAgent.update

    def broken(self: APVAgent, *arguments: Any) -> Any:
        metrics = honest(self, *arguments)
        return metrics | {name: torch.tensor(torch.nan)} if self.updates == 5 else metrics

    with monkeypatch.context() as patch:
        patch.setattr(APVAgent, "update", broken)
        refused(
            lambda: run(tmp_path),
            f"The {name} is nan at step 30, so training stopped (the checkpoint of step 20 in",
            "is kept): start anew in another folder with a lower",
        )
    tensors, story = checkpoint.load(tmp_path / "checkpoint.safetensors")
    assert story["step"] == 20
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    run(tmp_path)
    assert_same_run(whole, tmp_path)


def test_an_action_that_is_not_finite_stops_the_run(whole: Path, tmp_path: Path, monkeypatch):
    honest = APVAgent.update

    def broken(self: APVAgent, *arguments: Any) -> Any:
        metrics = honest(self, *arguments)
        if self.updates == 4:
            for weight in self.behavior.actor.parameters():
                weight.data.fill_(torch.nan)
        return metrics

    with monkeypatch.context() as patch:
        patch.setattr(APVAgent, "update", broken)
        refused(lambda: run(tmp_path), "The policy's action [nan, nan] is not finite: train it")
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["step"] == 20
    run(tmp_path)
    assert_same_run(whole, tmp_path)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch):
    honest = APVAgent.update

    def broken(self: APVAgent, *arguments: Any) -> Any:
        metrics = honest(self, *arguments)
        if self.updates == 3:  # the last of its episode
            next(self.behavior.critic.parameters()).data[0] = torch.inf
        return metrics

    monkeypatch.setattr(APVAgent, "update", broken)
    refused(lambda: run(tmp_path), "The weight behavior.critic", "not finite at step 20")
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["step"] == 10


def test_a_reward_that_is_not_finite_is_refused(tmp_path: Path):
    class Cursed(gymnasium.RewardWrapper):
        def reward(self, reward: Any) -> float:
            return float("nan")

    world = partial(make_env, TASK, image_size=32, time_limit=LIMIT)
    refused(lambda: run(tmp_path, make=lambda: Cursed(world())), "has a reward that is not finite")


def full(*_arguments: object, **_options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("name", "left"),
    [("checkpoint.safetensors", 10), ("000002-11.npz", 20), ("eval_dream", 10), ("agent", 30)],
)
def test_a_full_disk_stops_the_run_which_then_goes_on(
    name: str, left: int, whole: Path, tmp_path: Path, monkeypatch
):
    honest, seen = os.replace, []

    def replace_or_not(source: Path, target: Path) -> None:
        if Path(target).name.startswith(name):
            seen.append(target)
            if name != "checkpoint.safetensors" or len(seen) == 2:
                full()
        honest(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", replace_or_not)
        refused(lambda: run(tmp_path), "No space left to write", name, "free some on its disk")
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["step"] == left
    assert not list(tmp_path.rglob("*.part"))
    run(tmp_path)
    assert_same_run(whole, tmp_path)


class FullAt(CSVLogger):
    """A CSV on a disk that is full from a step on."""

    def scalars(self, step, values) -> None:
        if step >= 25:
            self.file = io.TextIOWrapper(io.FileIO("/dev/full", "w"))  # pyright: ignore
        super().scalars(step, values)

    def close(self) -> None:
        self.file = None  # what is held back can never be written


def test_a_full_disk_under_the_numbers(whole: Path, tmp_path: Path):
    refused(
        lambda: run(tmp_path, logger=FullAt(tmp_path / "metrics.csv")),
        "No space left to write",
        "metrics.csv (what was there before is kept)",
    )
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["step"] == 20
    run(tmp_path, logger=folder_logger(tmp_path))
    assert_same_run(whole, tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_under_tensorboard(tmp_path: Path, monkeypatch):
    """Its writer is another thread; what that cannot write must reach this one."""
    from tensorboard.compat.tensorflow_stub.io.gfile import GFile

    monkeypatch.setattr(GFile, "write", full)
    threads = torch.get_num_threads()
    refused(
        lambda: run(tmp_path / "run", logger=TensorBoardLogger(tmp_path / "tb")),
        "No space left to write",
    )
    assert torch.get_num_threads() == threads


def test_a_disk_that_takes_no_more(whole: Path, tmp_path: Path):
    """No file may grow beyond 60 kB, which the checkpoint does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        refused(lambda: run(tmp_path), "Cannot write", "checkpoint.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.glob("*.safetensors"))
    run(tmp_path)
    assert_same_run(whole, tmp_path)
