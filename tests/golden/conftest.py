"""The one door to the golden arrays, and the rule by which ours are compared with them."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from apv_edu.agent import APVAgent
from apv_edu.agent_config import (
    AgentConfig,
    BehaviorConfig,
    BonusConfig,
    HeadSize,
    WorldModelConfig,
)
from apv_edu.config import ModelSize
from apv_edu.data.replay import Batch
from apv_edu.official import load_official, to_official
from apv_edu.video_model import ActionFreeVideoModel

Arrays = Mapping[str, np.ndarray]

TOLERANCE = 1e-4
"""Largest difference between two float32 runs, as a share of the array's largest entry."""
ROUNDING = 1e-5
"""Largest error that float32 arithmetic may leave, as a share of its largest intermediate term."""


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """``golden("pretrain")``: the arrays of one file of the set in use, by name."""
    folder = Path(os.environ.get("APV_GOLDEN_DIR", Path(__file__).parent))
    cache: dict[str, dict[str, np.ndarray]] = {}

    def arrays(name: str) -> dict[str, np.ndarray]:
        if name not in cache:
            with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
                cache[name] = dict(file)
        return cache[name]

    return arrays


@pytest.fixture(scope="session")
def variables(golden) -> dict[str, np.ndarray]:
    """The action-free model's official variables, named as in official pre-training."""
    return {name.replace("af_rssm/", "rssm/"): array for name, array in golden("variables").items()}


@pytest.fixture(scope="session")
def official_model(golden, variables) -> Callable[[torch.dtype], ActionFreeVideoModel]:
    """A fresh model with the official weights, in the precision asked for."""
    reference = golden("pretrain")
    stoch, classes = reference["post_logit"].shape[-2:]
    size = ModelSize(
        image_size=golden("inputs")["image1"].shape[-2],
        depth=variables["encoder/conv0/kernel"].shape[-1],
        deter=reference["post_deter"].shape[-1],
        hidden=variables["rssm/img_in/kernel"].shape[-1],
        stoch=stoch,
        classes=classes,
    )

    def build(dtype: torch.dtype) -> ActionFreeVideoModel:
        model = ActionFreeVideoModel(size)
        load_official(model, variables)
        return model.to(dtype)

    return build


class Setting(NamedTuple):
    """One of the two official fine-tuning runs."""

    suffix: str
    """Of its files."""
    hold: int
    """Updates in which encoder and video RSSM have learning rate 0."""


SETTINGS = {"stacked": Setting("", 2), "concat": Setting("_concat", 0)}
NEIGHBOURS = 4
"""The one size of the official fine-tuning runs that no array tells."""


@pytest.fixture(scope="session", params=list(SETTINGS.values()), ids=list(SETTINGS))
def setting(request) -> Setting:
    return request.param


@pytest.fixture(scope="session")
def batches(golden) -> dict[int, Batch]:
    """Batch 1 and batch 2 of the official runs."""
    inputs = golden("inputs")
    return {
        i: Batch(*(torch.from_numpy(inputs[f"{name}{i}"]) for name in Batch._fields))
        for i in (1, 2)
    }


@pytest.fixture(scope="session")
def official_agent(golden, official_model) -> Callable[[Setting, torch.dtype], APVAgent]:
    """A fresh agent with the official weights, in the precision asked for."""
    shared = golden("variables") | golden("variables_finetune")
    bonus, queue = golden("finetune")["call1/int_rew_raw"], golden("finetune")["call1/queue"]
    length, action_dim = golden("inputs")["action1"].shape[1:]
    layers = sum(name.startswith("reward/dense") for name in shared) // 2

    def build(setting: Setting, dtype: torch.dtype) -> APVAgent:
        variables = dict(shared)
        if setting.suffix:
            variables |= golden(f"variables_finetune{setting.suffix}")
        config = AgentConfig(
            model=official_model(dtype).size,
            heads=HeadSize(variables["reward/out/out/kernel"].shape[0], layers),
            world_model=WorldModelConfig(concat_embed=bool(setting.suffix), hold=setting.hold),
            bonus=BonusConfig(
                window=length - bonus.shape[1] + 1,
                queue=queue.shape[0],
                dim=queue.shape[1],
                neighbours=NEIGHBOURS,
            ),
            behavior=BehaviorConfig(horizon=len(golden("imag")["target"])),
        )
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            agent = APVAgent(config, action_dim)
        finally:
            torch.set_default_dtype(default)
        load_official(agent.world_model, variables)
        for name in ("actor", "critic", "target_critic"):
            load_official(getattr(agent.behavior, name), variables, name)
        assert agent.bonus is not None
        agent.bonus.projection.copy_(torch.from_numpy(variables["random_projection_matrix"]))
        return agent

    return build


@pytest.fixture(scope="session")
def gradient_views() -> Callable[..., dict[str, np.ndarray]]:
    """Gradients by our names, in the three forms and by the names of the golden files."""

    def views(grads: Mapping[str, torch.Tensor], prefix: str = "") -> dict[str, np.ndarray]:
        out = {}
        for name, grad in to_official(grads, prefix).items():
            out[f"grad/{name}"] = grad
            out[f"grad_every8/{name}"] = grad.ravel()[::8]
            out[f"grad_norm/{name}"] = np.linalg.norm(grad)
        return out

    return views


def excess(
    reference: np.ndarray, ours: np.ndarray, exact: np.ndarray, terms: np.ndarray | None
) -> float:
    """How far ``ours`` is from ``reference``, as a multiple of what is allowed.

    Allowed is ``TOLERANCE`` of the largest entry. It is twice the reference's own error where our
    float64 run (``exact``) shows that error to be larger, but only if mere rounding explains it:
    ``terms`` are the numbers whose near cancellation left ``reference``.
    """
    reference, ours, exact = (np.asarray(a, np.float64) for a in (reference, ours, exact))
    assert reference.shape == ours.shape == exact.shape
    allowed = TOLERANCE * np.abs(reference).max()
    own_error = np.abs(reference - exact).max()
    if terms is not None and allowed < own_error <= ROUNDING * np.abs(terms).max():
        allowed = 2 * own_error
    difference = np.abs(ours - reference).max()
    return float(difference / allowed) if allowed else float(difference > 0)


@pytest.fixture(scope="session")
def assert_parity() -> Callable[..., None]:
    """Assert that every reference array is met; ``ours`` and ``exact`` hold them by name."""

    def check(reference: Arrays, ours: Arrays, exact: Arrays, terms: Arrays | None = None) -> None:
        assert reference, "no array to compare"
        wrong = {}
        for name, array in reference.items():
            ratio = excess(array, ours[name], exact[name], None if terms is None else terms[name])
            if not ratio <= 1:
                wrong[name] = f"{ratio:.3g} times the allowed difference"
        assert not wrong

    return check
