import errno
import gc
import io
import os
import re
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from broken_worlds import Breaking
from finetune_runs import LIMIT, SIZE, TASK, assert_same_run, quick, run, video_model
from gymnasium.wrappers import RescaleAction

from apv_edu import checkpoint, files, rounds
from apv_edu import finetune as module
from apv_edu.agent import APVAgent
from apv_edu.agent_files import load_agent
from apv_edu.data import replay as replay_module
from apv_edu.data.replay import read_episode
from apv_edu.data.video import pack_videos
from apv_edu.envs import make_env
from apv_edu.errors import InputError
from apv_edu.logger import CSVLogger, TensorBoardLogger, folder_logger, read_csv


class Silence:
    """A logger that keeps what it is told, and may interrupt at a given step."""

    def __init__(self, stop_at: int | None = None):
        self.numbers: dict[int, dict[str, float]] = {}
        self.resumed: list[int] = []
        self.videos: list[tuple[int, str]] = []
        self.closed, self.stop_at = False, stop_at

    def resume(self, step: int) -> None:
        self.resumed.append(step)

    def scalars(self, step, values) -> None:
        self.numbers.setdefault(step, {}).update(values)
        if step == self.stop_at:
            raise KeyboardInterrupt

    def video(self, step, name, frames) -> None:
        self.videos.append((step, name))

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from scratch that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out)
    return out


def refused(call: Callable[[], Any], *words: str) -> None:
    """One sentence that says all of ``words``."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.endswith("."), message
    assert not re.search(r"[a-z)]\. [A-Z]", message), message
    for word in words:
        assert word in message, (word, message)


def nothing_in(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


# What a run does


def test_a_run_leaves_everything_it_promises(whole: Path, tmp_path: Path, model: Path):
    names = {path.name for path in whole.iterdir()}
    videos = {f"eval_{name}_00000{step}.mp4" for name in ("policy", "dream") for step in (20, 30)}
    assert names == videos | {
        "checkpoint.safetensors", "agent.safetensors", "metrics.csv", "replay", "tensorboard",
    }  # fmt: skip
    episodes = [read_episode(path) for path in sorted((whole / "replay").iterdir())]
    assert [len(episode.reward) for episode in episodes] == [LIMIT + 1] * 3
    rows = read_csv(whole / "metrics.csv")
    by_name: dict[str, list[tuple[int, float]]] = {}
    for step, name, value in rows:
        by_name.setdefault(name, []).append((step, value))
    returns = [float(episode.reward.sum()) for episode in episodes]
    assert by_name["episode/return"] == list(zip((10, 20, 30), returns, strict=True))
    assert by_name["episode/length"] == [(step, LIMIT) for step in (10, 20, 30)]
    assert [step for step, _ in by_name["random/return"]] == [0]
    assert [step for step, _ in by_name["eval/success"]] == [20, 30]
    assert [step for step, _ in by_name["train/model_loss"]] == [11, 15, 20, 25, 30]
    loaded, story = load_agent(whole / "agent.safetensors")
    assert not loaded.training
    assert (story["task"], story["seed"], story["steps"]) == (TASK, 5, 30)
    assert story["world"]["time_limit"] == LIMIT
    assert story["settings"]["video_model"] is None
    agent = run(tmp_path, quick(), video_model=model, command="apv-edu finetune --me")
    story = load_agent(tmp_path / "agent.safetensors")[1]
    assert story["command"] == "apv-edu finetune --me"
    assert story["settings"]["video_model"] == checkpoint.digest(model)
    assert agent.updates == 5
    assert not agent.training


def test_the_first_steps_are_random_and_the_rest_the_agents(whole: Path, tmp_path: Path):
    """Noise of an episode comes from the seed and the episode's number, the start from both too."""
    episodes = [read_episode(path) for path in sorted((whole / "replay").iterdir())]
    rng = np.random.default_rng(rounds.stream(5, rounds.RANDOM, 0))
    wanted = [rng.uniform(-1, 1, (1, 2)).astype(np.float32)[0] for _ in range(LIMIT)]
    np.testing.assert_array_equal(episodes[0].action[1:], wanted)
    assert (episodes[0].action[0] == 0).all()
    rng = np.random.default_rng(rounds.stream(5, rounds.RANDOM, 1))
    other = rng.uniform(-1, 1, (LIMIT, 2)).astype(np.float32)
    assert not np.isclose(episodes[1].action[1:], other).any()
    world = make_env(TASK, image_size=32, time_limit=LIMIT)
    for index, episode in enumerate(episodes):
        frame, _ = world.reset(seed=rounds.stream(5, rounds.WORLD, index) % 2**32)
        np.testing.assert_array_equal(frame["image"], episode.image[0])
        for t in range(1, LIMIT + 1):
            frame, reward, *_ = world.step(episode.action[t])
            np.testing.assert_array_equal(frame["image"], episode.image[t])
            assert np.float32(reward) == episode.reward[t]


