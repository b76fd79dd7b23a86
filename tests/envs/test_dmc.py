import sys

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from worlds import DRAWN, equal, make_env, play

from apv_edu.envs import dmc, task_names, tripod
from apv_edu.envs.dmc import TASKS
from apv_edu.envs.rendering import choose_gl
from apv_edu.errors import InputError

pytestmark = DRAWN


def test_names_are_the_librarys():
    choose_gl()
    from dm_control import suite

    named = set(TASKS) - set(tripod.TASKS)
    assert {tuple(task.split("-")) for task in named} == set(suite.ALL_TASKS)


@pytest.mark.parametrize("task", ["quadruped-escape", "ball_in_cup-catch", "lqr-lqr_2_1"])
def test_gymnasium_checker(task):
    env = make_env(f"dmc:{task}", seed=0)
    check_env(env.unwrapped)
    check_env(env)
    env.close()


@pytest.mark.parametrize("task", ["quadruped-escape", "lqr-lqr_2_1", "hopper-hop"])
def test_same_seed_same_frames_bit_for_bit(task):
    first, second = (make_env(f"dmc:{task}", seed=seed) for seed in (0, 1))
    frames = play(first, 8, seed=7)
    play(first, 12, seed=8)
    assert equal(frames, play(first, 8, seed=7))
    assert equal(frames, play(second, 8, seed=7))
    assert not equal(frames, play(second, 8, seed=9))
    first.close()
    second.close()


def test_resets_without_a_seed_differ_and_follow_the_first_seed():
    starts = []
    for _ in range(2):
        env = make_env("dmc:walker-walk", seed=3)
        starts.append([env.reset()[0]["image"] for _ in range(3)])
        env.close()
    assert equal(starts[0], starts[1])
    assert not equal(starts[0][:2], starts[0][1:])


def test_new_terrain_is_drawn():
    env = make_env("dmc:quadruped-escape", seed=0)
    reused = env.reset(seed=1)[0]["image"], env.reset(seed=2)[0]["image"]
    env.close()
    fresh = make_env("dmc:quadruped-escape", seed=0)
    np.testing.assert_array_equal(fresh.reset(seed=2)[0]["image"], reused[1])
    assert (reused[0] != reused[1]).any()
    fresh.close()


def test_a_missing_library_names_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control", None)
    with pytest.raises(
        InputError, match=r"dmc:walker-walk needs dm_control.*pip install --no-deps"
    ):
        make_env("dmc:walker-walk")


def test_actions_span_the_actuators_range():
    env = make_env("dmc:quadruped-walk", seed=0)
    env.reset(seed=0)
    physics = env.unwrapped._world.physics
    low, high = physics.model.actuator_ctrlrange.T
    assert (low != -1).any() or (high != 1).any()
    for action, control in ((-1, low), (1, high), (0, (low + high) / 2)):
        env.step(np.full(env.action_space.shape, action, np.float32))
        np.testing.assert_allclose(physics.data.ctrl, control, atol=1e-6)
    env.close()


def test_reward_success_and_camera():
    env = make_env("dmc:cartpole-balance", seed=0)
    _, info = env.reset(seed=0)
    _, reward, terminated, truncated, step_info = env.step(np.zeros(1, np.float32))
    assert info == step_info == {"success": False}
    assert 0.9 < reward <= 1 and not terminated and not truncated
    assert env.metadata["render_fps"] == 100
    env.close()
    frames = []
    for camera in (None, 2, "y", 0):
        env = make_env("dmc:quadruped-walk", seed=0, camera=camera)
        frames.append(env.reset(seed=0)[0]["image"])
        env.close()
    assert equal(frames[:2], frames[1:3]) and not equal(frames[:1], frames[3:])


def test_an_actuator_without_limits_takes_the_action_as_it_is():
    env = make_env("dmc:lqr-lqr_2_1", seed=0, image_size=16)
    env.reset(seed=0)
    env.step(np.full(env.action_space.shape, 0.25, np.float32))
    np.testing.assert_array_equal(env.unwrapped._world.physics.data.ctrl, 0.25)
    env.close()


@pytest.mark.parametrize("repeat", [1, 2])
def test_a_simulation_that_diverges_ends_the_episode_and_not_the_program(repeat):
    env = make_env("dmc:walker-walk", seed=0, action_repeat=repeat)
    wanted = play(env, 3, seed=7)
    env.unwrapped._world.physics.data.qvel[:] = 1e12
    step = env.step(np.zeros(env.action_space.shape, np.float32))
    observation, reward, terminated, truncated, info = step
    assert (reward, terminated, truncated, info["success"]) == (0.0, False, True, False)
    assert env.observation_space.contains(observation)
    assert equal(wanted, play(env, 3, seed=7))
    env.close()


def test_a_numpy_without_in1d_will_do(monkeypatch):
    monkeypatch.delattr(np, "in1d", raising=False)
    env = make_env("dmc:quadruped-walk", seed=0, image_size=16)
    assert len(set(map(bytes, play(env, 2, seed=0)))) > 1
    env.close()
    in1d = getattr(np, "in1d")  # noqa: B009
    assert in1d([[1, 2], [3, 1]], [1, 9]).tolist() == [True, False, False, True]
    dmc._restore_in1d()
    assert getattr(np, "in1d") is in1d  # noqa: B009


def test_lqr_terminates_where_the_task_does():
    env = make_env("dmc:lqr-lqr_2_1", seed=0, image_size=16)
    env.reset(seed=0)
    physics = env.unwrapped._world.physics
    with physics.reset_context():
        physics.data.qpos[:] = physics.data.qvel[:] = 0
    assert env.step(np.zeros(env.action_space.shape, np.float32))[2] is True
    env.close()


def test_fast_is_close_to_exact():
    frames = {}
    for quality in ("exact", "fast"):
        env = make_env("dmc:quadruped-walk", seed=0, rendering=quality)
        frames[quality] = env.reset(seed=0)[0]["image"].astype(float)
        env.close()
    assert 0.1 < np.abs(frames["exact"] - frames["fast"]).mean() < 12


@pytest.mark.long
@pytest.mark.parametrize("name", task_names("dmc"))
def test_every_task(name):
    env = make_env(name, seed=0)
    check_env(env.unwrapped)
    frames = play(env, 10, seed=7)
    assert frames[0].std() > 1 and not equal(frames[:1], frames[-1:])
    play(env, 10, seed=8)
    assert equal(frames, play(env, 10, seed=7))
    env.close()
