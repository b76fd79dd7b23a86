"""Record one episode as a video without actions: what moves, when it stops, how it is written."""

import io
import itertools
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from jaxtyping import Float, UInt8

from apv_edu.envs.rendering import Quality
from apv_edu.files import write_atomically

Behaviour = Literal["expert", "noisy-expert", "smooth-random"]
Act = Callable[[], Float[np.ndarray, " action"]]


@dataclass(frozen=True)
class Settings:
    """All that an episode depends on besides its environment's name and its index."""

    seed: int = 0
    image_size: int = 64
    action_repeat: int = 1
    rendering: Quality = "fast"
    behaviour: Behaviour = "expert"
    noise: float = 0.0
    min_length: int = 30
    max_length: int | None = None
    after_success: int | None = 20
    options: dict[str, Any] = field(default_factory=dict)


def label(name: str) -> str:
    """The name of an environment as it stands in file names, before the first dash."""
    return re.sub(r"\W", "_", name)


def episode_path(folder: Path, name: str, index: int, length: int) -> Path:
    """Where an episode is kept: ``{suite}_{task}-{index}-{length}.npz``, the official form."""
    return folder / f"{label(name)}-{index:05d}-{length}.npz"


def episode_seed(seed: int, name: str, index: int) -> np.random.SeedSequence:
    """The seed of one episode, independent of all others."""
    return np.random.SeedSequence([seed, zlib.crc32(name.encode()), index])


def record(
    env: gymnasium.Env, settings: Settings, seeds: np.random.SeedSequence
) -> tuple[UInt8[np.ndarray, "time size size 3"], bool, bool]:
    """Play one episode; return its frames, whether it ended truly, and whether it succeeded."""
    env_seed, motion_seed = seeds.spawn(2)
    rng = np.random.default_rng(motion_seed)
    observation, info = env.reset(seed=int(env_seed.generate_state(1)[0]))
    act = _behaviour(env, settings, rng)
    frames = [observation["image"]]
    terminated = truncated = False
    succeeded_at = 0 if info["success"] else None
    while not (terminated or truncated or _enough(len(frames), succeeded_at, settings)):
        observation, _, terminated, truncated, info = env.step(act())
        frames.append(observation["image"])
        if info["success"] and succeeded_at is None:
            succeeded_at = len(frames) - 1
    return np.stack(frames), bool(terminated), succeeded_at is not None


def smooth_random(size: int, rng: np.random.Generator) -> Act:
    """Smooth random motion: for each action dimension an offset and three slow sinusoids.

    Periods are 10 to 80 agent steps. Each call gives the next action, ``(size,)`` in [-1, 1].
    """
    period = np.exp(rng.uniform(np.log(10), np.log(80), (3, size)))
    phase = rng.uniform(0, 2 * np.pi, (3, size))
    amplitude = rng.dirichlet(np.ones(3), size).T * rng.uniform(0.6, 1.4, size)
    offset = rng.uniform(-0.3, 0.3, size)
    steps = itertools.count()

    def act() -> Float[np.ndarray, " action"]:
        waves = amplitude * np.sin(2 * np.pi * next(steps) / period + phase)
        return np.clip(offset + waves.sum(0), -1, 1).astype(np.float32)

    return act


def save_episode(
    path: Path, frames: UInt8[np.ndarray, "time size size 3"], terminal: bool = False
) -> None:
    """Write one official episode file, whole or not at all.

    There are no actions, and ``reward`` is zero, for a video carries none: the official loaders
    ask for the key.

    Raises:
        InputError: if the disk is full or the folder cannot be written.
    """
    steps = np.arange(len(frames))
    is_last = steps == len(frames) - 1
    episode = {
        "image": frames,
        "is_first": steps == 0,
        "is_last": is_last,
        "is_terminal": is_last & terminal,
        "reward": np.zeros(len(frames), np.float32),
    }
    content = io.BytesIO()
    np.savez_compressed(content, **episode)
    write_atomically(path, content.getvalue())


def _enough(frames: int, succeeded_at: int | None, settings: Settings) -> bool:
    if settings.max_length is not None and frames >= settings.max_length:
        return True
    if succeeded_at is None or settings.after_success is None:
        return False
    return frames >= max(settings.min_length, succeeded_at + 1 + settings.after_success)


def _behaviour(env: gymnasium.Env, settings: Settings, rng: np.random.Generator) -> Act:
    size = int(np.prod(env.action_space.shape or ()))
    world: Any = env.unwrapped
    smooth = settings.behaviour == "smooth-random"
    script: Act = smooth_random(size, rng) if smooth else world.expert_action

    def act() -> Float[np.ndarray, " action"]:
        action = script() + settings.noise * rng.standard_normal(size)
        return np.clip(action, -1, 1).astype(np.float32)

    return act
