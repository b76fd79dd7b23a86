"""Fine-tune an agent by reinforcement learning, in a way that no kill can hurt.

The run goes in rounds: one episode in each world, with updates in between. All randomness of a
round or an update comes from (seed, its number), and checkpoints are written between rounds. So a
run that was killed at any moment and started again plays the lost episodes once more, exactly as
before, and ends with the very weights of a run that was left alone (same machine and threads).
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from tqdm import tqdm

from apv_edu import checkpoint
from apv_edu.agent import APVAgent
from apv_edu.agent_config import VARIANTS
from apv_edu.agent_files import save_agent
from apv_edu.config import check_seed
from apv_edu.data.replay import Batch, Episode, Replay
from apv_edu.device import choose_device
from apv_edu.envs import make_env
from apv_edu.envs.vector import EnvironmentCrash, Worlds
from apv_edu.errors import InputError
from apv_edu.evaluate import dream, evaluate
from apv_edu.files import locked, remove_leftovers
from apv_edu.finetune_config import FinetuneConfig
from apv_edu.finite import check_losses, check_weights
from apv_edu.logger import Logger, folder_logger
from apv_edu.seeds import stream

CHECKPOINT, AGENT, REPLAY = "checkpoint.safetensors", "agent.safetensors", "replay"
START, WORLD, ACT, UPDATE, RANDOM, EVALUATE, BONUS = range(7)  # streams under one seed

MakeWorld = Callable[[], gymnasium.Env]


@dataclass
class Run:
    """All that a run changes; what a checkpoint holds, with the replay's files beside it."""

    agent: APVAgent
    replay: Replay
    step: int = 0
    """Steps done, all worlds together."""
    round: int = 0
    """Rounds done."""
    cpu_seconds: float = 0.0
    """Of this process, over all its resumptions."""


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
            attempt = partial(_train, make, config, out, logger, settings, video_model, place)
            try:
                run = attempt(progress)
            except EnvironmentCrash as crash:
                tqdm.write(f"The world {task} crashed ({crash}): starting it once more.")
                try:
                    run = attempt(progress)
                except EnvironmentCrash as again:
                    raise InputError(
                        f"The world {task} crashed twice ({again}): mend it, then run the same "
                        "command again to go on from the last checkpoint."
                    ) from again
            made = checkpoint.provenance(command, seed=seed, steps=run.step)
            story = {"task": task, "world": asdict(config.world), "settings": settings}
            story["cpu_seconds"] = round(run.cpu_seconds)
            save_agent(out / AGENT, run.agent, made | story)
    finally:
        logger.close()
        torch.set_num_threads(threads_before)
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
                _log_evaluation(run, judge, None, config, settings["seed"], logger)
            while run.step < config.steps:
                before, began = run.step, time.process_time()
                _play_round(run, worlds, config, settings["seed"], logger, kept, out)
                bar.update(run.step - before)

                def due(every: int, before: int = before) -> bool:
                    return run.step // every > before // every or run.step >= config.steps

                if due(config.eval_every):
                    _log_evaluation(run, judge, run.agent, config, settings["seed"], logger)
                run.cpu_seconds += time.process_time() - began
                logger.scalars(run.step, {"time/cpu_seconds": run.cpu_seconds})
                if due(config.checkpoint_every):
                    _save(run, out, settings, kept)
                    kept = run.step
    finally:
        worlds.close()
        if judge is not None:
            judge.close()
    return run


def _play_round(
    run: Run,
    worlds: Worlds,
    config: FinetuneConfig,
    seed: int,
    logger: Logger,
    kept: int,
    out: Path,
) -> None:
    """One episode in every world, with the updates that fall due, into the replay and the log."""
    agent, count = run.agent, worlds.count
    device = next(agent.parameters()).device
    rng = np.random.default_rng(stream(seed, RANDOM, run.round))
    generator = torch.Generator().manual_seed(stream(seed, ACT, run.round))
    episodes = run.round * count
    images = worlds.reset([stream(seed, WORLD, episodes + i) % 2**32 for i in range(count)])
    recorders = [Recorder(image, worlds.action_dim) for image in images]
    running = np.ones(count, bool)
    state, is_first = agent.initial(count), torch.ones(count, dtype=torch.bool, device=device)
    random = run.step < config.prefill
    while running.any():
        if random:
            actions = rng.uniform(-1, 1, (count, worlds.action_dim)).astype(np.float32)
        else:
            frames = torch.from_numpy(images).to(device)
            action, state = agent.act(frames, state, is_first, explore=True, generator=generator)
            is_first, actions = torch.zeros_like(is_first), action.cpu().numpy()
        steps = worlds.step(actions)
        for i in np.flatnonzero(running):
            recorders[i].add(
                steps.image[i], actions[i], float(steps.reward[i]), bool(steps.success[i])
            )
        run.step += int(running.sum())
        running &= ~steps.done
        images = steps.image
        if not random and run.replay.episodes:
            _update(run, config, seed, logger, kept, out)
    for recorder in recorders:
        episode = recorder.episode()
        run.replay.add(episode)
        values = {
            "episode/return": float(episode.reward.sum()),
            "episode/success": float(bool(episode.success)),
            "episode/length": len(episode.reward) - 1,
        }
        logger.scalars(run.step, values)
    run.round += 1


