import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from apv_edu.nets.distributions import gumbel
from apv_edu.nets.rssm import RSSM, State

SIZES = {"embed": 7, "deter": 6, "hidden": 5, "stoch": 3, "classes": 4}


def build(action_dim=0, seed=0) -> RSSM:
    torch.manual_seed(seed)
    rssm = RSSM(**SIZES, action_dim=action_dim).double()
    for p in rssm.parameters():
        nn.init.normal_(p, std=0.7)
    return rssm


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def by_hand(rssm, embed, actions, is_first):
    """Observe one sequence in NumPy, by the definition, with modes for samples."""
    p = {name: tensor.detach().numpy() for name, tensor in rssm.named_parameters()}
    dense = lambda name, x: p[f"{name}.weight"] @ x + p[f"{name}.bias"]
    elu = lambda x: np.where(x > 0, x, np.expm1(x))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    stoch, deter = np.zeros(rssm.stoch * rssm.classes), np.zeros(rssm.deter)
    out = []
    for e, a, first in zip(embed, actions, is_first, strict=True):
        if first:
            stoch, deter, a = stoch * 0, deter * 0, a * 0
        x = elu(dense("gru_input", np.concatenate([stoch, a])))
        y = dense("gru.gates", np.concatenate([x, deter]))
        y = (y - y.mean()) / np.sqrt(y.var() + 1e-3)
        y = y * p["gru.norm.weight"] + p["gru.norm.bias"]
        reset, candidate, update = np.split(y, 3)
        update = sigmoid(update - 1)
        deter = update * np.tanh(sigmoid(reset) * candidate) + (1 - update) * deter
        prior = dense("prior_logits", elu(dense("prior_hidden", deter)))
        hidden = elu(dense("posterior_hidden", np.concatenate([deter, e])))
        posterior = dense("posterior_logits", hidden)
        table = posterior.reshape(rssm.stoch, rssm.classes)
        stoch = np.eye(rssm.classes)[table.argmax(1)].ravel()
        out.append((deter, stoch, posterior, prior, np.concatenate([stoch, deter])))
    return [np.stack(column) for column in zip(*out, strict=True)]


@pytest.mark.parametrize("action_dim", [0, 2])
def test_observe_by_hand_in_float64(action_dim):
    rssm = build(action_dim)
    embed, actions = random(2, 8, SIZES["embed"]), random(2, 8, action_dim, seed=1)
    is_first = torch.zeros(2, 8, dtype=torch.bool)
    is_first[:, 0] = True
    is_first[1, 5] = True
    given_actions = actions if action_dim else None
    rollout = rssm.observe(embed, actions=given_actions, is_first=is_first)
    for row in range(2):
        expected = by_hand(rssm, embed[row].numpy(), actions[row].numpy(), is_first[row])
        ours = (rollout.deter, rollout.stoch, rollout.posterior, rollout.prior, rollout.features)
        for got, want in zip(ours, expected, strict=True):
            got = got[row].detach().numpy().reshape(want.shape)
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 3), st.integers(2, 6), st.integers(0, 2), st.data())
def test_a_sequence_can_be_watched_in_two_parts(batch, length, action_dim, data):
    cut = data.draw(st.integers(1, length - 1))
    rssm = build(action_dim)
    embed, noise = random(batch, length, SIZES["embed"]), gumbel(batch, length, 3, 4)
    actions = random(batch, length, action_dim) if action_dim else None
    is_first = torch.rand(batch, length) < 0.3

    def part(window, state=None):
        return rssm.observe(
            embed[:, window],
            state,
            actions=None if actions is None else actions[:, window],
            is_first=is_first[:, window],
            noise=noise[:, window],
        )

    whole, head = part(slice(None)), part(slice(cut))
    tail = part(slice(cut, None), head.state())
    assert whole.deter.shape == (batch, length, 6)
    assert whole.stoch.shape == whole.posterior.shape == whole.prior.shape == (batch, length, 3, 4)
    assert whole.features.shape == (batch, length, 3 * 4 + 6)
    for name in whole._fields:
        joined = torch.cat([getattr(head, name), getattr(tail, name)], 1)
        torch.testing.assert_close(joined, getattr(whole, name))


def test_an_episode_start_forgets_state_and_action():
    rssm = build(action_dim=2)
    embed, actions = random(1, 4, SIZES["embed"]), random(1, 4, 2)
    is_first = torch.tensor([[False, False, True, False]])
    old = State(random(1, 6), random(1, 3, 4))
    rollout = rssm.observe(embed, old, actions=actions, is_first=is_first)
    blank = actions[:, 2:].clone()
    blank[:, 0] = 0
    fresh = rssm.observe(embed[:, 2:], actions=blank)
    torch.testing.assert_close(rollout.deter[:, 2:], fresh.deter)
    different = rssm.observe(embed, actions=actions, is_first=is_first)
    assert not torch.allclose(rollout.deter[:, 1], different.deter[:, 1])


def test_features_are_stoch_then_deter():
    state = State(deter=torch.tensor([[7.0, 8.0]]), stoch=torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]))
    assert state.features.tolist() == [[0, 1, 2, 3, 7, 8]]


def test_imagination_follows_the_prior():
    rssm = build(action_dim=2)
    state, actions = State(random(2, 6), random(2, 3, 4)), random(2, 3, 2)
    noise = gumbel(2, 3, 3, 4)
    rollout = rssm.imagine(state, 3, actions=actions, noise=noise)
    assert torch.equal(rollout.posterior, rollout.prior)
    for t in range(3):
        deter = rssm.advance(state, actions[:, t])
        chosen = (rssm.prior(deter) + noise[:, t]).argmax(-1)
        torch.testing.assert_close(rollout.deter[:, t], deter)
        assert torch.equal(rollout.stoch[:, t].argmax(-1), chosen)
        state = rollout.state(t)


def test_every_parameter_learns_through_time():
    rssm = build()
    rollout = rssm.observe(random(2, 5, SIZES["embed"]), noise=gumbel(2, 5, 3, 4))
    (rollout.features.sum() + rollout.prior.square().sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in rssm.parameters())


def test_without_actions_there_is_no_action_input():
    assert build(0).gru_input.in_features == 3 * 4
    assert build(2).gru_input.in_features == 3 * 4 + 2


def test_autocast_keeps_logits_and_memory_in_full_precision():
    rssm = RSSM(**SIZES)
    embed = torch.randn(2, 3, SIZES["embed"])
    with torch.autocast("cpu", torch.bfloat16):
        watched = rssm.observe(embed)
        imagined = rssm.imagine(watched.state(), 2)
    for rollout in (watched, imagined):
        assert {tensor.dtype for tensor in rollout} == {torch.float32}
    torch.testing.assert_close(watched.posterior, rssm.observe(embed).posterior, atol=0.1, rtol=0)
