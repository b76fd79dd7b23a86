"""Several worlds at once, each in a process of its own."""

from functools import partial
from typing import Any

from gymnasium.vector import AsyncVectorEnv

from apv_edu.envs import make_env
from apv_edu.errors import InputError


def make_vector_env(name: str, count: int, *, seed: int, **options: Any) -> AsyncVectorEnv:
    """Make ``count`` worlds called ``name``, stepped together as one Gymnasium vector environment.

    World ``i`` is seeded with ``seed + i``, which is also what ``reset(seed=seed)`` does, so that
    it shows the same frames as ``make_env(name, seed=seed + i)`` alone. Observations are
    ``{"image": (count, size, size, 3) uint8}``, actions ``(count, A)``. Close it when done. In a
    script, call it under ``if __name__ == "__main__":``, as the processes start from scratch: a
    copy of this process would share its OpenGL.

    Args:
        name: one of ``task_names(suite)``.
        count: number of processes.
        seed: of all randomness.
        **options: as for ``make_env``.

    Raises:
        InputError: as ``make_env``, or for a ``count`` below 1.
    """
    if count < 1:
        raise InputError(f"count={count} is not possible: give a whole number from 1 on.")
    worlds = [partial(make_env, name, seed=seed + index, **options) for index in range(count)]
    return AsyncVectorEnv(worlds, context="spawn")
