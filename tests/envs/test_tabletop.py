import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from apv_edu.envs import make_env
from apv_edu.envs.tabletop import HOLD, TOLERANCE, Tabletop
from apv_edu.envs.tabletop_drawing import LOOKS, RADIUS, random_palette
from apv_edu.errors import InputError

TASKS = ("reach", "push")
STILL = np.zeros(2, np.float32)
RIGHT = np.array([1.0, 0.0])


def play(env, policy, seed):
    """Frames, rewards and successes of an episode."""
    observation, _ = env.reset(seed=seed)
    frames, rewards, successes, truncated = [observation["image"]], [], [], False
    while not truncated:
        observation, reward, terminated, truncated, info = env.step(policy())
        assert not terminated
        frames.append(observation["image"])
        rewards.append(reward)
        successes.append(info["success"])
    return np.stack(frames), rewards, successes


@pytest.mark.parametrize("size", [64, 32])
@pytest.mark.parametrize("task", TASKS)
def test_passes_the_checker_of_gymnasium(task, size):
    env = make_env(f"tabletop:{task}", image_size=size, look="random", distractors=2)
    check_env(env.unwrapped)


@pytest.mark.parametrize("task", TASKS)
def test_same_seed_same_frames(task):
    env = Tabletop(task, look="random", distractors=3)
    first = play(env, env.expert_action, 5)
    other = play(env, env.expert_action, 6)
    again = play(Tabletop(task, look="random", distractors=3), env.expert_action, 6)
    assert (play(env, env.expert_action, 5)[0] == first[0]).all()
    assert not (first[0][0] == other[0][0]).all()
    assert (again[0][0] == other[0][0]).all()


def test_seed_given_to_the_world_is_the_seed_of_the_first_episode():
    a, b = Tabletop("push", seed=3), Tabletop("push")
    assert (a.reset()[0]["image"] == b.reset(seed=3)[0]["image"]).all()
    assert not (a.reset()[0]["image"] == b.render()).all()


@pytest.mark.parametrize(("task", "least"), [("reach", 0.95), ("push", 0.9)])
def test_expert_succeeds_and_chance_does_not(task, least):
    env, rng = Tabletop(task, image_size=8), np.random.default_rng(0)

    def chance():
        return rng.uniform(-1, 1, 2)

    expert = [play(env, env.expert_action, seed) for seed in range(40)]
    random = [play(env, chance, seed) for seed in range(40)]
    assert np.mean([any(success) for _, _, success in expert]) >= least
    assert np.mean([any(success) for _, _, success in random]) <= 0.05
    better = np.mean([sum(r) for _, r, _ in expert]) - np.mean([sum(r) for _, r, _ in random])
    assert better > 20  # of at most 50


def test_success_is_holding_the_goal_not_passing_over_it():
    env = Tabletop("reach")
    env.reset(seed=0)
    env.gripper = env.goal + 0.5 * TOLERANCE * RIGHT
    successes = [env.step(STILL)[4]["success"] for _ in range(HOLD)]
    assert successes == [False] * (HOLD - 1) + [True]
    env.gripper = env.goal + 1.1 * TOLERANCE * RIGHT
    assert not env.step(STILL)[4]["success"]
    env.gripper = env.goal.copy()
    assert not env.step(STILL)[4]["success"]


@pytest.mark.parametrize("task", TASKS)
def test_reward_grows_towards_the_goal_and_jumps_on_it(task):
    env = Tabletop(task)
    env.reset(seed=0)
    rewards = []
    for far in (1.2, 0.8, 1.1 * TOLERANCE, 0.9 * TOLERANCE, 0):
        env.puck = env.goal + far * RIGHT
        env.gripper = env.puck + 2 * RADIUS * RIGHT if task == "push" else env.puck
        rewards.append(env._reward())
    assert rewards == sorted(rewards)
    assert rewards[3] - rewards[2] > 0.3
    assert rewards[-1] == pytest.approx(1)


