import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apv_edu.agent_config import BehaviorConfig, HeadSize
from apv_edu.behavior import Behavior, imagination_noise, imagine, lambda_return
from apv_edu.nets.rssm import RSSM, State
from apv_edu.nets.truncated_normal import TruncatedNormal

HORIZON, ACTIONS = 4, 2


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def world(seed=0, batch=3):
    """A small RSSM, a behaviour, starts and noise, in float64."""
    torch.manual_seed(seed)
    rssm = RSSM(5, deter=6, hidden=6, stoch=3, classes=4, action_dim=ACTIONS).double()
    behavior = Behavior(3 * 4 + 6, ACTIONS, HeadSize(8, 2)).double()
    for p in behavior.target_critic.parameters():
        p.add_(0.1 * torch.randn_like(p))  # so that it is not the critic
    stoch = torch.nn.functional.one_hot(torch.randint(4, (batch, 3)), 4).double()
    noise = imagination_noise(rssm, batch, HORIZON, torch.Generator().manual_seed(seed))
    return rssm, behavior, State(torch.randn(batch, 6).double(), stoch), noise


def by_loops(reward, value, bootstrap, discount, lam):
    returns = np.zeros_like(reward)
    for b in range(len(reward)):
        following, last = bootstrap[b], bootstrap[b]
        for t in reversed(range(reward.shape[1])):
            last = reward[b, t] + discount[b, t] * ((1 - lam) * following + lam * last)
            following, returns[b, t] = value[b, t], last
    return returns


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.floats(0, 1), st.integers(0, 9))
def test_lambda_return_by_loops(length, lam, seed):
    reward, value, bootstrap = random(2, length, seed=seed), random(2, length), random(2)
    discount = random(2, length, seed=1).sigmoid()
    returns = lambda_return(reward, value, bootstrap, discount=discount, lam=lam)
    expected = by_loops(*(x.numpy() for x in (reward, value, bootstrap, discount)), lam=lam)
    np.testing.assert_allclose(returns, expected, rtol=1e-10, atol=1e-12)


def test_lambda_0_looks_one_step_ahead_and_lambda_1_to_the_end():
    reward, value, bootstrap = random(2, 5), random(2, 5, seed=1), random(2, seed=2)
    ahead = torch.cat([value[:, 1:], bootstrap[:, None]], 1)
    one = lambda_return(reward, value, bootstrap, discount=0.9, lam=0)
    torch.testing.assert_close(one, reward + 0.9 * ahead)
    full = lambda_return(reward, value, bootstrap, discount=0.9, lam=1)
    powers = 0.9 ** torch.arange(5, dtype=torch.float64)
    expected = torch.stack(
        [reward[:, t:] @ powers[: 5 - t] + 0.9 ** (5 - t) * bootstrap for t in range(5)], 1
    )
    torch.testing.assert_close(full, expected)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_constant_reward_with_the_right_value_is_a_fixed_point(lam):
    worth = torch.full((2, 7), 3.0 / (1 - 0.9), dtype=torch.float64)
    reward = torch.full_like(worth, 3.0)
    returns = lambda_return(reward, worth, worth[:, 0], discount=0.9, lam=lam)
    torch.testing.assert_close(returns, worth)


def test_imagination_by_hand():
    rssm, behavior, start, noise = world()
    trajectory = imagine(rssm, behavior.actor, start, HORIZON, noise)
    assert trajectory.features.shape == (3, HORIZON + 1, 18)
    assert trajectory.actions.shape == (3, HORIZON + 1, ACTIONS)
    assert not trajectory.actions[:, 0].any()
    state = start
    for t in range(HORIZON):
        torch.testing.assert_close(trajectory.features[:, t], state.features)
        policy = behavior.actor(state.features)
        torch.testing.assert_close(trajectory.policy.loc[:, t], policy.loc)
        torch.testing.assert_close(trajectory.policy.scale[:, t], policy.scale)
        action = policy.sample(noise.actions[:, t])
        torch.testing.assert_close(trajectory.actions[:, t + 1], action)
        step = rssm.imagine(state, 1, actions=action[:, None], noise=noise.latents[:, t : t + 1])
        state = step.state()
    torch.testing.assert_close(trajectory.features[:, -1], state.features)


def test_without_noise_imagination_takes_modes():
    rssm, behavior, start, noise = world()
    trajectory = imagine(rssm, behavior.actor, start, HORIZON)
    torch.testing.assert_close(trajectory.actions[:, 1:], trajectory.policy.mode)
    sampled = imagine(rssm, behavior.actor, start, HORIZON, noise)
    assert not torch.equal(sampled.actions, trajectory.actions)


def test_noise_is_reproducible_and_of_its_kind():
    rssm, *_ = world()
    first, again = (imagination_noise(rssm, 50, 7, torch.Generator().manual_seed(3)) for _ in "ab")
    assert torch.equal(first.latents, again.latents) and torch.equal(first.actions, again.actions)
    assert first.latents.shape == (50, 7, 3, 4) and first.actions.shape == (50, 7, ACTIONS)
    assert first.actions.min() >= 0 and first.actions.max() < 1 and first.latents.min() < 0


def test_the_actor_sees_stopped_features_and_learns_through_its_actions():
    """A gradient by the first step's features must not run through later decisions."""
    rssm, behavior, start, noise = world()
    start = State(start.deter.requires_grad_(), start.stoch.requires_grad_())
    trajectory = imagine(rssm, behavior.actor, start, 1, noise)
    weights = list(behavior.actor.parameters())
    gradients = torch.autograd.grad(
        trajectory.policy.loc.sum(), [start.deter, start.stoch, *weights], allow_unused=True,
        retain_graph=True,
    )  # fmt: skip
    assert gradients[0] is None and gradients[1] is None and gradients[2].any()
    later = trajectory.features[:, 1].square().sum()
    assert all(g.any() for g in torch.autograd.grad(later, weights))