def _update(
    run: Run, config: FinetuneConfig, seed: int, logger: Logger, kept: int, out: Path
) -> None:
    """The updates that fall due at this step."""
    agent = run.agent
    device = next(agent.parameters()).device
    while agent.updates < config.updates_due(run.step):
        key = stream(seed, UPDATE, agent.updates)
        sampled = run.replay.sample(
            config.batch_size, config.sequence_length, np.random.default_rng(key)
        )
        generator = torch.Generator().manual_seed(key)
        batch = Batch(*(tensor.to(device) for tensor in sampled))
        noise = agent.noise(config.batch_size, config.sequence_length, generator)
        metrics = agent.update(batch, noise)
        check_losses(metrics, run.step, kept, out)
        if agent.updates % config.log_every == 0:
            logger.scalars(
                run.step, {f"train/{name}": float(value) for name, value in metrics.items()}
            )


class Recorder:
    """An episode while it is played."""

    def __init__(self, image: np.ndarray, action_dim: int):
        self.images = [image]
        self.actions = [np.zeros(action_dim, np.float32)]
        self.rewards = [0.0]
        self.success = False

    def add(self, image: np.ndarray, action: np.ndarray, reward: float, success: bool) -> None:
        """One more step."""
        self.images.append(image)
        self.actions.append(action)
        self.rewards.append(reward)
        self.success |= success

    def episode(self) -> Episode:
        """The whole, once it has ended."""
        return Episode(
            np.stack(self.images),
            np.stack(self.actions),
            np.array(self.rewards, np.float32),
            self.success,
        )


def _log_evaluation(
    run: Run,
    worlds: Worlds,
    agent: APVAgent | None,
    config: FinetuneConfig,
    seed: int,
    logger: Logger,
) -> None:
    """Play, and log returns, success and two videos; without an agent, the random policy."""
    played = evaluate(
        worlds, agent, episodes=config.eval_episodes, seed=stream(seed, EVALUATE, run.step)
    )
    name = "random" if agent is None else "eval"
    values = {
        f"{name}/return": float(np.mean([episode.total for episode in played])),
        f"{name}/success": float(np.mean([episode.success for episode in played])),
    }
    logger.scalars(run.step, values)
    if agent is not None:
        logger.video(run.step, "eval/policy", played[0].frames)
        logger.video(run.step, "eval/dream", dream(agent, played[0]))


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
    replay = Replay(config.replay, config.agent.model.image_size, action_dim, folder=out / REPLAY)
    return Run(agent, replay)


def _resume(run: Run, out: Path, settings: dict[str, Any], steps: int) -> None:
    """Bring ``run`` to where the checkpoint in ``out`` was written, if there is one."""
    path = out / CHECKPOINT
    if not path.exists():
        run.replay.restore(out / REPLAY, added=0)
        return
    tensors, metadata = checkpoint.load(path)
    checkpoint.check_resumable(path, metadata, "finetuning", settings, steps)
    run.agent.load_training_state(tensors)
    run.step, run.round = metadata["step"], metadata["round"]
    run.cpu_seconds = metadata["cpu_seconds"]
    run.replay.restore(
        out / REPLAY, added=metadata["episodes_added"], episodes=metadata["episodes_held"]
    )


def _save(run: Run, out: Path, settings: dict[str, Any], kept: int) -> None:
    check_weights(run.agent, run.step, kept, out)
    story = {
        "kind": "finetuning",
        "step": run.step,
        "round": run.round,
        "cpu_seconds": run.cpu_seconds,
        "episodes_added": run.replay.added,
        "episodes_held": run.replay.episodes,
        "settings": settings,
    }
    checkpoint.save(out / CHECKPOINT, run.agent.training_state(), story)
    run.replay.prune()
