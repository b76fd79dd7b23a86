"""One round of fine-tuning: an episode in each world, updates in between, and evaluations."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apv_edu.agent import APVAgent
from apv_edu.data.replay import Batch, Episode, Replay
from apv_edu.envs.vector import Worlds
from apv_edu.evaluate import dream, evaluate
from apv_edu.fast import GraphedStep, compile_parts
from apv_edu.finetune_config import FinetuneConfig
from apv_edu.finite import check_losses
from apv_edu.logger import Logger
from apv_edu.seeds import stream

WORLD, ACT, UPDATE, RANDOM, EVALUATE = range(1, 6)  # streams under one seed; 0 is the start's


Update = Callable[[Batch, int], dict[str, Tensor]]
"""Learn from a batch with the noise of a key; returns metrics."""


def choose_update(agent: APVAgent, config: FinetuneConfig) -> Update:
    """How an update is done: in ``config.precision``, plainly or as ``config.fast`` asks.

    Raises:
        InputError: without the C++ compiler that the fast path needs on a CPU.
    """
    size, device = (config.batch_size, config.sequence_length), next(agent.parameters()).device
    if not config.fast:

        def plain(batch: Batch, key: int) -> dict[str, Tensor]:
            noise = agent.noise(*size, torch.Generator().manual_seed(key))
            return agent.update(batch, noise, config.precision)

        return plain
    compile_parts(agent, agent.optimizers.values())
    generator = torch.Generator(device)

    def learn(*tensors: Tensor) -> dict[str, Tensor]:
        return agent.learn(Batch(*tensors), agent.noise(*size, generator), config.precision)

    step = GraphedStep(learn, generator)

    def fast(batch: Batch, key: int) -> dict[str, Tensor]:
        metrics = step(*batch, seed=key, variant=agent.held)
        agent.count_update()
        return metrics

    return fast


@dataclass
class Run:
    """All that a run changes; what a checkpoint holds, with the replay's files beside it."""

    agent: APVAgent
    replay: Replay
    update: Update
    step: int = 0
    """Steps done, all worlds together."""
    round: int = 0
    """Rounds done."""
    cpu_seconds: float = 0.0
    """Of this process, over all its resumptions."""
    wall_seconds: float = 0.0
    """By the clock, over all its resumptions."""


def play_round(
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
        worlds.send(actions)
        run.step += int(running.sum())
        # Updates look at whole episodes only. So they need not wait for the worlds, which draw in
        # their own processes meanwhile; or on a GPU for the updates' kernels.
        if not random and run.replay.episodes:
            catch_up(run, config, seed, logger, kept, out)
        steps = worlds.receive()
        for i in np.flatnonzero(running):
            recorders[i].add(
                steps.image[i], actions[i], float(steps.reward[i]), bool(steps.success[i])
            )
        running &= ~steps.done
        images = steps.image
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


def catch_up(
    run: Run, config: FinetuneConfig, seed: int, logger: Logger, kept: int, out: Path
) -> None:
    """The updates that fall due at this step."""
    agent = run.agent
    while agent.updates < config.updates_due(run.step):
        key = stream(seed, UPDATE, agent.updates)
        batch = run.replay.sample(
            config.batch_size, config.sequence_length, np.random.default_rng(key)
        )
        metrics = run.update(batch, key)
        log = agent.updates % config.log_every == 0
        # On a GPU to look at a number is to wait for it.
        if log or not batch.reward.is_cuda:
            check_losses(metrics, run.step, kept, out)
        if log:
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


def log_evaluation(
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
