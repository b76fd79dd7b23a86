"""What the tests of all worlds share."""

from typing import Any

import numpy as np
import pytest

from apv_edu import envs

DRAWN = [
    pytest.mark.gl,
    pytest.mark.filterwarnings("ignore:.*different from the unwrapped.*"),
    pytest.mark.filterwarnings("ignore:.*environment not having a spec.*"),
]
"""Marks of a test file whose worlds are drawn with OpenGL and given to Gymnasium's checker."""


def make_env(name: str, **settings: Any) -> Any:
    """``apv_edu.envs.make_env``, untyped: tests look inside the worlds."""
    return envs.make_env(name, **settings)


def play(env: Any, steps: int, seed: int | None) -> list[np.ndarray]:
    """Frames of a few steps of the world's expert, or where there is none of a fixed motion."""
    frames = [env.reset(seed=seed)[0]["image"]]
    expert = getattr(env.unwrapped, "expert_action", None)
    for step in range(steps):
        motion = np.sin(0.7 * step + np.arange(*env.action_space.shape)).astype(np.float32)
        frames.append(env.step(expert() if expert else motion)[0]["image"])
    return frames


def equal(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    """Whether two lists of frames are the same, bit for bit."""
    return all((a == b).all() for a, b in zip(some, others, strict=True))