def losses(config, noisy=True):
    rssm, behavior, start, noise = world()
    trajectory = imagine(rssm, behavior.actor, start, HORIZON, noise if noisy else None)
    weight = random(18, seed=5)
    reward = trajectory.features @ weight
    return behavior, trajectory, reward, behavior.losses(trajectory, reward, config)


def actor_gradient(behavior, loss):
    grads = torch.autograd.grad(loss, list(behavior.actor.parameters()), retain_graph=True)
    return torch.cat([g.flatten() for g in grads])


@pytest.mark.parametrize("mode", ["dynamics", "reinforce", "both"])
def test_actor_gradient_by_hand(mode):
    config = BehaviorConfig(
        horizon=HORIZON, actor_gradient=mode, mix=0.3, entropy=0.2, discount=0.9, lam=0.8
    )
    behavior, trajectory, reward, (actor_loss, _, metrics) = losses(config)
    value = behavior.target_critic(trajectory.features)
    target = lambda_return(reward[:, :-1], value[:, :-1], value[:, -1], discount=0.9, lam=0.8)
    expected = 0
    for t in range(HORIZON - 1):
        policy = TruncatedNormal(trajectory.policy.loc[:, t], trajectory.policy.scale[:, t])
        dynamics = target[:, t + 1]
        advantage = (target[:, t + 1] - value[:, t]).detach()
        score = policy.log_prob(trajectory.actions[:, t + 1].detach()) * advantage
        parts = {"dynamics": dynamics, "reinforce": score, "both": 0.3 * dynamics + 0.7 * score}
        gain = parts[mode] + 0.2 * policy.entropy()
        expected = expected - (0.9**t * gain).mean() / (HORIZON - 1)
    torch.testing.assert_close(actor_loss, expected)
    torch.testing.assert_close(
        actor_gradient(behavior, actor_loss), actor_gradient(behavior, expected)
    )
    assert torch.equal(metrics["actor_loss"], actor_loss.detach())


def test_a_reinforce_gradient_does_not_run_through_the_dynamics():
    config = BehaviorConfig(horizon=HORIZON, actor_gradient="reinforce")
    _, trajectory, _, (actor_loss, *_) = losses(config)
    by_action = torch.autograd.grad(
        actor_loss, trajectory.states.deter, retain_graph=True, allow_unused=True
    )
    assert by_action == (None,)


def test_later_steps_count_less():
    """With lam=0 the actor loss holds each reward once, times the weight of its step."""
    config = BehaviorConfig(horizon=HORIZON, discount=0.7, lam=0.0)
    rssm, behavior, start, noise = world()
    trajectory = imagine(rssm, behavior.actor, start, HORIZON, noise)
    reward = torch.zeros(3, HORIZON + 1, dtype=torch.float64, requires_grad=True)
    actor_loss, *_ = behavior.losses(trajectory, reward, config)
    (gradient,) = torch.autograd.grad(actor_loss, reward)
    weights = [0, 1, 0.7, 0.49, 0]  # before the first action, and beyond the last target: none
    torch.testing.assert_close(gradient[0] * -3 * (HORIZON - 1), torch.tensor(weights).double())


def test_critic_loss_by_hand():
    config = BehaviorConfig(horizon=HORIZON, discount=0.9, lam=0.8)
    behavior, trajectory, reward, (_, critic_loss, metrics) = losses(config)
    features = trajectory.features.detach()
    value = behavior.target_critic(features)
    target = lambda_return(
        reward[:, :-1], value[:, :-1], value[:, -1], discount=0.9, lam=0.8
    ).detach()
    normal = torch.distributions.Normal(behavior.critic(features[:, :-1]), 1.0)
    weight = 0.9 ** torch.arange(HORIZON)
    expected = -(weight * normal.log_prob(target)).mean()
    torch.testing.assert_close(critic_loss, expected)
    weights = list(behavior.critic.parameters())
    ours = torch.autograd.grad(critic_loss, weights, retain_graph=True)
    for got, want in zip(ours, torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(got, want)
    torch.testing.assert_close(metrics["critic_target"], target.mean())
    torch.testing.assert_close(metrics["critic_slow"], value.mean())
    torch.testing.assert_close(metrics["reward_std"], reward.detach().std(correction=0))
    with pytest.raises(RuntimeError):  # nothing but the critic learns from it
        torch.autograd.grad(critic_loss, list(behavior.actor.parameters()))


def test_the_target_critic_follows():
    torch.manual_seed(0)
    behavior = Behavior(18, ACTIONS, HeadSize(8, 2))
    slow, fast = (list(m.parameters()) for m in (behavior.target_critic, behavior.critic))
    assert not any(p.requires_grad for p in slow)
    assert all(torch.equal(a, b) for a, b in zip(slow, fast, strict=True))
    with torch.no_grad():
        for p in fast:
            p.add_(torch.randn_like(p))
    before = [p.clone() for p in slow]
    behavior.update_target(0.25)
    for old, new, aim in zip(before, slow, fast, strict=True):
        torch.testing.assert_close(new, (0.75 * old + 0.25 * aim).detach())
    behavior.update_target()
    assert all(torch.equal(a, b) for a, b in zip(slow, fast, strict=True))
    with torch.no_grad():
        fast[0].add_(1)
    assert not torch.equal(slow[0], fast[0])  # a copy, not the same tensor
