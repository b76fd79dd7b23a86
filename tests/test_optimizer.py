import numpy as np
import pytest
import torch
from torch import nn

from apv_edu.config import OptimizerConfig
from apv_edu.errors import InputError
from apv_edu.optimizer import DecoupledAdam

SHAPES = ((3, 4), (5,))


def parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(*s, generator=generator).double()) for s in SHAPES]


def set_gradients(params, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    grads = [scale * torch.randn(*p.shape, generator=generator).to(p.dtype) for p in params]
    for p, grad in zip(params, grads, strict=True):
        p.grad = grad
    return grads


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_steps_by_hand(clip):
    config = OptimizerConfig(learning_rate=0.01, eps=1e-2, clip=clip, weight_decay=0.1)
    params = parameters()
    optimizer = DecoupledAdam(params, config)
    expected = [p.detach().numpy().copy() for p in params]
    m, v = [0 * p for p in expected], [0 * p for p in expected]
    for t in (1, 2, 3):
        grads = [grad.numpy().copy() for grad in set_gradients(params, t)]
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        returned = optimizer.step()
        assert returned.item() == pytest.approx(norm, rel=1e-12)
        for i, g in enumerate(grads):
            g = g * min(1, clip / norm)
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            rate = 0.01 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
            expected[i] = expected[i] * (1 - 0.1) - rate * m[i] / (np.sqrt(v[i]) + 1e-2)
            np.testing.assert_allclose(params[i].detach().numpy(), expected[i], rtol=1e-10)


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_a_gpus_way_gives_the_same(monkeypatch, clip):
    """One pass through memory, or many that ask the host nothing."""
    results = []
    for way in ("_in_one_pass", "_in_many"):
        with monkeypatch.context() as patch:
            patch.setattr(DecoupledAdam, "_in_one_pass", getattr(DecoupledAdam, way))
            params = parameters()
            optimizer = DecoupledAdam(params, OptimizerConfig(learning_rate=0.01, clip=clip))
            for t, rate in enumerate((None, 0.0, None)):
                set_gradients(params, t)
                optimizer.step(rate)
            results.append([p.detach() for p in params] + optimizer.m + optimizer.v)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_without_a_learning_rate_weights_still_decay_and_moments_run():
    params = parameters()
    optimizer = DecoupledAdam(params, OptimizerConfig(weight_decay=0.1))
    before = [p.detach().clone() for p in params]
    set_gradients(params, 1)
    optimizer.step(learning_rate=0.0)
    for p, old, m in zip(params, before, optimizer.m, strict=True):
        torch.testing.assert_close(p.detach(), old * 0.9)
        assert m.all()


def test_a_missing_gradient_counts_as_zero():
    lacking, zero = parameters(), parameters()
    optimizers = [DecoupledAdam(p, OptimizerConfig()) for p in (lacking, zero)]
    for t in (1, 2):
        for params, optimizer in zip((lacking, zero), optimizers, strict=True):
            optimizer.zero_grad()
            assert all(p.grad is None for p in params)
            set_gradients(params, t)
            params[1].grad = None if params is lacking else torch.zeros_like(params[1])
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(lacking, zero, strict=True))


def test_resumed_training_is_bit_exact():
    whole, halved = parameters(), parameters()
    straight = DecoupledAdam(whole, OptimizerConfig())
    first = DecoupledAdam(halved, OptimizerConfig())
    for t in range(6):
        set_gradients(whole, t, scale=50.0)
        straight.step()
    for t in range(3):
        set_gradients(halved, t, scale=50.0)
        first.step()
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    resumed = [nn.Parameter(p.detach().clone()) for p in halved]
    second = DecoupledAdam(resumed, OptimizerConfig())
    second.load_state_dict(state)
    for t in range(3, 6):
        set_gradients(resumed, t, scale=50.0)
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert second.steps == 6


@pytest.mark.parametrize("spoil", ["missing", "shape"])
def test_a_foreign_state_is_refused_and_changes_nothing(spoil):
    params = parameters()
    optimizer = DecoupledAdam(params, OptimizerConfig())
    set_gradients(params, 0)
    optimizer.step()
    state = {name: torch.zeros_like(tensor) for name, tensor in optimizer.state_dict().items()}
    if spoil == "missing":
        del state["v.1"]
    else:
        state["v.1"] = torch.zeros(99)
    with pytest.raises(InputError, match=r"'v\.1'.*same model"):
        optimizer.load_state_dict(state)
    assert optimizer.steps == 1 and all(m.all() for m in optimizer.m)
