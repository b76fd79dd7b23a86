"""Worlds in lockstep: the same alone as together, and what happens when one breaks."""

import os
import signal
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete

from apv_edu.envs import make_env
from apv_edu.envs.vector import EnvironmentCrash, Worlds
from apv_edu.errors import InputError

MAKE = partial(make_env, "tabletop:reach", image_size=32, time_limit=6)
BYTES = Box(0, 255, (32, 32, 3), np.uint8)
ODD = {
    "Discrete": {"action": Discrete(4)},
    "axes": {"action": Box(-1.0, 1.0, (2, 2), np.float32)},
    "range": {"action": Box(0.0, 1.0, (2,), np.float32)},
    "no Dict": {"observation": Box(0, 255, (32, 32, 3), np.uint8)},
    "no image": {"observation": Dict(position=Box(0.0, 1.0, (3,), np.float32))},
    "no bytes": {"observation": Dict(image=Box(0.0, 1.0, (32, 32, 3), np.float32))},
    "grey": {"observation": Dict(image=Box(0, 255, (32, 32, 1), np.uint8))},
}
"""Spaces that no agent here can use."""
REMEDIES = {
    "Discrete": "is no Box of one axis, and the policy is a distribution over real vectors: wrap",
    "axes": "is no Box of one axis",
    "range": r"is not \[-1, 1\]: wrap the world in gymnasium\.wrappers\.RescaleAction\(env, -1\.0",
    "no Dict": "has no 'image' of bytes: wrap the world so that it returns",
    "no image": "has no 'image' of bytes",
    "no bytes": "has no 'image' of bytes",
    "grey": "has no 'image' of bytes",
}


class Still(gymnasium.Env):
    """Shows black frames for six steps and takes whatever actions; a base for odd spaces."""

    metadata = {"render_modes": [], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        action: gymnasium.Space = Box(-1.0, 1.0, (2,), np.float32),  # noqa: B008
        observation: gymnasium.Space = Dict(image=BYTES),  # noqa: B008
        length: int = 6,
    ):
        self.action_space, self.observation_space = action, observation
        self.length, self.reward = length, 0.5
        self.frame = np.zeros((32, 32, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        self.frame[:] = 0
        return {"image": self.frame}, {}

    def step(self, action: Any) -> Any:
        """The same array again: a frame is only good until the next step."""
        self.time += 1
        self.frame[:] = self.time
        return {"image": self.frame}, self.reward, self.time == self.length, False, {}


class Breaking(Still):
    """Throws at its reset, or at its first step."""

    def __init__(self, how: str):
        super().__init__()
        self.how = how

    def reset(self, **options: Any) -> Any:
        if self.how == "reset":
            raise RuntimeError("the table\nfell over")
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        raise RuntimeError("the table\nfell over")


def one_sentence(error: BaseException) -> str:
    message = str(error)
    assert "\n" not in message and ". " not in message and message.endswith("."), message
    return message


def test_worlds_together_are_the_worlds_alone():
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 2, 2)).astype(np.float32)
    alone, together = Worlds(MAKE, 1), Worlds(MAKE, 2)
    try:
        assert alone.action_dim == together.action_dim == 2
        for seeds in ([3, 4], [9, 2]):  # the second time all of them have come to their end
            frames = together.reset(seeds)
            kept = frames.copy()
            steps = [together.step(action) for action in actions]
            np.testing.assert_array_equal(frames, kept)  # nobody draws into them again
            for index, seed in enumerate(seeds):
                np.testing.assert_array_equal(alone.reset([seed])[0], frames[index])
                for action, step in zip(actions, steps, strict=True):
                    mine = alone.step(action[index : index + 1])
                    for one, both in zip(mine, step, strict=True):
                        np.testing.assert_array_equal(one[0], both[index])
                assert steps[-1].done[index] and not steps[-2].done[index]
            together.step(actions[0])  # goes on without meaning
    finally:
        alone.close()
        together.close()


@pytest.mark.parametrize(
    "name",
    [
        "tabletop:push",
        pytest.param("metaworld:drawer-open", marks=pytest.mark.gl),
        pytest.param("dmc:walker-walk", marks=pytest.mark.gl),
    ],
)
def test_an_episode_depends_on_its_seed_and_actions_alone(name: str):
    """What was played before leaves no trace: else a resumed run could not be the same run."""
    make = partial(make_env, name, image_size=32, time_limit=12, action_repeat=2)
    used, fresh = Worlds(make, 1), Worlds(make, 1)
    try:
        actions = np.random.default_rng(0).uniform(-1, 1, (8, 1, used.action_dim))
        used.reset([1])
        for action in actions[:7]:  # to the end and on
            used.step(action.astype(np.float32))
        np.testing.assert_array_equal(used.reset([2]), fresh.reset([2]))
        for action in actions:
            one, other = (worlds.step(action.astype(np.float32)) for worlds in (used, fresh))
            for mine, theirs in zip(one, other, strict=True):
                np.testing.assert_array_equal(mine, theirs)
    finally:
        used.close()
        fresh.close()


def test_a_frame_is_the_callers_own():
    worlds = Worlds(Still, 1)
    first, action = worlds.reset([0]), np.zeros((1, 2), np.float32)
    images = [first, *(worlds.step(action).image for _ in range(6))]
    assert [int(image.max()) for image in images] == list(range(7))
    assert not worlds.step(action).success[0]  # it does not say


@pytest.mark.parametrize("name", ODD)
def test_a_world_that_no_agent_can_use_is_refused_with_the_remedy(name: str):
    with pytest.raises(InputError, match=REMEDIES[name]) as caught:
        Worlds(lambda: Still(**ODD[name]), 1)
    one_sentence(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_action_that_is_not_finite_never_reaches_a_world(bad: float):
    worlds = Worlds(Still, 1)
    worlds.reset([0])
    with pytest.raises(InputError, match=r"action \[0\.0, (nan|inf)\] is not finite: ") as caught:
        worlds.step(np.array([[0, bad]], np.float32))
    one_sentence(caught.value)
    assert worlds.env.time == 0


@pytest.mark.parametrize("how", ["reset", "step"])
def test_what_a_world_throws_is_a_crash_in_one_line(how: str):
    worlds = Worlds(partial(Breaking, how), 1)
    with pytest.raises(EnvironmentCrash, match=r"^RuntimeError: the table fell over$"):
        worlds.reset([0])
        worlds.step(np.zeros((1, 2), np.float32))


def test_what_cannot_be_made_is_a_crash():
    with pytest.raises(EnvironmentCrash, match=r"ZeroDivisionError: .* by zero"):
        Worlds(lambda: 1 // 0, 1)  # pyright: ignore[reportArgumentType]


def test_a_dead_process_is_a_crash_and_leaves_none_behind():
    worlds = Worlds(MAKE, 2)
    worlds.reset([0, 1])
    processes = worlds.env.processes
    os.kill(processes[0].pid, signal.SIGKILL)
    with pytest.raises(EnvironmentCrash, match=r"^its process died$"):
        worlds.step(np.zeros((2, 2), np.float32))
    worlds.close()
    assert not any(process.is_alive() for process in processes)
    worlds.close()  # again is no harm


def test_what_a_world_in_a_process_throws_is_a_crash():
    worlds = Worlds(partial(Breaking, "step"), 2)
    processes = worlds.env.processes
    worlds.reset([0, 1])
    with pytest.raises(EnvironmentCrash, match="RuntimeError: the table fell over"):
        worlds.step(np.zeros((2, 2), np.float32))
    worlds.close()
    assert not any(process.is_alive() for process in processes)
