"""What each arrangement that makes the code fast is worth: by turns with the usual way."""

from collections.abc import Iterator
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from torch import Tensor

from apv_edu.agent import APVAgent
from apv_edu.behavior import ImaginationNoise, imagination_noise, imagine
from apv_edu.bench import plain
from apv_edu.bench.finetune import ACTION_DIM, CONFIGS, a_batch, book_update
from apv_edu.bench.measure import compiled, interleaved, log, threads
from apv_edu.bench.plain import Pair, Tensors, Work
from apv_edu.bench.pretrain import book_step, random_frames
from apv_edu.bench.replay import filled, sample_lists
from apv_edu.config import LossConfig
from apv_edu.finetune_config import LAPTOP
from apv_edu.nets.rssm import State
from apv_edu.video_model import ActionFreeVideoModel

ROUNDS = {"smoke": 7, "small": 7, "colab": 3, "paper": 3}
"""Turns of each pair, by the model's size."""
STARTS = LAPTOP["tabletop"].agent.behavior.starts or 96
"""Imagined trajectories of an update in the laptop's preset."""


def replay(work: Work, *, frames: int = 10_000, episode: int = 500) -> Pair:
    """A batch from one ring of frames, or from a list of episodes as the official code draws it."""
    rng = [np.random.default_rng(0) for _ in range(3)]
    ring, episodes = filled(frames, episode, work.config.model.image_size, rng[0])
    shape = (work.batch, work.finetune_length)
    official = partial(sample_lists, episodes, *shape, rng[1], official=True)
    ours = partial(ring.sample, *shape, rng[2])
    return Pair("replay", "lists of episodes", "a ring", "fine-tuning", official, ours)


def imagination(work: Work) -> Pair:
    """Learning the behaviour from all starts, or from a random few as the laptop's presets do.

    The gradients of the few are an estimate of those of all; the features and rewards, which both
    return for the few alone, are the same.
    """
    config, count = work.config.behavior, work.beliefs
    agent = APVAgent(work.config, ACTION_DIM)
    rssm, behavior = agent.world_model.rssm, agent.behavior
    generator = torch.Generator().manual_seed(0)
    stoch = torch.eye(rssm.classes)[torch.randint(rssm.classes, (count, rssm.stoch))]
    start = State(torch.randn(count, rssm.deter), stoch)
    noise = imagination_noise(rssm, count, config.horizon, generator)
    few = torch.randperm(count, generator=generator)[: min(STARTS, count // 2)]

    def learn(start: State, noise: ImaginationNoise) -> tuple[Tensor, Tensor]:
        trajectory = imagine(rssm, behavior.actor, start, config.horizon, noise)
        reward = agent.world_model.reward(trajectory.features)
        actor_loss, critic_loss, _ = behavior.losses(trajectory, reward, config)
        torch.autograd.grad(actor_loss, list(behavior.actor.parameters()))
        torch.autograd.grad(critic_loss, list(behavior.critic.parameters()))
        return trajectory.features.detach(), reward.detach()

    def all_starts() -> Tensors:
        features, reward = learn(start, noise)
        return features[few], reward[few]

    def some_starts() -> Tensors:
        chosen = ImaginationNoise(noise.latents[few], noise.actions[few])
        return learn(State(start.deter[few], start.stoch[few]), chosen)

    names = ("imagination", f"{count} starts", f"{len(few)} starts")
    return Pair(*names, "fine-tuning", all_starts, some_starts)


def compiling(work: Work) -> Pair | None:
    """Loss and gradients with encoder and decoder compiled; None where there is no compiler."""
    model = work.model()
    frames = random_frames(work.config.model, work.batch, work.pretrain_length)
    noise = model.noise(work.batch, work.pretrain_length)

    def way(model: ActionFreeVideoModel) -> Tensors:
        loss, _ = model.loss(frames, config=LossConfig(), noise=noise)
        return (loss.detach(), *torch.autograd.grad(loss, list(model.parameters())))

    quick = deepcopy(model)
    eager, fast = partial(way, model), partial(way, quick)
    if compiled(quick, fast) is None:
        return None
    return Pair("encoder and decoder", "eager", "compiled", "pretraining", eager, fast)


def pairs(work: Work) -> Iterator[Pair]:
    """Every pair there is, made when its turn comes."""
    yield from plain.pairs(work)
    yield replay(work)
    yield imagination(work)
    if pair := compiling(work):
        yield pair


def bench_tricks(
    sizes: tuple[str, ...] = ("small", "paper"),
    *,
    batch: int = 16,
    pretrain_length: int = 25,
    finetune_length: int = 50,
    rounds: int | None = None,
) -> list[dict]:
    """One row a size and pair of ways: CPU seconds of both, their ratio, and its worth.

    Each pair does the work of one update by turns, on one thread. ``share`` is what the way of
    this package saves, in parts of the whole update that the pair belongs to (``update_s``, as the
    book has it, eager and from all starts). Shares do not add up: ways overlap.
    """
    return [
        row
        for size in sizes
        for row in _rows(
            size,
            Work(CONFIGS[size], batch, pretrain_length, finetune_length),
            rounds or ROUNDS[size],
        )
    ]


def _rows(size: str, work: Work, rounds: int) -> list[dict]:
    rows = []
    with threads(1):
        log.info(f"tricks: {size} model, the whole updates")
        updates = _update_seconds(work, rounds)
        for pair in pairs(work):
            log.info(f"tricks: {size} model, {pair.part}")
            ways = {"plain": pair.plain, "ours": pair.ours}
            (_, plain_s), (_, ours_s) = interleaved(ways, rounds).values()
            rows.append(
                {
                    "size": size,
                    "part": pair.part,
                    "plain": pair.plain_name,
                    "ours": pair.our_name,
                    "plain_s": plain_s,
                    "ours_s": ours_s,
                    "gain": plain_s / ours_s,
                    "update": pair.update,
                    "update_s": updates[pair.update],
                    "share": (plain_s - ours_s) / updates[pair.update],
                }
            )
    return rows


def _update_seconds(work: Work, rounds: int) -> dict[str, float]:
    """CPU seconds of a whole update of both kinds."""
    frames = random_frames(work.config.model, work.batch, work.pretrain_length)
    batch = a_batch(work.config, work.batch, work.finetune_length)
    updates = {
        "pretraining": book_step(work.model(), frames),
        "fine-tuning": book_update(APVAgent(work.config, ACTION_DIM), batch),
    }
    return {name: cpu for name, (_, cpu) in interleaved(updates, rounds).items()}
