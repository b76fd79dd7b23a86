from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from finetune_runs import SIZE, TASK, quick, video_model
from safetensors.torch import save_file

from apv_edu import checkpoint
from apv_edu.agent import APVAgent
from apv_edu.agent_config import VARIANTS
from apv_edu.agent_files import load_agent, save_agent, world_config
from apv_edu.data.video import pack_videos
from apv_edu.errors import InputError
from apv_edu.evaluate import Played, agent_policy, dream
from apv_edu.finetune_config import WorldConfig

STORY = {"task": TASK, "world": asdict(WorldConfig(tolerance=0.28)), "seed": 3}


def made(variant: str = "apv", action_dim: int = 2) -> APVAgent:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return APVAgent(quick(variant).agent, action_dim).eval()


def noise_episode() -> Played:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    actions = rng.uniform(-1, 1, (12, 2)).astype(np.float32)
    return Played(frames, actions, np.zeros(12, np.float32), False)


def actions(agent: APVAgent) -> np.ndarray:
    policy = agent_policy(agent, seed=1)
    return np.stack([policy(f, t == 0) for t, f in enumerate(noise_episode().frames)])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_saved_agent_is_the_same_agent(variant: str, tmp_path: Path):
    agent = made(variant)
    save_agent(tmp_path / "a.safetensors", agent, STORY)
    loaded, story = load_agent(tmp_path / "a.safetensors")
    assert loaded.config == agent.config and loaded.action_dim == 2
    assert not loaded.training
    np.testing.assert_array_equal(actions(loaded), actions(agent))
    episode = noise_episode()
    np.testing.assert_array_equal(dream(loaded, episode), dream(agent, episode))
    assert story.items() > STORY.items()
    assert world_config(story) == WorldConfig(tolerance=0.28)


def test_what_serves_training_only_stays_out(tmp_path: Path):
    agent = made()
    assert agent.bonus is not None
    save_agent(tmp_path / "a.safetensors", agent, STORY)
    tensors = checkpoint.load(tmp_path / "a.safetensors")[0]
    names = {name.partition(".")[0] for name in tensors}
    assert names == {"world_model", "behavior"}
    loaded = load_agent(tmp_path / "a.safetensors")[0]
    assert loaded.bonus is not None and loaded.updates == 0
    queues = {name: value for name, value in loaded.bonus.named_buffers() if "filled" in name}
    assert queues and all(not value.any() for value in queues.values())


def test_half_precision_halves_the_file_and_acts_the_same(tmp_path: Path):
    agent, (whole, half) = made(), (tmp_path / f"{name}.safetensors" for name in ("one", "half"))
    save_agent(whole, agent, STORY)
    save_agent(half, agent, STORY, torch.float16)
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    loaded, story = load_agent(half)
    assert story == load_agent(whole)[1]
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}
    for weight, rounded in zip(agent.parameters(), loaded.parameters(), strict=True):
        torch.testing.assert_close(rounded, weight, rtol=1e-3, atol=1e-6)
    assert not np.array_equal(actions(loaded), actions(agent))
    np.testing.assert_allclose(actions(loaded), actions(agent), atol=0.01)


def test_what_is_no_agent_is_refused_by_its_kind(tmp_path: Path):
    frames = tmp_path / "videos"
    frames.mkdir()
    for index in range(2):
        np.savez(frames / f"a-{index}-4.npz", image=np.zeros((4, 32, 32, 3), np.uint8))
    data = pack_videos(frames, tmp_path / "data", image_size=32, min_length=2, progress=False)
    video = video_model(tmp_path / "video.safetensors")
    saved = tmp_path / "checkpoint.safetensors"
    checkpoint.save(saved, made().training_state(), {"kind": "finetuning", "settings": {}})
    other, damaged = tmp_path / "other.safetensors", tmp_path / "damaged.safetensors"
    save_file({"w": torch.zeros(2)}, other)
    damaged.write_bytes(video.read_bytes()[:-1])
    remedy = "not an agent: pass the agent.safetensors of a fine-tuning run."
    for path, words in (
        (data.path, f"{data.path} is a dataset of videos, {remedy}"),
        (frames, f"{frames} is a folder, {remedy}"),
        (video, f"{video} is a 'video_model', {remedy}"),
        (saved, f"{saved} is a 'finetuning', {remedy}"),
        (tmp_path / "none", "There is no checkpoint"),
        (other, "was not written by apv_edu"),
        (damaged, "is damaged"),
    ):
        with pytest.raises(InputError) as caught:
            load_agent(path)
        message = str(caught.value)
        assert words in message and message.endswith(".") and "\n" not in message


def test_weights_that_do_not_fit_the_story_are_refused(tmp_path: Path):
    agent = made()
    save_agent(tmp_path / "a.safetensors", agent, STORY)
    tensors, story = checkpoint.load(tmp_path / "a.safetensors")
    story["config"]["model"] = asdict(replace(SIZE, deter=40))
    checkpoint.save(tmp_path / "b.safetensors", tensors, story)
    with pytest.raises(InputError, match=r"b\.safetensors does not fit this model: "):
        load_agent(tmp_path / "b.safetensors")


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.safetensors"
    save_agent(path, made(), STORY)
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("apv_edu.files.os.fsync", full)
    with pytest.raises(InputError, match=r"No space left to write .*a\.safetensors \(what was"):
        save_agent(path, made("dreamer"), STORY)
    assert path.read_bytes() == before
