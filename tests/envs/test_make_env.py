import gymnasium
import numpy as np
import pytest
from worlds import make_env

from apv_edu.envs import SUITES, ActionRepeat, task_names, tells_success
from apv_edu.errors import InputError


def test_task_names():
    for suite in SUITES:
        names = task_names(suite)
        assert len(names) == len(set(names)) == {"metaworld": 50, "dmc": 53, "tabletop": 2}[suite]
        assert all(name.startswith(f"{suite}:") for name in names)
    with pytest.raises(InputError, match=r"'atari'.*metaworld, dmc, tabletop"):
        task_names("atari")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("metaworld:lever-pul", "metaworld:lever-pull"),
        ("metaworld:lever_pull", "metaworld:lever-pull"),
        ("metaworld:lever-pull-v3", "metaworld:lever-pull"),
        ("lever-pull", "metaworld:lever-pull"),
        ("quadruped_walk", "dmc:quadruped-walk"),
        ("dmc:walker_walk", "dmc:walker-walk"),
        ("tabletop:pusch", "tabletop:push"),
    ],
)
def test_unknown_task_names_the_nearest(name, nearest):
    with pytest.raises(InputError) as caught:
        make_env(name)
    assert f"'{name}'" in str(caught.value) and nearest in str(caught.value)


def test_unknown_task_like_no_other():
    with pytest.raises(InputError, match="such as metaworld:reach"):
        make_env("%%%")


@pytest.mark.parametrize("setting", ["image_size", "action_repeat", "time_limit"])
def test_impossible_settings(setting):
    with pytest.raises(InputError, match=f"{setting}=0"):
        make_env("metaworld:reach", **{setting: 0})


@pytest.mark.gl
def test_unknown_options():
    with pytest.raises(InputError, match="metaworld:reach has no option look: it has orientation"):
        make_env("metaworld:reach", look="paper")
    with pytest.raises(InputError, match="dmc:walker-walk has no option orientation: it has none"):
        make_env("dmc:walker-walk", orientation="official")
    with pytest.raises(InputError, match=r"tabletop:reach has no option orientation: .*look"):
        make_env("tabletop:reach", orientation="official")


class Counter(gymnasium.Env):
    """A world that counts its steps and its frames, succeeds at step 2 and ends at step ``end``."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012

    def __init__(self, end: int):
        self.end, self.steps, self.drawn = end, 0, 0

    def simulate(self, action):
        self.steps += 1
        return float(action), self.steps == self.end, False, {"success": self.steps == 2}

    def observe(self):
        self.drawn += 1
        return {"image": np.zeros((4, 4, 3), np.uint8)}


def test_action_repeat_sums_rewards_draws_once_and_stops_at_the_end():
    counter = Counter(end=6)
    env = ActionRepeat(counter, 4)
    assert env.metadata["render_fps"] == 20
    _, reward, terminated, _, info = env.step(1.5)
    assert (reward, terminated, info["success"]) == (6.0, False, True)
    assert (counter.steps, counter.drawn) == (4, 1)
    _, reward, terminated, _, info = env.step(1.5)
    assert (reward, terminated, info["success"]) == (3.0, True, False)
    assert (counter.steps, counter.drawn) == (6, 2)


@pytest.mark.gl
def test_action_repeat_is_the_same_action_again():
    single = make_env("metaworld:reach", seed=0)
    double = make_env("metaworld:reach", seed=0, action_repeat=2)
    single.reset(seed=1)
    double.reset(seed=1)
    action = np.array([1, 0.5, -0.5, 1], np.float32)
    for _ in range(3):
        rewards = [single.step(action)[1] for _ in range(2)]
        observation, reward, *_ = double.step(action)
        assert reward == pytest.approx(sum(rewards))
        np.testing.assert_array_equal(observation["image"], single.render())
    single.close()
    double.close()


@pytest.mark.gl
@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("metaworld:reach", {"time_limit": 7, "action_repeat": 2}, 4),
        ("dmc:pendulum-swingup", {"time_limit": 6}, 6),
        ("dmc:pendulum-swingup", {}, 1000),
        ("metaworld:reach", {"action_repeat": 4}, 125),
        ("tabletop:reach", {"time_limit": 9}, 9),
        ("tabletop:push", {}, 50),
    ],
)
def test_time_limits_count_simulator_steps(name, options, steps):
    env = make_env(name, seed=0, image_size=16, **options)
    env.reset(seed=0)
    if not name.startswith("tabletop"):
        env.unwrapped.observe = lambda: {}  # nothing to see here
    ends = []
    action = np.zeros(env.action_space.shape, np.float32)
    while not any(ends):
        _, _, terminated, truncated, _ = env.step(action)
        assert not terminated
        ends.append(truncated)
    assert len(ends) == steps
    env.close()


@pytest.mark.gl
@pytest.mark.parametrize("name", ["metaworld:soccer", "dmc:cheetah-run", "tabletop:reach"])
def test_spaces_and_frames(name):
    env = make_env(name, image_size=32, seed=0)
    assert isinstance(env.observation_space, gymnasium.spaces.Dict)
    assert env.observation_space["image"] == gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    assert isinstance(env.action_space, gymnasium.spaces.Box)
    assert env.action_space.dtype == np.float32
    assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all()
    observation, info = env.reset()
    assert env.observation_space.contains(observation) and info["success"] is False
    observation, reward, *_, info = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation)
    assert isinstance(reward, float) and isinstance(info["success"], bool)
    np.testing.assert_array_equal(observation["image"], env.render())
    env.close()


def test_which_worlds_can_tell_success():
    told = {suite: {tells_success(name) for name in task_names(suite)} for suite in SUITES}
    assert told == {"metaworld": {True}, "tabletop": {True}, "dmc": {False}}