def test_a_push_moves_the_puck_along_the_line_of_centres():
    env = Tabletop("push")
    env.reset(seed=0)
    env.gripper, env.puck = np.array([-0.5, 0.0]), np.array([-0.5 + 2 * RADIUS + 0.01, 0.0])
    env.step(np.array([0.0, 0.5]))  # passes it by
    env.gripper = np.array([-0.5, 0.0])
    before = env.puck.copy()
    env.step(np.array([-1.0, 0.0]))
    assert (env.puck == before).all()
    env.gripper = before - 2 * RADIUS * RIGHT
    env.step(RIGHT)
    np.testing.assert_allclose(env.puck, before + 0.2 * RIGHT, atol=1e-9)
    env.gripper = env.puck - (2 * RADIUS, 0.06)  # off centre: the puck slips away sideways
    height = env.puck[1]
    env.step(RIGHT)
    assert env.puck[1] > height + 0.01


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), bias=st.tuples(*[st.floats(-1, 1)] * 2))
def test_nothing_overlaps_or_leaves_the_table(seed, bias):
    env, rng = Tabletop("push", image_size=8), np.random.default_rng(seed)
    env.reset(seed=seed)
    wall = 1 - RADIUS + 1e-9
    for _ in range(50):
        before = env.gripper.copy(), env.puck.copy()
        env.simulate(np.array(bias) + rng.uniform(-1, 1, 2))
        assert np.hypot(*(env.puck - env.gripper)) >= 2 * RADIUS - 1e-6
        assert (np.abs(env.puck) <= wall).all() and (np.abs(env.gripper) <= wall).all()
        for was, now in zip(before, (env.gripper, env.puck), strict=True):
            assert np.abs(now - was).max() < 0.45


@pytest.mark.parametrize("look", LOOKS)
def test_each_thing_is_drawn_where_it_is(look):
    env, palette = Tabletop("push", look=look), LOOKS[look]
    env.reset(seed=0)
    env.goal, env.puck, env.gripper = np.array([[-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]])
    env._tables.clear()
    image = env.draw(256).astype(float)

    def at(x, y):
        return image[int((1 - y) * 128), int((1 + x) * 128)]

    np.testing.assert_allclose(at(0.5, 0.5 + 0.57 * RADIUS), palette.object, atol=2)
    np.testing.assert_allclose(at(0.5, -0.5 - 0.58 * RADIUS), palette.gripper, atol=2)
    np.testing.assert_allclose(at(-0.5 + 0.22, 0.5), palette.goal, atol=2)
    np.testing.assert_allclose(at(-0.3, -0.3), palette.table, atol=3.5 * palette.contrast + 1)


def test_edges_are_anti_aliased_and_sizes_agree():
    env = Tabletop("push", look="paper")
    large = env.reset(seed=2)[0]["image"].astype(float)
    small = env.draw(32).astype(float)
    pooled = large.reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(pooled - small).mean() < 1.5
    env.gripper = env.gripper + 0.2 * 2 / 64 * RIGHT  # a fifth of a pixel shows
    assert 0 < np.abs(env.render() - large).max() < 80


def test_looks_and_distractors_change_the_picture_only():
    frames = [Tabletop("push", look=look).reset(seed=4)[0]["image"] for look in LOOKS]
    assert len({frame.tobytes() for frame in frames}) == len(LOOKS)
    env = Tabletop("push", distractors=4)
    painted = env.reset(seed=4)[0]["image"]
    assert 20 < (painted != frames[0]).any(-1).sum() < 1500
    plain = Tabletop("push")
    plain.reset(seed=4)
    assert (plain.goal == env.goal).all() and (plain.puck == env.puck).all()


def test_random_looks_keep_things_apart_in_colour():
    for seed in range(200):
        palette = random_palette(np.random.default_rng(seed))
        colours = np.array([palette.table, palette.gripper, palette.object, palette.goal])
        gaps = np.abs(colours[:, None] - colours[None]).max(-1)[np.triu_indices(4, 1)]
        assert gaps.min() > 40, (seed, palette)
        assert colours.min() >= 0 and colours.max() <= 255


def test_action_repeat_and_time_limit():
    env = make_env("tabletop:push", action_repeat=2, time_limit=11)
    one = make_env("tabletop:push", time_limit=11)
    rewards = play(env, lambda: np.ones(2, np.float32), 3)[1]
    singles = play(one, lambda: np.ones(2, np.float32), 3)[1]
    assert len(rewards) == 6 and len(singles) == 11
    assert rewards[0] == pytest.approx(singles[0] + singles[1])
    assert rewards[-1] == pytest.approx(singles[-1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"task": "lift"}, ["'lift'", "reach or push"]),
        ({"look": "plaid"}, ["'plaid'", "wood"]),
        ({"image_size": 4}, ["image_size=4", "8 or more"]),
        ({"distractors": -1}, ["distractors=-1", "0 or more"]),
        ({"time_limit": 0}, ["time_limit=0", "1 or more"]),
    ],
)
def test_bad_settings_are_named(arguments, words):
    with pytest.raises(InputError) as error:
        Tabletop(**arguments)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("action", [np.zeros(3), np.array([np.nan, 0])])
def test_bad_actions_are_named(action):
    env = Tabletop()
    env.reset(seed=0)
    with pytest.raises(InputError, match="two finite numbers"):
        env.step(action)
