"""Several worlds at once, each in a process of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.vector import AsyncVectorEnv
from jaxtyping import Bool, Float, UInt8

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


class EnvironmentCrash(RuntimeError):
    """A world, or the process that it lives in, broke down."""


class Worlds:
    """Several worlds stepped in lockstep, one episode each at a time.

    A single world lives in this process; more live in one process each. ``reset`` gives every
    world a seed of its own, so that an episode depends on its seed and its actions alone.

    Raises:
        InputError: for a world that the agent cannot use.
        EnvironmentCrash: when it breaks down while it is made.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], count: int):
        self.count = count
        with _crashes():
            if count == 1:
                self.env: Any = make()
                space, image = self.env.action_space, self.env.observation_space
            else:
                self.env = AsyncVectorEnv([make] * count, context="spawn")
                space, image = self.env.single_action_space, self.env.single_observation_space
        try:
            _check_spaces(space, image)
        except InputError:
            self.close()
            raise
        self.action_dim = int(space.shape[0])

    def reset(self, seeds: Sequence[int]) -> UInt8[np.ndarray, "count size size 3"]:
        """Start an episode in every world."""
        with _crashes():
            if self.count == 1:
                observation, _ = self.env.reset(seed=seeds[0])
                return observation["image"][None].copy()  # the world may draw into it again
            observation, _ = self.env.reset(seed=list(seeds))
            return observation["image"].copy()

    def step(self, actions: Float[np.ndarray, "count action"]) -> "Steps":
        """Act in every world; those whose episode has ended go on without meaning.

        Raises:
            InputError: for an action that is not finite.
            EnvironmentCrash: when a world breaks down.
        """
        self.send(actions)
        return self.receive()

    def send(self, actions: Float[np.ndarray, "count action"]) -> None:
        """The first half of ``step``: worlds with processes of their own begin at once.

        Raises:
            InputError: for an action that is not finite.
            EnvironmentCrash: when a world breaks down.
        """
        if not np.isfinite(actions).all():
            raise InputError(
                f"The policy's action {actions[~np.isfinite(actions).all(1)][0].tolist()} is not "
                "finite: train it anew in another folder with lower learning rates."
            )
        self._actions = actions
        if self.count > 1:
            with _crashes():
                self.env.step_async(actions)

    def receive(self) -> "Steps":
        """The other half: what the worlds made of the actions that were sent.

        Raises:
            EnvironmentCrash: when a world breaks down.
        """
        with _crashes():
            if self.count == 1:
                observation, reward, terminated, truncated, info = self.env.step(self._actions[0])
                done, success = terminated or truncated, info.get("success", False)
                values = ([reward], [done], [success])
                return Steps(observation["image"][None].copy(), *map(np.asarray, values))
            observation, reward, terminated, truncated, info = self.env.step_wait()
            success = info.get("success", np.zeros(self.count, bool))
            return Steps(observation["image"].copy(), reward, terminated | truncated, success)

    def close(self) -> None:
        """Let the worlds go, broken ones too."""
        if self.count == 1:
            with suppress(Exception):
                self.env.close()
            return
        for process in self.env.processes:  # Gymnasium's own way stops at the first dead one
            process.terminate()
            process.join()
        self.env.closed = True


class Steps(NamedTuple):
    """What one step of every world gave."""

    image: UInt8[np.ndarray, "count size size 3"]
    reward: Float[np.ndarray, " count"]
    done: Bool[np.ndarray, " count"]
    success: Bool[np.ndarray, " count"]


@contextmanager
def _crashes() -> Iterator[None]:
    """Turn whatever a world throws into an ``EnvironmentCrash``."""
    try:
        yield
    except InputError:
        raise
    except (EOFError, ConnectionError) as error:
        raise EnvironmentCrash("its process died") from error
    except Exception as error:
        said = " ".join(str(error).split())
        raise EnvironmentCrash(f"{type(error).__name__}: {said}") from error


def _check_spaces(action: gymnasium.Space, observation: gymnasium.Space) -> None:
    if not isinstance(action, Box) or len(action.shape) != 1:
        raise InputError(
            f"The action space {action} is no Box of one axis, and the policy is a distribution "
            "over real vectors: wrap the world so that it takes numbers in [-1, 1]."
        )
    if not (np.all(action.low == -1) and np.all(action.high == 1)):
        raise InputError(
            f"The action space {action} is not [-1, 1]: wrap the world in "
            "gymnasium.wrappers.RescaleAction(env, -1.0, 1.0)."
        )
    image = observation.get("image") if isinstance(observation, Dict) else None
    if not (isinstance(image, Box) and image.dtype == np.uint8 and image.shape[2:] == (3,)):
        raise InputError(
            f"The observation space {observation} has no 'image' of bytes: wrap the world so that "
            "it returns {'image': uint8 frames of (size, size, 3)}."
        )
