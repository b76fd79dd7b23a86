"""SIGKILL at any moment of fine-tuning must leave no trace in its result."""

import multiprocessing as mp
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from finetune_runs import LIMIT, SIZE, assert_same_run, quick, run, video_model
from run_killing import Start, finish, kill_anywhere, kill_while_training, start_command

from apv_edu.envs.vector import Worlds

STEPS = 65  # the last episode goes on to 70


@pytest.fixture(scope="module")
def server() -> ForkServerContext:
    """Processes that have torch imported already, so that a kill costs a second and no more."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["apv_edu.finetune", "torch.utils.tensorboard.writer"])
    return context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    video_model(folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def whole(server: ForkServerContext, folder: Path) -> Path:
    assert execute(server, folder / "model.safetensors", folder / "whole") == 0
    return folder / "whole"


def execute(
    server: ForkServerContext,
    model: Path,
    out: Path,
    prepare: Callable[..., None] | None = None,
    *arguments: object,
    envs: int = 1,
) -> int | None:
    """The exit code of a run whose process first calls ``prepare(*arguments)``."""
    process = server.Process(target=_run, args=(model, out, envs, prepare, *arguments))
    process.start()
    process.join(240)
    return process.exitcode


def _run(
    model: Path, out: Path, envs: int, prepare: Callable[..., None] | None, *arguments: object
) -> None:
    if prepare is not None:
        prepare(*arguments)
    run(out, quick(steps=STEPS, envs=envs), video_model=model)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_step(count: int) -> None:
    """Within the ``count``-th step of the world, those of evaluations included."""
    honest, steps = Worlds.receive, []

    def receive(self: Worlds):
        steps.append(1)
        if len(steps) == count:
            die()
        return honest(self)

    Worlds.receive = receive


def die_at_file(name: str, half: bool) -> None:
    """While the file whose name starts so is written, or as soon as it is there."""
    honest = os.replace

    def replace(source, target) -> None:
        wanted = Path(target).name.startswith(name)
        if wanted and half:
            os.truncate(source, os.path.getsize(source) // 2)
            die()
        honest(source, target)
        if wanted:
            die()

    os.replace = replace


def test_kills_at_chosen_moments_leave_no_trace(server, folder: Path, whole: Path, tmp_path: Path):
    """One run dies at each of these moments in turn; an episode has ten steps."""
    model = folder / "model.safetensors"
    for prepare, *arguments in (
        (die_at_step, 4),  # evaluation of the random policy
        (die_at_step, LIMIT + 5),  # first episode
        (die_at_file, "000000-", True),  # its file, half written
        (die_at_file, "000000-", False),  # its file without a checkpoint
        (die_at_file, "checkpoint", True),
        (die_at_file, "checkpoint", False),  # nothing of the replay is pruned yet
        (die_at_step, LIMIT + 5),  # evaluation of the agent at step 20
        (die_at_file, "eval_dream_0000020", True),
        (die_at_file, "000003-", True),
        (die_at_file, "000005-", False),  # the replay has begun to drop episodes
        (die_at_file, "agent", True),  # all steps are done
    ):
        code = execute(server, model, tmp_path / "killed", prepare, *arguments)
        assert code == -signal.SIGKILL, (prepare, arguments)
    assert execute(server, model, tmp_path / "killed") == 0
    assert_same_run(whole, tmp_path / "killed")
    assert sorted(path.name for path in (whole / "replay").iterdir()) == [
        f"{index:06d}-{LIMIT + 1}.npz" for index in (4, 5, 6)
    ]


def test_a_kill_amid_two_worlds_leaves_no_trace(server, folder: Path, tmp_path: Path):
    model = folder / "model.safetensors"
    assert execute(server, model, tmp_path / "whole", envs=2) == 0
    code = execute(server, model, tmp_path / "killed", die_at_step, 5 * LIMIT + 3, envs=2)
    assert code == -signal.SIGKILL
    assert execute(server, model, tmp_path / "killed", envs=2) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def command(model: Path) -> Start:
    """The same run by ``apv-edu finetune``."""
    agent = {"model.image-size": SIZE.image_size, "world-model.hold": 4, "bonus.beta": 1.0}
    settings = quick(steps=STEPS)
    names = ["steps", "prefill", "warmup", "update_every", "sequence_length", "replay"]
    names += ["log_every", "eval_every", "checkpoint_every"]
    options: list[object] = ["--preset", "smoke", "--world.time-limit", LIMIT, "--seed", 5]
    options += ["--device", "cpu", "--threads", 1, "--no-progress", "--video-model", model]
    options += [x for name, value in agent.items() for x in (f"--agent.{name}", value)]
    options += [
        x for name in names for x in (f"--{name.replace('_', '-')}", getattr(settings, name))
    ]

    def start(out: Path) -> subprocess.Popen:
        return start_command("finetune", "tabletop:reach", "--out", out, *options)

    return start


def test_random_kills_leave_no_trace(server, folder: Path, whole: Path, tmp_path: Path):
    """A command is killed while it learns, and a process of the same settings goes on."""
    start, rng = command(folder / "model.safetensors"), random.Random(time.time_ns())
    killed = tmp_path / "killed"
    kills = sum(kill_while_training(start, killed, STEPS, rng) for _ in range(2))
    assert kills or (killed / "agent.safetensors").exists()
    assert execute(server, folder / "model.safetensors", killed) == 0
    assert_same_run(whole, killed)


@pytest.mark.long
def test_twenty_random_kills_leave_no_trace(folder: Path, tmp_path: Path):
    """Half of them fall while it learns, half anywhere, start-up included."""
    start = command(folder / "model.safetensors")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.perf_counter()
    finish(start(whole))
    duration = time.perf_counter() - began
    rng = random.Random(time.time_ns())
    kills = runs = 0
    while kills < 20:
        if (killed / "agent.safetensors").exists():  # it was quicker: go on with a new run
            assert_same_run(whole, killed)
            runs += 1
            killed = tmp_path / f"killed{runs}"
        if kills % 2:
            kills += kill_while_training(start, killed, STEPS, rng)
        else:
            kills += kill_anywhere(start, killed, duration, rng)
    finish(start(killed))
    assert_same_run(whole, killed)