def test_same_seed_same_run_other_seed_another(whole: Path, tmp_path: Path):
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    run(tmp_path / "same")
    assert_same_run(whole, tmp_path / "same")
    run(tmp_path / "other", seed=6)
    with pytest.raises(AssertionError):
        assert_same_run(whole, tmp_path / "other")
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's randomness is touched
    assert torch.get_num_threads() == threads


def test_an_interrupted_run_goes_on_where_it_was(whole: Path, tmp_path: Path):
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, logger=Silence(stop_at=25))
    assert torch.get_num_threads() == threads
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["step"] == 20
    logger = Silence()
    agent = run(tmp_path, logger=logger)
    finished = load_agent(whole / "agent.safetensors")[0]
    for name, weight in finished.state_dict().items():
        if not name.startswith("bonus"):
            assert torch.equal(weight, agent.state_dict()[name])
    assert logger.resumed == [20] and logger.closed
    assert min(logger.numbers) == 25
    assert logger.videos == [(30, "eval/policy"), (30, "eval/dream")]


def test_a_finished_run_can_be_repeated_and_extended(whole: Path, tmp_path: Path):
    run(tmp_path, quick("dreamer", steps=15))  # the second episode ends at step 20
    run(tmp_path, quick("dreamer", steps=15))
    refused(lambda: run(tmp_path, quick("dreamer", steps=10)), "at step 20 already, beyond the 10")
    run(tmp_path, quick("dreamer", steps=20))
    run(tmp_path)
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("variant", ["stacked", "naive", "frozen"])
def test_every_variant_trains(variant: str, model: Path, tmp_path: Path):
    config = quick(variant)
    video = model if variant != "stacked" else None
    agent = run(tmp_path, config, video_model=video, logger=Silence())
    assert agent.updates == config.updates_due(30) == 5
    tensors = checkpoint.load(model)[0]
    encoder = agent.world_model.encoder.state_dict()
    kept = all(torch.equal(encoder[n], tensors[f"encoder.{n}"]) for n in encoder)
    assert kept == (variant == "frozen")


def test_several_updates_may_fall_due_at_once_and_none_before_the_prefill(tmp_path: Path):
    config = quick("dreamer", prefill=11, warmup=3, update_every=2)  # two episodes are random
    logger = Silence()
    agent = run(tmp_path, config, logger=logger)
    steps = [step for step, values in logger.numbers.items() if "train/model_loss" in values]
    assert steps == [21, 23, 25, 27, 29]
    assert agent.updates == config.updates_due(30) == 3 + 19 // 2


def test_episodes_that_end_at_once_are_dreamed_of_too(tmp_path: Path):
    world = partial(make_env, TASK, image_size=32, time_limit=2)
    logger = Silence()
    run(tmp_path, quick("dreamer", steps=12, sequence_length=2), make=world, logger=logger)
    assert logger.numbers[12]["episode/length"] == 2
    assert (12, "eval/dream") in logger.videos


def test_progress_shows_the_time_left(tmp_path: Path, capsys):
    run(tmp_path, progress=True, logger=Silence())
    assert "30/30 [" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_trains_and_resumes(tmp_path: Path, model: Path):
    run(tmp_path, quick(steps=20), video_model=model, device="auto")
    logger = Silence()
    agent = run(tmp_path, quick(), video_model=model, device="auto", logger=logger)
    assert next(agent.parameters()).is_cuda
    assert logger.resumed == [20]
    assert np.isfinite(logger.numbers[30]["train/model_loss"])


# Worlds that break down


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


# Bad input


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
    monkeypatch.setattr(replay_module, "available_memory", lambda: 10**6)
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


# Numbers that are not finite


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


# A full disk


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
