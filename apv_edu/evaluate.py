"""Play whole episodes with an agent, or at random, and look at what it imagined meanwhile."""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from apv_edu.agent import APVAgent
from apv_edu.envs import make_env
from apv_edu.envs.vector import Worlds
from apv_edu.errors import InputError
from apv_edu.files import write_atomically
from apv_edu.finetune_config import WorldConfig
from apv_edu.metrics import prediction_grid
from apv_edu.nets.rssm import State
from apv_edu.seeds import stream

Policy = Callable[[UInt8[np.ndarray, "size size 3"], bool], Float[np.ndarray, " action"]]
"""A frame, and whether it is an episode's first, in; an action out."""
ENV, ACT, DREAM = range(3)  # streams of randomness under one seed


@dataclass(frozen=True, eq=False)
class Played:
    """One episode as it was played: entry t of ``actions`` led to frame t."""

    frames: UInt8[np.ndarray, "time size size 3"]
    actions: Float[np.ndarray, "time action"]
    rewards: Float[np.ndarray, " time"]
    success: bool
    """Whether the task was solved at any time."""

    @property
    def total(self) -> float:
        """The return: all rewards together."""
        return float(self.rewards.sum())


def world(name: str, config: WorldConfig, image_size: int) -> Worlds:
    """The world called ``name`` for one agent.

    Raises:
        InputError: for an unknown name or setting.
    """
    return Worlds(lambda: make_env(name, image_size=image_size, **config.options()), 1)


def play(worlds: Worlds, policy: Policy, seed: int) -> Played:
    """One episode in the single world of ``worlds``.

    Raises:
        InputError: for an action that is not finite.
        EnvironmentCrash: when the world breaks down.
    """
    frames = [worlds.reset([seed])[0]]
    actions, rewards = [np.zeros(worlds.action_dim, np.float32)], [0.0]
    success = done = False
    while not done:
        action = policy(frames[-1], len(frames) == 1)
        step = worlds.step(action[None])
        frames.append(step.image[0])
        actions.append(action)
        rewards.append(float(step.reward[0]))
        done, success = bool(step.done[0]), success or bool(step.success[0])
    return Played(np.stack(frames), np.stack(actions), np.array(rewards, np.float32), bool(success))


def random_policy(action_dim: int, seed: int) -> Policy:
    """Uniform actions in [-1, 1]."""
    rng = np.random.default_rng(seed)
    return lambda frame, first: rng.uniform(-1, 1, action_dim).astype(np.float32)


def agent_policy(agent: APVAgent, seed: int) -> Policy:
    """The agent's own best actions: latents are sampled, the action is the policy's mode."""
    generator = torch.Generator().manual_seed(seed)
    device = next(agent.parameters()).device
    state = agent.initial(1)

    def act(frame: np.ndarray, first: bool) -> np.ndarray:
        nonlocal state
        action, state = agent.act(
            torch.from_numpy(frame)[None].to(device),
            state,
            torch.tensor([first], device=device),
            explore=False,
            generator=generator,
        )
        return action[0].cpu().numpy()

    return act


def evaluate(worlds: Worlds, agent: APVAgent | None, *, episodes: int, seed: int) -> list[Played]:
    """Play ``episodes`` episodes with the agent's best actions, or at random without an agent.

    The same seed gives the same starting positions, whoever plays.

    Raises:
        InputError: for a world with other actions than the agent's, or one that is not finite.
        EnvironmentCrash: when the world breaks down.

    Source: APV section 4.1 (success over episodes); official file ``train.py``.
    """
    if agent is not None and agent.action_dim != worlds.action_dim:
        raise InputError(
            f"The agent's actions have {agent.action_dim} numbers and this world takes "
            f"{worlds.action_dim}: choose the world that the agent was trained in."
        )
    played = []
    for index in range(episodes):
        acting = stream(seed, ACT, index)
        policy = (
            random_policy(worlds.action_dim, acting)
            if agent is None
            else agent_policy(agent, acting)
        )
        played.append(play(worlds, policy, stream(seed, ENV, index) % 2**32))
    return played


@torch.no_grad()
def dream(
    agent: APVAgent,
    episode: Played,
    *,
    start: int = 0,
    context: int = 5,
    horizon: int = 15,
    seed: int = 0,
) -> UInt8[np.ndarray, "time rows columns 3"]:
    """Truth, open-loop dream and error side by side: the model is told the actions that were taken.

    It watches ``context`` frames from ``start`` on (fewer where the episode ends before) and then
    sees no more.

    Raises:
        InputError: for a ``start`` that leaves nothing to dream of, or a number below its least.
    """
    if not 0 <= start < len(episode.frames) - 1 or min(context, horizon) < 1:
        raise InputError(
            f"No dream with start={start}, context={context} and horizon={horizon} fits an episode "
            f"of {len(episode.frames)} frames: start from 0 to {len(episode.frames) - 2}, and "
            "give at least one frame of each."
        )
    end = min(start + context + horizon, len(episode.frames))
    context = min(context, end - start - 1)
    device = next(agent.parameters()).device
    frames = torch.from_numpy(episode.frames[start:end])[None].to(device)
    actions = torch.from_numpy(episode.actions[start:end])[None].to(device)
    horizon = frames.shape[1] - context
    model = agent.world_model
    noise = model.noise(1, end - start, torch.Generator().manual_seed(stream(seed, DREAM)))
    is_first = torch.zeros(1, context, dtype=torch.bool, device=device)
    is_first[:, 0] = True
    seen = model.observe(
        frames[:, :context],
        actions[:, :context],
        is_first=is_first,
        noise=type(noise)(*(part[:, :context] for part in noise)),
    )
    state: State = seen.beliefs().stacked
    future = model.rssm.imagine(
        state, horizon, actions=actions[:, context:], noise=noise.stacked[:, context:]
    )
    predicted = (model.decode(future.features) + 0.5).clamp_(0, 1).cpu().numpy()
    seen_frames, truth = frames[:, :context].cpu().numpy(), frames[:, context:].cpu().numpy()
    return prediction_grid(seen_frames, truth, predicted)


def write_episodes(path: Path | str, played: list[Played]) -> None:
    """Write a CSV with a row for each episode: its number, return, success and length.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("episode", "return", "success", "length"))
    for index, episode in enumerate(played):
        writer.writerow((index, episode.total, int(episode.success), len(episode.frames) - 1))
    write_atomically(path, text.getvalue().encode())
