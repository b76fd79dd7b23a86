from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from worlds import DRAWN, equal, make_env, play

from apv_edu.data.collect import collect, expand
from apv_edu.data.readers import read_video
from apv_edu.data.recording import smooth_random
from apv_edu.envs import task_names, tripod
from apv_edu.errors import InputError

pytestmark = DRAWN
_NAMES = """body_mass body_inertia body_pos jnt_range dof_damping geom_size geom_rgba site_pos
    cam_pos tendon_range eq_solref actuator_ctrlrange actuator_gainprm sensor_dim"""
NAMED = _NAMES.split()


@pytest.fixture(params=["walk", "run"])
def worlds(request):
    """The suite's quadruped, and the tripod."""
    envs = [
        make_env(f"dmc:{body}-{request.param}", seed=0, image_size=16)
        for body in ("quadruped", "tripod")
    ]
    for env in envs:
        env.reset(seed=0)
    yield [env.unwrapped._world for env in envs]
    for env in envs:
        env.close()


def upright(physics: Any) -> None:
    """Stand it on its toes, at rest."""
    for height in np.arange(0, 1, 0.01):
        with physics.reset_context():
            physics.named.data.qpos["root"] = 0, 0, height, 1, 0, 0, 0
        if not physics.data.ncon:
            return


def stand(world: Any, yaw: float) -> float:
    """How upright the torso is after 3 s, the front right and back left legs turned to the gap."""
    physics = world.physics
    upright(physics)
    names = physics.named.model.actuator_ctrlrange.axes.row.names
    turned = {"yaw_front_right": yaw, "yaw_back_left": -yaw}
    for _ in range(150):
        world.step(np.array([turned.get(name, 0) for name in names]))
    return float(physics.torso_upright())


def test_its_names():
    assert {"dmc:tripod-walk", "dmc:tripod-run"} <= set(task_names("dmc"))
    assert expand("dmc:tripod*") == ["dmc:tripod-walk", "dmc:tripod-run"]
    with pytest.raises(InputError, match="dmc:tripod-walk"):
        make_env("tripod_walk")


def test_a_leg_is_gone_and_all_else_is_the_quadrupeds(worlds):
    four, three = worlds
    whole, less = four.physics, three.physics
    assert (whole.model.nu, less.model.nu) == (12, 9)
    assert (whole.model.neq, less.model.neq) == (4, 3)
    for field in NAMED:
        had, has = (getattr(physics.named.model, field) for physics in (whole, less))
        names = had.axes.row.names
        kept = [name for name in names if tripod.LEG not in name]
        assert has.axes.row.names == kept, field
        np.testing.assert_array_equal(has[kept], had[kept], err_msg=field)
    assert less.timestep() == whole.timestep() and less.legacy_step == whole.legacy_step
    assert three.control_timestep() == four.control_timestep()
    assert three._step_limit == four._step_limit
    assert three.task._desired_speed == four.task._desired_speed


@pytest.mark.parametrize("leg", ["front_left", "front_right", "back_left", "back_right"])
def test_any_leg_can_go(leg):
    from dm_control.suite import common, quadruped

    model = tripod.without_leg(quadruped.make_model(floor_size=10), leg)
    assert leg.encode() not in model
    physics: Any = quadruped.Physics.from_xml_string(model, common.ASSETS)
    assert (physics.model.nu, physics.model.neq) == (9, 3)


def test_the_suites_own_observations_hold_for_three_legs(worlds):
    for legs, world in zip((4, 3), worlds, strict=True):
        seen = world.step(np.zeros(3 * legs)).observation
        assert seen["egocentric_state"].shape == (legs * (4 + 4 + 3),)  # angles, speeds, actuators
        assert seen["force_torque"].shape == (legs * 6,)
        assert all(np.isfinite(value).all() for value in seen.values())


def test_three_legs_stand_and_the_reward_is_the_tasks(worlds):
    four, three = worlds
    assert stand(four, yaw=0) > 0.9 and stand(three, yaw=0) < 0.5
    assert stand(three, yaw=0.6) > 0.9
    standing = four.task.get_reward(four.physics)
    assert three.task.get_reward(three.physics) == pytest.approx(standing, abs=0.05)


def test_it_is_seen_as_the_quadruped_is():
    frames = []
    for camera in (None, 2, 0):
        env = make_env("dmc:tripod-walk", seed=0, camera=camera)
        frames.append(env.reset(seed=0)[0]["image"])
        env.close()
    assert equal(frames[:1], frames[1:2]) and not equal(frames[:1], frames[2:])


@pytest.mark.parametrize("task", tripod.TASKS)
def test_gymnasium_checker_and_the_same_seed(task):
    first, second = (make_env(f"dmc:{task}", seed=seed, image_size=32) for seed in (0, 1))
    assert first.action_space.shape == (9,)
    assert first.metadata["render_fps"] == 50
    check_env(first.unwrapped)
    check_env(first)
    frames = play(first, 8, seed=7)
    play(first, 5, seed=8)
    assert equal(frames, play(first, 8, seed=7)) and equal(frames, play(second, 8, seed=7))
    assert not equal(frames, play(second, 8, seed=9))
    first.close()
    second.close()


def moves_for_a_whole_episode(seed: int) -> float:
    """Play smooth random motion; the spread of the torso's height and place, in metres."""
    env = make_env("dmc:tripod-walk", seed=seed, image_size=16)
    env.reset(seed=seed)
    act, world = smooth_random(9, np.random.default_rng(seed)), env.unwrapped
    physics, places = world._world.physics, []
    for _ in range(1000):
        reward, terminated, truncated, _ = world.simulate(act())
        assert 0 <= reward <= 1 and not terminated and not truncated
        places.append(physics.named.data.xpos["torso"].copy())
    assert np.isfinite(physics.get_state()).all() and not physics.data.warning.number.any()
    env.close()
    heights = [place[2] for place in places]
    assert min(heights) > 0.1 and max(heights) < 3
    return float(np.std(places, 0).max())


def test_a_whole_episode_of_random_motion():
    assert moves_for_a_whole_episode(0) > 0.05


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 9))
def test_whole_episodes_of_random_motion(seed):
    assert moves_for_a_whole_episode(seed) > 0.05


def test_it_can_be_collected(tmp_path):
    collect(
        "dmc:tripod-walk", tmp_path, videos=2, behaviour="smooth-random", image_size=32,
        action_repeat=4, max_length=12, workers=0, progress=False,
    )  # fmt: skip
    videos = sorted(tmp_path.glob("dmc_tripod_walk-*-12.npz"))
    frames = [read_video(path, image_size=32) for path in videos]
    assert [video.shape for video in frames] == [(12, 32, 32, 3)] * 2
    assert (frames[0] != frames[1]).any() and (frames[0][0] != frames[0][-1]).mean() > 0.05
