"""The quick loops over time give what the readable ones give, and the same gradients."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from apv_edu import fast_scan
from apv_edu.agent_config import HeadSize
from apv_edu.behavior import Behavior, ImaginationNoise, imagination_noise
from apv_edu.nets.distributions import gumbel
from apv_edu.nets.rssm import RSSM, State

BATCH, LENGTH, HORIZON, EMBED, ACTIONS = 3, 6, 5, 7, 2
SIZES = {"embed": EMBED, "deter": 6, "hidden": 5, "stoch": 3, "classes": 4}


def rssm(action_dim: int) -> RSSM:
    torch.manual_seed(0)
    model = RSSM(**SIZES, action_dim=action_dim).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.7)
    return model


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def some_state(batch: int = BATCH) -> State:
    latents = gumbel(batch, 3, 4, generator=torch.Generator().manual_seed(3)).double()
    return State(random(batch, 6, seed=4), nn.functional.one_hot(latents.argmax(-1), 4).double())


def gradients(outputs, inputs: list[Tensor]) -> list[Tensor]:
    """Of a sum of all outputs with arbitrary weights."""
    weights = [random(*out.shape, seed=i) for i, out in enumerate(outputs)]
    return list(torch.autograd.grad(outputs, inputs, weights, materialize_grads=True))


def observed(observe, model: RSSM, case: str) -> list[Tensor]:
    """All outputs and all gradients."""
    embed = random(BATCH, LENGTH, EMBED, seed=1).requires_grad_()
    is_first = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    is_first[:, 0] = is_first[1, 3] = True
    noise = gumbel(BATCH, LENGTH, 3, 4, generator=torch.Generator().manual_seed(2)).double()
    options = {
        "bare": {},
        "noise": {"noise": noise},
        "all": {"noise": noise, "is_first": is_first, "state": some_state()},
    }[case]
    if model.action_dim:
        options["actions"] = random(BATCH, LENGTH, ACTIONS, seed=5)
    rollout = observe(embed, **options)
    return [*rollout, *gradients(rollout, [embed, *model.parameters()])]


@pytest.mark.parametrize("case", ["bare", "noise", "all"])
@pytest.mark.parametrize("action_dim", [0, ACTIONS])
def test_observe(action_dim, case):
    model = rssm(action_dim)
    plain = observed(model.observe, model, case)
    quick = observed(partial(fast_scan.observe, model), model, case)
    assert all(bool((gradient != 0).any()) for gradient in plain[4:])
    for ours, theirs in zip(quick, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_frozen_model_gets_no_gradients():
    model = rssm(0).requires_grad_(False)
    embed = random(BATCH, LENGTH, EMBED)
    quick, plain = fast_scan.observe(model, embed), model.observe(embed)
    assert not quick.deter.requires_grad
    torch.testing.assert_close(quick, plain)


def imagined(imagine, behavior: Behavior, noise: ImaginationNoise | None) -> list[Tensor]:
    model = rssm(ACTIONS)
    trajectory = imagine(model, some_state(BATCH), HORIZON, noise)
    policy = trajectory.policy
    outputs = [*trajectory.states, trajectory.actions, policy.loc, policy.scale]
    assert policy.a.shape == policy.loc.shape == (BATCH, HORIZON, ACTIONS)
    return [*outputs, *gradients(outputs, list(behavior.actor.parameters()))]


@pytest.mark.parametrize("noisy", [False, True])
def test_imagine(noisy):
    torch.manual_seed(1)
    behavior = Behavior(18, ACTIONS, HeadSize(units=8, layers=2)).double()
    generator = torch.Generator().manual_seed(6)
    noise = imagination_noise(rssm(ACTIONS), BATCH, HORIZON, generator) if noisy else None
    plain = imagined(behavior.imagine, behavior, noise)
    quick = imagined(partial(fast_scan.imagine, behavior.actor), behavior, noise)
    assert all(bool((gradient != 0).any()) for gradient in plain[5:])
    for ours, theirs in zip(quick, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rounded", [False, True])
def test_only_products_are_rounded(rounded):
    """In bf16 the inputs of products are kept in bf16, and all else stays as it is."""
    model, kinds = rssm(0).float(), set()

    def step(*given):
        state, logits, inputs = fast_scan.see(*given)
        kinds.update(x.dtype for x in inputs)
        assert {state.deter.dtype, state.stoch.dtype, logits.dtype} == {torch.float32}
        return state, logits, inputs

    embed = random(BATCH, LENGTH, EMBED).float()
    with torch.autocast("cpu", torch.bfloat16) if rounded else nullcontext():
        rollout = fast_scan.observe(model, embed, step=step)
    assert kinds == {torch.bfloat16 if rounded else torch.float32}
    rollout.posterior.sum().backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    exact = model.observe(embed).deter[:, 0]  # later steps may have drawn other latents
    torch.testing.assert_close(rollout.deter[:, 0], exact, rtol=0, atol=0.05 if rounded else 1e-6)
