"""The dream in another runtime: ONNX graphs that compute what torch computes."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from apv_edu import cli, onnx_export
from apv_edu.agent import APVAgent
from apv_edu.agent_config import AgentConfig
from apv_edu.agent_files import load_agent
from apv_edu.assets import asset_path
from apv_edu.errors import InputError
from apv_edu.finetune_config import SMOKE
from apv_edu.nets.distributions import entropy, gumbel
from apv_edu.nets.rssm import State

AGENTS = ["tabletop_reach_agent.safetensors", "metaworld_door_close_agent.safetensors"]
"""One with a single RSSM at 32x32 pixels, and a stacked one at 64x64."""


def run(graph: bytes, **inputs: torch.Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return dict(zip(names, map(np.asarray, found), strict=True))


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx")
    assert cli.main(["export-onnx", "--agent", AGENTS[0], "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def about(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "dream.json").read_text("utf-8"))


@pytest.mark.parametrize("name", AGENTS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@torch.no_grad()
def test_a_dream_is_torchs_at_any_size_of_batch(name: str, temperature: float):
    model = load_agent(asset_path(name))[0].world_model
    graphs = onnx_export.dream_graphs(model)
    size, generator = model.size, torch.Generator().manual_seed(3)
    for batch in (1, 3):
        action = torch.rand(batch, 12, model.rssm.action_dim, generator=generator) * 2 - 1
        noise = gumbel(batch, 12, size.stoch, size.classes, generator=generator) * temperature
        state = State(torch.randn(batch, size.deter, generator=generator), noise[:, 0].abs())
        future = model.rssm.imagine(state, 12, actions=action, noise=noise if temperature else None)
        frames = (model.decode(future.features) + 0.5).clamp(0, 1)
        reward, uncertainty = model.reward(future.features), entropy(future.prior)
        (deter, stoch), frame = state, np.zeros(0)
        for t in range(12):
            step = run(
                graphs["step"], deter=deter, stoch=stoch, action=action[:, t], noise=noise[:, t]
            )
            deter, stoch = (torch.from_numpy(step[f"next_{one}"]) for one in ("deter", "stoch"))
            np.testing.assert_array_equal(stoch, future.stoch[:, t])
            np.testing.assert_allclose(deter, future.deter[:, t], atol=1e-5)
            np.testing.assert_allclose(step["reward"], reward[:, t], atol=1e-4)
            np.testing.assert_allclose(step["entropy"], uncertainty[:, t], atol=1e-4)
            frame = run(graphs["decode"], deter=deter, stoch=stoch)["frame"]
            np.testing.assert_allclose(frame, frames[:, t], atol=1e-4)
        assert frame.shape == (batch, size.image_size, size.image_size, 3) and frame.std() > 0.01


def test_the_files_are_valid_and_small(folder: Path):
    for name in ("step.onnx", "decode.onnx"):
        onnx.checker.check_model(onnx.load(folder / name), full_check=True)
        assert (folder / name).stat().st_size < 3_000_000


def test_another_runtime_can_repeat_the_trace(folder: Path, about: dict[str, Any]):
    trace = about["trace"]
    steps = len(trace["entropy"])
    action = torch.tensor(floats(trace["action"])).reshape(steps, 1, about["actions"])
    noise = torch.tensor(floats(trace["noise"])).reshape(steps, 1, about["stoch"], -1)
    belief = {"deter": torch.zeros(1, len(floats(trace["deter"]))), "stoch": noise[0] * 0}
    for t in range(steps):
        told = run((folder / "step.onnx").read_bytes(), **belief, action=action[t], noise=noise[t])
        belief = {name: torch.from_numpy(told[f"next_{name}"]) for name in belief}
        assert told["entropy"][0] == pytest.approx(trace["entropy"][t], abs=1e-4)
        assert told["reward"][0] == pytest.approx(trace["reward"][t], abs=1e-4)
    np.testing.assert_allclose(belief["deter"][0], floats(trace["deter"]), atol=1e-4)
    frame = run((folder / "decode.onnx").read_bytes(), **belief)["frame"]
    np.testing.assert_allclose(frame.ravel(), floats(trace["frame"]), atol=1e-4)
    assert np.ptp(trace["entropy"]) > 0.1  # the steps differ, so a stuck runtime would be seen


def test_a_start_is_a_real_moment_with_what_the_model_believes(about: dict[str, Any]):
    starts, pixels = about["starts"], (about["size"], about["size"], 3)
    frames, seen = (
        np.stack([np.frombuffer(base64.b64decode(one[name]), np.uint8) for one in starts])
        for name in ("frames", "seen")
    )
    frames, seen = (array.reshape(6, 6, *pixels).astype(float) for array in (frames, seen))
    assert len(np.unique(frames[:, 0].reshape(6, -1), axis=0)) == 6  # six different moments
    assert (np.abs(np.diff(frames, axis=1)).max((2, 3, 4)) > 30).all()  # in which things move
    # Having watched, the model knows the picture better than a table without anything on it does.
    empty = np.median(frames, axis=(0, 1))
    error, blank = ((frames[:, -1] - guess) ** 2 for guess in (seen[:, -1], empty))
    assert error.mean() < 0.5 * blank.mean()
    for one in starts:
        assert all(abs(x) <= one["truth"]["wall"] for x in one["truth"]["at"])
        stoch = floats(one["stoch"]).reshape(about["stoch"], about["classes"])
        assert (stoch.sum(-1) == 1).all() and len(one["entropy"]) == 6


def test_the_ring_follows_the_gripper(about: dict[str, Any]):
    """What the page does with ``truth`` is what the world does with the gripper, walls included."""
    from apv_edu.envs import make_env

    env = make_env("tabletop:reach")
    env.reset(seed=0)
    truth = about["starts"][0]["truth"]
    at = env.unwrapped.gripper  # pyright: ignore[reportAttributeAccessIssue]
    for action in np.random.default_rng(0).choice([-1.0, 0.0, 1.0], (40, 2)):
        at = np.clip(at + truth["speed"] * action, -truth["wall"], truth["wall"])
        env.step(action)
        np.testing.assert_allclose(at, env.unwrapped.gripper)  # pyright: ignore


def test_what_cannot_be_exported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    agent = APVAgent(AgentConfig(model=SMOKE.agent.model), 2)
    with pytest.raises(InputError, match="starts=0"):
        onnx_export.export_dream(agent, {}, tmp_path, starts=0)
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install onnx"):
        onnx_export.dream_graphs(agent.world_model)
    assert cli.main(["export-onnx", "--agent", AGENTS[0], "--out", str(tmp_path)]) == 2
    assert "pip install onnx" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
