import numpy as np
import pytest

from apv_edu.envs import make_env
from apv_edu.envs.vector import make_vector_env
from apv_edu.errors import InputError


@pytest.mark.gl
def test_each_world_is_what_it_is_alone():
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 2, 4)).astype(np.float32)
    together = make_vector_env("metaworld:reach", 2, seed=3, image_size=32, action_repeat=2)
    try:
        frames = [together.reset()[0]["image"]]
        rewards = []
        for action in actions:
            observation, reward, *_ = together.step(action)
            frames.append(observation["image"])
            rewards.append(reward)
    finally:
        together.close()
    assert frames[0].shape == (2, 32, 32, 3) and frames[0].dtype == np.uint8
    for index in range(2):
        alone = make_env("metaworld:reach", seed=3 + index, image_size=32, action_repeat=2)
        np.testing.assert_array_equal(alone.reset()[0]["image"], frames[0][index])
        for step, action in enumerate(actions):
            observation, reward, *_ = alone.step(action[index])
            np.testing.assert_array_equal(observation["image"], frames[step + 1][index])
            assert reward == rewards[step][index]
        alone.close()


def test_bad_input_is_refused_before_any_process_starts():
    with pytest.raises(InputError, match="count=0"):
        make_vector_env("metaworld:reach", 0, seed=0)
    with pytest.raises(InputError, match="metaworld:reach"):
        make_vector_env("metaworld:reech", 2, seed=0)
