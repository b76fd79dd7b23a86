from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_runs import LIMIT, TASK, Silence, assert_same_run, quick, refused, run

from apv_edu import checkpoint, rounds
from apv_edu.agent_files import load_agent
from apv_edu.data.replay import read_episode
from apv_edu.envs import make_env
from apv_edu.logger import read_csv


def test_a_run_leaves_everything_it_promises(whole: Path, tmp_path: Path, model: Path):
    names = {path.name for path in whole.iterdir()}
    videos = {f"eval_{name}_00000{step}.mp4" for name in ("policy", "dream") for step in (20, 30)}
    assert names == videos | {
        "checkpoint.safetensors", "agent.safetensors", "metrics.csv", "replay", "tensorboard",
    }  # fmt: skip
    episodes = [read_episode(path) for path in sorted((whole / "replay").iterdir())]
    assert [len(episode.reward) for episode in episodes] == [LIMIT + 1] * 3
    rows = read_csv(whole / "metrics.csv")
    by_name: dict[str, list[tuple[int, float]]] = {}
    for step, name, value in rows:
        by_name.setdefault(name, []).append((step, value))
    returns = [float(episode.reward.sum()) for episode in episodes]
    assert by_name["episode/return"] == list(zip((10, 20, 30), returns, strict=True))
    assert by_name["episode/length"] == [(step, LIMIT) for step in (10, 20, 30)]
    assert [step for step, _ in by_name["random/return"]] == [0]
    assert [step for step, _ in by_name["eval/success"]] == [20, 30]
    assert [step for step, _ in by_name["train/model_loss"]] == [11, 15, 20, 25, 30]
    loaded, story = load_agent(whole / "agent.safetensors")
    assert not loaded.training
    assert (story["task"], story["seed"], story["steps"]) == (TASK, 5, 30)
    assert story["world"]["time_limit"] == LIMIT
    assert story["settings"]["video_model"] is None
    agent = run(tmp_path, quick(), video_model=model, command="apv-edu finetune --me")
    story = load_agent(tmp_path / "agent.safetensors")[1]
    assert story["command"] == "apv-edu finetune --me"
    assert story["settings"]["video_model"] == checkpoint.digest(model)
    assert agent.updates == 5
    assert not agent.training


def test_the_first_steps_are_random_and_the_rest_the_agents(whole: Path, tmp_path: Path):
    """Noise of an episode comes from the seed and the episode's number, the start from both too."""
    episodes = [read_episode(path) for path in sorted((whole / "replay").iterdir())]
    rng = np.random.default_rng(rounds.stream(5, rounds.RANDOM, 0))
    wanted = [rng.uniform(-1, 1, (1, 2)).astype(np.float32)[0] for _ in range(LIMIT)]
    np.testing.assert_array_equal(episodes[0].action[1:], wanted)
    assert (episodes[0].action[0] == 0).all()
    rng = np.random.default_rng(rounds.stream(5, rounds.RANDOM, 1))
    other = rng.uniform(-1, 1, (LIMIT, 2)).astype(np.float32)
    assert not np.isclose(episodes[1].action[1:], other).any()
    world = make_env(TASK, image_size=32, time_limit=LIMIT)
    for index, episode in enumerate(episodes):
        frame, _ = world.reset(seed=rounds.stream(5, rounds.WORLD, index) % 2**32)
        np.testing.assert_array_equal(frame["image"], episode.image[0])
        for t in range(1, LIMIT + 1):
            frame, reward, *_ = world.step(episode.action[t])
            np.testing.assert_array_equal(frame["image"], episode.image[t])
            assert np.float32(reward) == episode.reward[t]


def test_same_seed_same_run_other_seed_another(whole: Path, tmp_path: Path):
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    run(tmp_path / "same")
    assert_same_run(whole, tmp_path / "same")
    run(tmp_path / "other", seed=6)
    with pytest.raises(AssertionError):
        assert_same_run(whole, tmp_path / "other")
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's randomness is touched
    assert torch.get_num_threads() == threads


def test_an_interrupted_run_goes_on_where_it_was(whole: Path, tmp_path: Path):
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, logger=Silence(stop_at=25))
    assert torch.get_num_threads() == threads
    assert checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["step"] == 20
    logger = Silence()
    agent = run(tmp_path, logger=logger)
    finished = load_agent(whole / "agent.safetensors")[0]
    for name, weight in finished.state_dict().items():
        if not name.startswith("bonus"):
            assert torch.equal(weight, agent.state_dict()[name])
    assert logger.resumed == [20] and logger.closed
    assert min(logger.numbers) == 25
    assert logger.videos == [(30, "eval/policy"), (30, "eval/dream")]


def test_a_finished_run_can_be_repeated_and_extended(whole: Path, tmp_path: Path):
    run(tmp_path, quick("dreamer", steps=15))  # the second episode ends at step 20
    run(tmp_path, quick("dreamer", steps=15))
    refused(lambda: run(tmp_path, quick("dreamer", steps=10)), "at step 20 already, beyond the 10")
    run(tmp_path, quick("dreamer", steps=20))
    run(tmp_path)
    assert_same_run(whole, tmp_path)


@pytest.mark.parametrize("variant", ["stacked", "naive", "frozen"])
def test_every_variant_trains(variant: str, model: Path, tmp_path: Path):
    config = quick(variant)
    video = model if variant != "stacked" else None
    agent = run(tmp_path, config, video_model=video, logger=Silence())
    assert agent.updates == config.updates_due(30) == 5
    tensors = checkpoint.load(model)[0]
    encoder = agent.world_model.encoder.state_dict()
    kept = all(torch.equal(encoder[n], tensors[f"encoder.{n}"]) for n in encoder)
    assert kept == (variant == "frozen")


def test_several_updates_may_fall_due_at_once_and_none_before_the_prefill(tmp_path: Path):
    config = quick("dreamer", prefill=11, warmup=3, update_every=2)  # two episodes are random
    logger = Silence()
    agent = run(tmp_path, config, logger=logger)
    steps = [step for step, values in logger.numbers.items() if "train/model_loss" in values]
    assert steps == [21, 23, 25, 27, 29]
    assert agent.updates == config.updates_due(30) == 3 + 19 // 2


def test_episodes_that_end_at_once_are_dreamed_of_too(tmp_path: Path):
    world = partial(make_env, TASK, image_size=32, time_limit=2)
    logger = Silence()
    run(tmp_path, quick("dreamer", steps=12, sequence_length=2), make=world, logger=logger)
    assert logger.numbers[12]["episode/length"] == 2
    assert (12, "eval/dream") in logger.videos


def test_progress_shows_the_time_left(tmp_path: Path, capsys):
    run(tmp_path, progress=True, logger=Silence())
    assert "30/30 [" in capsys.readouterr().err


@pytest.mark.gpu
def test_a_gpu_trains_and_resumes(tmp_path: Path, model: Path):
    run(tmp_path, quick(steps=20), video_model=model, device="auto")
    logger = Silence()
    agent = run(tmp_path, quick(), video_model=model, device="auto", logger=logger)
    assert next(agent.parameters()).is_cuda
    assert logger.resumed == [20]
    assert np.isfinite(logger.numbers[30]["train/model_loss"])
