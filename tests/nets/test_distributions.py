import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.distributions import Independent, Normal, OneHotCategorical
from torch.distributions import kl_divergence as torch_kl

from apv_edu.nets.distributions import (
    balanced_kl,
    entropy,
    gumbel,
    kl_divergence,
    straight_through,
    unit_normal_nll,
)

logit_arrays = arrays(np.float32, (2, 3, 4, 5), elements=st.floats(-8, 8, width=32))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_mode_is_exactly_one_hot_in_low_precision():
    logits = random(64, 8, 16).bfloat16()
    sample = straight_through(logits)
    assert torch.equal(sample.argmax(-1), logits.argmax(-1))
    assert set(sample.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(sample.sum(-1), torch.ones(64, 8, dtype=torch.bfloat16))


@settings(deadline=None, max_examples=30)
@given(logit_arrays, logit_arrays)
def test_straight_through_gradient_is_that_of_the_probabilities(logits, weight):
    logits, weight = torch.tensor(logits, requires_grad=True), torch.tensor(weight)
    (ours,) = torch.autograd.grad((straight_through(logits) * weight).sum(), logits)
    (plain,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    assert torch.equal(ours, plain)


def test_noise_moves_the_sample_but_not_the_gradient():
    logits = random(5, 3, 4).requires_grad_()
    noise = torch.zeros(5, 3, 4)
    noise[..., 2] = 100.0
    assert (straight_through(logits, noise).argmax(-1) == 2).all()
    weight = random(5, 3, 4, seed=1)
    (gradient,) = torch.autograd.grad((straight_through(logits, noise) * weight).sum(), logits)
    (expected,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    torch.testing.assert_close(gradient, expected)


def test_gumbel_noise_draws_from_the_categorical():
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    noise = gumbel(40_000, 4, generator=torch.Generator().manual_seed(0))
    frequencies = straight_through(logits.expand(40_000, 4), noise).mean(0)
    torch.testing.assert_close(frequencies, logits.softmax(-1), atol=0.01, rtol=0)
    assert noise.mean() == pytest.approx(0.57722, abs=0.01)
    assert noise.var() == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_gumbel_is_reproducible_and_finite(monkeypatch):
    first, second = (gumbel(7, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.zeros(*shape))
    assert torch.isfinite(gumbel(3)).all()


def test_entropy_and_divergence_agree_with_torch():
    p, q = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1)
    of = lambda logits: Independent(OneHotCategorical(logits=logits), 1)
    torch.testing.assert_close(entropy(p), of(p).entropy())
    torch.testing.assert_close(kl_divergence(p, q), torch_kl(of(p), of(q)))


@settings(deadline=None, max_examples=50)
@given(logit_arrays, logit_arrays)
def test_divergence_is_never_negative(p, q):
    p, q = torch.tensor(p), torch.tensor(q)
    assert (kl_divergence(p, q) >= -1e-5).all()
    assert torch.equal(kl_divergence(p, p), torch.zeros(2, 3))


@pytest.mark.parametrize("balance", [0.8, 0.3])
def test_balance_shares_the_gradient(balance):
    posterior, prior = random(2, 3, 4, 5).requires_grad_(), random(2, 3, 4, 5, seed=1)
    prior.requires_grad_()
    loss, value = balanced_kl(posterior, prior, balance=balance)
    plain = kl_divergence(posterior, prior)
    torch.testing.assert_close(value, plain.detach())
    torch.testing.assert_close(loss, plain.mean())
    ours = torch.autograd.grad(loss, (posterior, prior))
    full = torch.autograd.grad(plain.mean(), (posterior, prior))
    torch.testing.assert_close(ours[0], (1 - balance) * full[0])
    torch.testing.assert_close(ours[1], balance * full[1])


def test_free_nats_floor_the_mean_or_every_entry():
    posterior, prior = random(6, 4, 5).requires_grad_(), random(6, 4, 5, seed=1)
    value = kl_divergence(posterior, prior).detach()
    free = value.median().item() + 1e-3
    for nats in (0.0, value.mean().item() - 0.01, value.mean().item() + 0.01):
        loss, _ = balanced_kl(posterior, prior, free_nats=nats)
        assert loss.item() == pytest.approx(max(value.mean().item(), nats), rel=1e-5)
        (gradient,) = torch.autograd.grad(loss, posterior)
        assert gradient.any() == (value.mean() > nats)
    loss, _ = balanced_kl(posterior, prior, free_nats=free, free_avg=False)
    assert loss.item() == pytest.approx(value.clamp_min(free).mean().item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, posterior)
    assert torch.equal(gradient.flatten(1).any(1), value > free)


def test_image_likelihood_agrees_with_torch():
    x, mean = random(2, 3, 4, 4, 3), random(2, 3, 4, 4, 3, seed=1)
    expected = -Independent(Normal(mean, 1.0), 3).log_prob(x).mean()
    torch.testing.assert_close(unit_normal_nll(x, mean), expected)
