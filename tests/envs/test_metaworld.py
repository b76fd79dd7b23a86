import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from worlds import DRAWN, equal, make_env, play

from apv_edu.envs import task_names
from apv_edu.envs.metaworld import TASKS
from apv_edu.errors import InputError

pytestmark = DRAWN


def test_names_are_the_librarys():
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert sorted(f"{task}-v3" for task in TASKS) == sorted(ALL_V3_ENVIRONMENTS)
    assert len(task_names("metaworld")) == 50


@pytest.mark.parametrize("task", ["lever-pull", "drawer-open", "push-back"])
def test_gymnasium_checker(task):
    env = make_env(f"metaworld:{task}", seed=0)
    check_env(env.unwrapped)
    check_env(env)
    env.close()


def test_same_seed_same_frames_bit_for_bit():
    first, second = (make_env("metaworld:push", seed=seed) for seed in (0, 1))
    frames = play(first, 15, seed=7)
    play(first, 40, seed=8)
    assert equal(frames, play(first, 15, seed=7))
    assert equal(frames, play(second, 15, seed=7))
    assert not equal(frames, play(second, 15, seed=9))
    first.close()
    second.close()


def test_each_reset_has_a_new_goal_and_the_streams_seed_decides_it():
    goals = []
    for _ in range(2):
        env = make_env("metaworld:reach", seed=3)
        run = []
        for _ in range(3):
            env.reset()
            run.append(env.unwrapped._world._get_pos_goal().copy())
        goals.append(np.array(run))
        env.close()
    np.testing.assert_array_equal(goals[0], goals[1])
    assert len(np.unique(goals[0], axis=0)) == 3


@pytest.mark.parametrize("task", ["window-close", "push"])
def test_the_first_frame_shows_the_episodes_own_goal(task):
    import mujoco

    env = make_env(f"metaworld:{task}", seed=0)
    env.reset(seed=1)
    frame = env.reset(seed=2)[0]["image"]
    world = env.unwrapped._world
    mujoco.mj_forward(world.model, world.data)  # pyright: ignore
    np.testing.assert_array_equal(frame, env.render())
    env.close()


def test_interleaved_worlds_render_as_they_do_alone():
    names = ("metaworld:drawer-open", "metaworld:lever-pull")
    alone = []
    for name in names:
        env = make_env(name, seed=0)
        alone.append(play(env, 10, seed=5))
        env.close()
    envs = [make_env(name, seed=0) for name in names]
    together = [[env.reset(seed=5)[0]["image"]] for env in envs]
    for _ in range(10):
        for env, frames in zip(envs, together, strict=True):
            frames.append(env.step(env.unwrapped.expert_action())[0]["image"])
    envs[0].close()
    assert equal(together[0], alone[0]) and equal(together[1], alone[1])
    np.testing.assert_array_equal(envs[1].render(), alone[1][-1])
    envs[1].close()


def test_expert_succeeds_and_success_is_reported():
    env = make_env("metaworld:reach", seed=0)
    _, info = env.reset(seed=100)
    assert info["success"] is False
    successes, rewards = [], []
    for _ in range(120):
        action = env.unwrapped.expert_action()
        assert action.dtype == np.float32 and env.action_space.contains(action)
        _, reward, terminated, _, info = env.step(action)
        assert isinstance(info["success"], bool) and not terminated
        successes.append(info["success"])
        rewards.append(reward)
    assert any(successes) and not successes[0]
    assert np.mean(rewards[-20:]) > 2 * np.mean(rewards[:20])
    env.close()


def test_upright_is_upright_and_official_is_its_mirror_image():
    frames = {}
    for orientation in ("upright", "official"):
        env = make_env("metaworld:button-press-topdown", seed=0, orientation=orientation)
        frames[orientation] = env.reset(seed=0)[0]["image"].astype(int)
        env.close()
    np.testing.assert_array_equal(frames["official"], frames["upright"][:, ::-1])
    red, green, blue = np.moveaxis(frames["upright"], -1, 0)
    rows, columns = np.nonzero((red > 80) & (red > 2 * green) & (red > 2 * blue))
    assert rows.mean() < 32 and columns.mean() > 32  # the red arm comes from above, on the right
    rows, _ = np.nonzero((red > green + 10) & (green > blue + 5) & (red < 2 * green))
    assert len(rows) > 200 and rows.mean() > 36  # the wooden table is below


def test_a_camera_that_is_not_upside_down_is_left_as_it_is():
    env = make_env("metaworld:reach", seed=0, camera="topview")
    turned = make_env("metaworld:reach", seed=0, camera="topview", orientation="official")
    upright, official = env.reset(seed=0)[0]["image"], turned.reset(seed=0)[0]["image"]
    np.testing.assert_array_equal(official, upright[::-1])
    env.close()
    turned.close()


def test_fast_is_close_to_exact():
    frames = {}
    for quality in ("exact", "fast"):
        env = make_env("metaworld:lever-pull", seed=0, rendering=quality)
        frames[quality] = env.reset(seed=0)[0]["image"].astype(float)
        env.close()
    difference = np.abs(frames["exact"] - frames["fast"]).mean()
    assert 0.1 < difference < 12


def test_bad_orientation_and_camera():
    with pytest.raises(InputError, match=r"'sideways'.*upright or official"):
        make_env("metaworld:reach", orientation="sideways")
    with pytest.raises(InputError, match=r"'corner9'.*topview, corner"):
        make_env("metaworld:reach", camera="corner9")


@pytest.mark.long
@pytest.mark.parametrize("name", task_names("metaworld"))
def test_every_task(name):
    env = make_env(name, seed=0)
    check_env(env.unwrapped)
    frames = play(env, 20, seed=7)
    assert frames[0].std() > 10 and not equal(frames[:1], frames[-1:])
    successes = []
    env.unwrapped.observe = lambda: {"image": frames[0]}  # no need to draw the rest
    for seed in range(3):
        env.reset(seed=seed)
        successes.append(
            any(env.step(env.unwrapped.expert_action())[4]["success"] for _ in range(400))
        )
    del env.unwrapped.observe
    assert sum(successes) >= 2
    assert equal(frames, play(env, 20, seed=7))
    env.close()
