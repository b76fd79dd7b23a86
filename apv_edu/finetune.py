"""Fine-tune an agent by reinforcement learning, in a way that no kill can hurt.

The run goes in rounds: one episode in each world, with updates in between. All randomness of a
round or an update comes from (seed, its number), and checkpoints are written between rounds. So a
run that was killed at any moment and started again plays the lost episodes once more, exactly as
before, and ends with the very weights of a run that was left alone (same machine and threads).
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import torch
from tqdm import tqdm

from apv_edu import checkpoint
from apv_edu.agent import APVAgent
from apv_edu.agent_config import VARIANTS
from apv_edu.agent_files import save_agent
from apv_edu.config import check_seed
from apv_edu.data.replay import Replay
from apv_edu.device import choose_device, choose_precision
from apv_edu.envs import make_env
from apv_edu.envs.vector import EnvironmentCrash, Worlds
from apv_edu.errors import InputError
from apv_edu.files import locked, remove_leftovers
from apv_edu.finetune_config import FinetuneConfig
from apv_edu.finite import check_weights
from apv_edu.logger import Logger, folder_logger
from apv_edu.rounds import Run, choose_update, log_evaluation, play_round
from apv_edu.seeds import stream

CHECKPOINT, AGENT, REPLAY = "checkpoint.safetensors", "agent.safetensors", "replay"
START = 0  # the stream of the first weights; apv_edu.rounds has the others

MakeWorld = Callable[[], gymnasium.Env]


def finetune(
    task: str,
    config: FinetuneConfig,
    out: Path | str,
    *,
    video_model: Path | str | None = None,
    seed: int = 0,
    progress: bool = True,
    logger: Logger | None = None,
    device: str = "auto",
    threads: int | None = None,
    command: str = "apv_edu.finetune.finetune",
    make: MakeWorld | None = None,
) -> APVAgent:
    """Train an agent on ``task``, resuming where ``out`` holds a checkpoint of the same settings.

    ``out`` receives ``checkpoint.safetensors``, ``replay/`` (an npz an episode), ``metrics.csv``,
    videos of the policy and of its dreams, ``tensorboard/``, and at the end ``agent.safetensors``.

    Args:
        task: a name of ``apv_edu.envs``, such as ``tabletop:reach``.
        config: sizes and settings; more ``steps`` than before extend a finished run.
        out: the folder of the run.
        video_model: ``model.safetensors`` of a pre-training run, for a variant that starts from
            one. Its sizes must be those of ``config.agent.model``.
        seed: of the first weights, the worlds, the exploration and the updates.
        progress: show a bar with the time left.
        logger: receives numbers and videos instead of the CSV and TensorBoard.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ...
        threads: of torch on the CPU during the run; None leaves torch's own.
        command: what to note in the agent's file as the command that made it.
        make: makes a world of your own; ``task`` is then only its name.

    Raises:
        InputError: for settings that do not fit the task, the video model or the checkpoint in
            ``out``, a replay larger than the memory, a damaged file, a full disk, an action or a
            loss that is not finite (the last good checkpoint stays), a folder that another
            process trains in, or a world that crashed twice.

    Source: APV section 3.2 and appendix; official file ``train.py`` of ``apv_finetuning``.
    """
    out = Path(out)
    check_seed(seed)
    if threads is not None and threads < 1:
        raise InputError(f"threads={threads} is too small: give at least 1, or leave it out.")
    wanted = VARIANTS[config.agent.variant].pretrained
    if wanted != (video_model is not None):
        raise InputError(
            f"The variant {config.agent.variant!r} starts from a video model: name the "
            "model.safetensors of a pre-training run."
            if wanted
            else f"The variant {config.agent.variant!r} takes no video model: leave it out, or "
            "choose apv, frozen or naive."
        )
    place = choose_device(device)
    config = replace(config, precision=choose_precision(config.precision, place))
    settings = run_settings(task, config, seed, video_model)
    logger = folder_logger(out) if logger is None else logger
    make = make or partial(
        make_env, task, image_size=config.agent.model.image_size, **config.world.options()
    )
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads or threads_before)
    try:
        with locked(out):
            remove_leftovers(out)
            train = partial(_train, make, config, out, logger, settings, video_model, place)
            run = _twice(partial(train, progress), task)
            made = checkpoint.provenance(command, seed=seed, steps=run.step)
            story = {"task": task, "world": asdict(config.world), "settings": settings}
            story["cpu_seconds"] = round(run.cpu_seconds)
            save_agent(out / AGENT, run.agent, made | story)
    finally:
        torch.set_num_threads(threads_before)
        logger.close()
    return run.agent.eval()


def run_settings(
    task: str, config: FinetuneConfig, seed: int, video_model: Path | str | None
) -> dict[str, Any]:
    """What decides the weights after n steps; a run is resumed only with the very same.

    Raises:
        InputError: when ``video_model`` is missing or damaged.
    """
    free = ("steps", "log_every", "eval_every", "eval_episodes", "checkpoint_every")
    settings = {name: value for name, value in asdict(config).items() if name not in free}
    digest = checkpoint.digest(video_model) if video_model else None
    return settings | {"task": task, "seed": seed, "video_model": digest}


def _twice(train: Callable[[], Run], task: str) -> Run:
    """Train, and if a world breaks down go on from the last checkpoint with new ones, once."""
    try:
        return train()
    except EnvironmentCrash as crash:
        story = str(crash)
    # Not within the except clause, which would keep the first attempt's replay in memory.
    tqdm.write(f"The world {task} crashed ({story}): starting it once more.", file=sys.stderr)
    try:
        return train()
    except EnvironmentCrash as crash:
        raise InputError(
            f"The world {task} crashed twice ({crash}): mend it, then run the same command again "
            "to go on from the last checkpoint."
        ) from crash


def _train(
    make: MakeWorld,
    config: FinetuneConfig,
    out: Path,
    logger: Logger,
    settings: dict[str, Any],
    video_model: Path | str | None,
    device: torch.device,
    progress: bool,
) -> Run:
    """Go on from the checkpoint, or from the start, to the last step."""
    worlds = Worlds(make, config.envs)
    judge = None
    try:
        run = _start(config, worlds.action_dim, settings, video_model, device, out)
        _resume(run, out, settings, config.steps)
        logger.resume(run.step)
        judge = worlds if config.envs == 1 else Worlds(make, 1)
        kept = run.step
        bar = tqdm(
            total=config.steps, initial=kept, desc="finetune", unit="step", disable=not progress
        )
        with bar:
            if run.step == 0:
                log_evaluation(run, judge, None, config, settings["seed"], logger)
            while run.step < config.steps:
                before, began = run.step, _clocks()
                play_round(run, worlds, config, settings["seed"], logger, kept, out)
                bar.update(run.step - before)

                def due(every: int, before: int = before) -> bool:
                    return run.step // every > before // every or run.step >= config.steps

                if due(config.eval_every):
                    log_evaluation(run, judge, run.agent, config, settings["seed"], logger)
                wall, cpu = (now - then for now, then in zip(_clocks(), began, strict=True))
                run.wall_seconds, run.cpu_seconds = run.wall_seconds + wall, run.cpu_seconds + cpu
                times = {"wall_seconds": run.wall_seconds, "cpu_seconds": run.cpu_seconds}
                logger.scalars(run.step, {f"time/{name}": value for name, value in times.items()})
                if due(config.checkpoint_every):
                    _save(run, before, out, settings, kept)
                    kept = run.step
    finally:
        worlds.close()
        if judge is not None:
            judge.close()
    return run


def _clocks() -> tuple[float, float]:
    """Seconds by the clock and of this process."""
    return time.perf_counter(), time.process_time()


def _start(
    config: FinetuneConfig,
    action_dim: int,
    settings: dict[str, Any],
    video_model: Path | str | None,
    device: torch.device,
    out: Path,
) -> Run:
    video = None
    if video_model is not None:
        video = checkpoint.load_video_model(video_model, config.agent.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(settings["seed"], START, 0))
        agent = APVAgent(config.agent, action_dim, video)
    agent.to(device)
    replay = Replay(
        config.replay,
        config.agent.model.image_size,
        action_dim,
        folder=out / REPLAY,
        device=device if device.type != "cpu" else None,
    )
    return Run(agent, replay, choose_update(agent, config))


def _resume(run: Run, out: Path, settings: dict[str, Any], steps: int) -> None:
    """Bring ``run`` to where the checkpoint in ``out`` was written, if there is one."""
    path = out / CHECKPOINT
    if not path.exists():
        run.replay.restore(out / REPLAY, added=0)
        return
    tensors, metadata = checkpoint.load(path)
    if metadata.get("before", steps) < steps < metadata["step"]:
        steps = metadata["step"]  # the episode that reached ``steps`` was played to its end
    checkpoint.check_resumable(path, metadata, "finetuning", settings, steps)
    run.agent.load_training_state(tensors)
    run.step, run.round = metadata["step"], metadata["round"]
    run.cpu_seconds = metadata["cpu_seconds"]
    run.wall_seconds = metadata.get("wall_seconds", 0.0)  # older checkpoints lack it
    run.replay.restore(
        out / REPLAY, added=metadata["episodes_added"], episodes=metadata["episodes_held"]
    )


def _save(run: Run, before: int, out: Path, settings: dict[str, Any], kept: int) -> None:
    check_weights(run.agent, run.step, kept, out)
    story = {
        "kind": "finetuning",
        "step": run.step,
        "before": before,  # the last round
        "round": run.round,
        "cpu_seconds": run.cpu_seconds,
        "wall_seconds": run.wall_seconds,
        "episodes_added": run.replay.added,
        "episodes_held": run.replay.episodes,
        "settings": settings,
    }
    checkpoint.save(out / CHECKPOINT, run.agent.training_state(), story)
    run.replay.prune()
