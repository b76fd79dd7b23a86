from dataclasses import replace

import pytest
import torch

from apv_edu.agent import APVAgent
from apv_edu.agent_config import (
    VARIANTS,
    AgentConfig,
    BehaviorConfig,
    BonusConfig,
    HeadSize,
    WorldModelConfig,
)
from apv_edu.behavior import Behavior
from apv_edu.config import ModelSize
from apv_edu.data.replay import Batch
from apv_edu.errors import InputError
from apv_edu.nets.rssm import State
from apv_edu.video_model import ActionFreeVideoModel
from apv_edu.world_model import LatentNoise

TINY = AgentConfig(
    model=ModelSize(image_size=32, depth=2, deter=8, hidden=8, stoch=3, classes=4),
    heads=HeadSize(6, 1),
    world_model=WorldModelConfig(hold=0),
    bonus=BonusConfig(window=3, queue=20, dim=5, neighbours=2),
    behavior=BehaviorConfig(horizon=3),
)
variants = pytest.mark.parametrize("variant", VARIANTS)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(config=TINY, seed=0, video=None, **changes) -> APVAgent:
    torch.manual_seed(seed)
    return APVAgent(replace(config, **changes), 2, video)


def batch(size=2, length=5, seed=0) -> Batch:
    generator = seeded(seed)
    frames = torch.randint(
        0, 256, (size, length, 32, 32, 3), dtype=torch.uint8, generator=generator
    )
    action = 2 * torch.rand(size, length, 2, generator=generator) - 1
    reward = torch.randn(size, length, generator=generator)
    return Batch(frames, action, reward, (torch.arange(length) == 0).repeat(size, 1))


def noise(agent, seed=0, size=2, length=5):
    return agent.noise(size, length, seeded(seed))


def copies(module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def changed(module, before) -> set[str]:
    """Parts of ``module`` (first names) in which a weight is no longer as it was."""
    now = dict(module.named_parameters())
    return {name.partition(".")[0] for name in now if not torch.equal(now[name], before[name])}


@variants
def test_every_variant_learns_and_acts(variant):
    agent = build(variant=variant)
    before = copies(agent.world_model)
    metrics = agent.update(batch(), noise(agent))
    assert all(value.ndim == 0 and value.isfinite() for value in metrics.values())
    frozen, single = VARIANTS[variant].frozen, agent.world_model.video_rssm is None
    below = {"encoder"} | (set() if single else {"video_rssm"})
    expected = {"rssm", "decoder", "reward"} | (set() if frozen else below)
    assert changed(agent.world_model, before) == expected
    assert ("enc_model_grad_norm" in metrics) == (not frozen)
    assert ("af_kl_loss" in metrics) == (not single)
    frames = batch().image[:, 0]
    action, state = agent.act(
        frames, agent.initial(2), torch.ones(2, dtype=torch.bool), explore=True, generator=seeded()
    )
    assert action.shape == (2, 2) and action.abs().max() < 1
    assert (state.beliefs.video is None) == single


def test_variants_take_over_what_they_should():
    torch.manual_seed(7)
    video = ActionFreeVideoModel(TINY.model)
    for name in ("apv", "frozen"):
        agent = build(variant=name, video=video)
        loaded = agent.world_model.state_dict()
        for key, weight in video.rssm.state_dict().items():
            assert torch.equal(weight, loaded[f"video_rssm.{key}"])
    naive = build(variant="naive", video=video).world_model
    assert naive.video_rssm is None
    assert torch.equal(naive.rssm.gru.gates.weight, video.rssm.gru.gates.weight)


def test_frozen_weights_never_change():
    agent = build(variant="frozen")
    before = copies(agent.world_model)
    for step in range(3):
        agent.update(batch(seed=step), noise(agent, step))
    assert changed(agent.world_model, before) == {"rssm", "decoder", "reward"}
    assert set(agent.optimizers) == {"model", "actor", "critic"}


@pytest.mark.parametrize(("variant", "held"), [("apv", True), ("naive", True), ("stacked", False)])
def test_hold_leaves_only_weight_decay_to_what_was_loaded(variant, held):
    agent = build(variant=variant, world_model=WorldModelConfig(hold=2))
    decay = 1 - agent.config.world_model.optimizer.weight_decay
    below, _ = agent.world_model.parts()
    for step in range(3):
        before = [p.detach().clone() for p in below]
        agent.update(batch(seed=step), noise(agent, step))
        decayed = all(torch.equal(p, old * decay) for p, old in zip(below, before, strict=True))
        assert decayed == (held and step < 2)
    # the moments ran all the same
    assert agent.optimizers["enc_model"].steps == 3
    assert any(m.any() for m in agent.optimizers["enc_model"].m)


def test_behaviour_learns_without_touching_the_world_model():
    agent = build()
    draws = noise(agent)
    seen = agent.world_model.observe(batch().image, batch().action, noise=draws.latents)
    deter, stoch = seen.stacked.deter, seen.stacked.stoch
    model, target = copies(agent.world_model), copies(agent.behavior.target_critic)
    actor, critic = copies(agent.behavior.actor), copies(agent.behavior.critic)
    agent.updates = 1  # no copy into the target critic now
    agent._improve(deter, stoch, draws)
    assert not changed(agent.world_model, model)
    assert all(p.grad is None for p in agent.world_model.parameters())
    assert not changed(agent.behavior.target_critic, target)
    assert changed(agent.behavior.actor, actor) == {"layers", "out", "std"}
    assert changed(agent.behavior.critic, critic) == {"layers", "out"}


def test_an_update_trains_the_world_model_as_its_own_loss_says(monkeypatch):
    """What imagination sends back does not mix into the gradients of the model."""
    agent = build()
    draws = noise(agent)
    gradients = {}
    for name in ("model", "enc_model"):
        optimizer, plain = agent.optimizers[name], agent.optimizers[name].step

        def step(learning_rate=None, optimizer=optimizer, plain=plain):
            gradients.update({id(p): p.grad for p in optimizer.params})
            return plain(learning_rate)

        monkeypatch.setattr(optimizer, "step", step)
    twin = build()
    loss, *_ = twin.world_model.loss(
        *batch()[:3],
        config=TINY.world_model,
        is_first=batch().is_first,
        noise=draws.latents,
        bonus=twin.bonus,
    )
    loss.backward()
    agent.update(batch(), draws)
    pairs = zip(agent.world_model.parameters(), twin.world_model.parameters(), strict=True)
    for mine, other in pairs:
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None and other.grad is not None:
            assert torch.equal(gradients[id(mine)], other.grad)
            assert torch.equal(mine.grad, other.grad)  # also after the behaviour's share


def test_imagination_starts_from_posteriors_of_the_batch(monkeypatch):
    starts = []
    plain = Behavior.imagine

    def recorded(self, rssm, start, *rest):
        starts.append(start)
        return plain(self, rssm, start, *rest)

    monkeypatch.setattr(Behavior, "imagine", recorded)
    every, some = build(), build(behavior=BehaviorConfig(horizon=3, starts=4))
    for agent in (every, some):
        draws = noise(agent)
        seen = agent.world_model.observe(
            batch().image, batch().action, is_first=batch().is_first, noise=draws.latents
        )
        # The update has changed the model's weights, but not what it had observed.
        agent.update(batch(), draws)
        flat = State(seen.stacked.deter.flatten(0, 1), seen.stacked.stoch.flatten(0, 1))
        chosen = range(10) if draws.starts is None else draws.starts.tolist()
        torch.testing.assert_close(starts[-1].features, flat.features[list(chosen)])
        assert not starts[-1].features.requires_grad
    assert len(starts[0].deter) == 10 and len(starts[1].deter) == 4
    assert noise(every).starts is None
    drawn = [noise(some, seed).starts for seed in range(5)]
    chosen = {frozenset(starts.tolist()) for starts in drawn if starts is not None}
    assert len(chosen) > 1 and all(len(starts) == 4 for starts in chosen)


def test_the_target_critic_is_copied_every_so_often():
    agent = build(behavior=BehaviorConfig(horizon=3, target_every=3))
    pairs = list(
        zip(
            agent.behavior.target_critic.parameters(),
            agent.behavior.critic.parameters(),
            strict=True,
        )
    )
    copied = []
    for step in range(7):
        agent.update(batch(seed=step), noise(agent, step))
        copied.append(all(torch.equal(slow, fast) for slow, fast in pairs))
    assert copied == [step % 3 == 0 for step in range(7)]
    assert agent.updates == 7


def test_rewards_are_learned_at_their_factor():
    plain = build()
    halved = build(world_model=WorldModelConfig(hold=0, reward_factor=0.5))
    doubled = batch()._replace(reward=2 * batch().reward)
    one, two = plain.update(batch(), noise(plain)), halved.update(doubled, noise(halved))
    assert all(torch.equal(one[name], two[name]) for name in one)
    three = build().update(doubled, noise(plain))
    assert not torch.equal(one["reward_loss"], three["reward_loss"])


def test_the_weight_of_the_bonus():
    one, two = (
        build(bonus=replace(TINY.bonus, beta=beta)).update(batch(), noise(build()))
        for beta in (1.0, 0.1)
    )
    assert torch.equal(one["intr_mean"], two["intr_mean"])
    assert not torch.equal(one["reward_loss"], two["reward_loss"])
    without = build(bonus=replace(TINY.bonus, beta=0.0))
    assert without.bonus is None
    assert not any(name.startswith("intr") for name in without.update(batch(), noise(without)))


def test_sequences_shorter_than_the_window_are_refused_and_change_nothing():
    agent = build()
    before = copies(agent)
    with pytest.raises(InputError, match="give longer sequences"):
        agent.update(batch(length=2))
    assert not changed(agent, before) and agent.updates == 0


def test_an_unknown_variant_is_refused():
    with pytest.raises(InputError, match=r"Unknown variant 'wm': choose one of apv, dreamer"):
        AgentConfig(variant="wm")  # pyright: ignore[reportArgumentType]


@variants
def test_same_noise_same_update(variant):
    def run(seed):
        agent = build(variant=variant)
        metrics = agent.update(batch(), noise(agent, seed))
        return [*metrics.values(), *agent.parameters()]

    first, again, other = run(1), run(1), run(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@variants
def test_a_resumed_agent_continues_bit_for_bit(variant):
    config = replace(
        TINY,
        variant=variant,
        world_model=WorldModelConfig(hold=3),
        behavior=BehaviorConfig(horizon=3, target_every=3),
    )
    straight = build(config)
    for step in range(2):
        straight.update(batch(seed=step), noise(straight, step))
    saved = {name: tensor.clone() for name, tensor in straight.training_state().items()}
    resumed = build(config, seed=9)
    resumed.load_training_state(saved)
    assert resumed.updates == 2
    for step in range(2, 5):  # the hold ends and the target is copied on the way
        one, two = (a.update(batch(seed=step), noise(a, step)) for a in (straight, resumed))
        assert all(torch.equal(one[name], two[name]) for name in one)
    mine, theirs = straight.training_state(), resumed.training_state()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_training_state_of_another_size_is_refused():
    saved = build().training_state()
    saved["actor.m.0"] = torch.zeros(3)
    with pytest.raises(InputError, match=r"'m\.0'.*same model"):
        build().load_training_state(saved)


@variants
@pytest.mark.parametrize("noisy", [False, True])
def test_acting_step_by_step_equals_watching_the_sequence(variant, noisy):
    agent, frames = build(variant=variant), batch().image
    is_first = torch.zeros(2, 5, dtype=torch.bool)
    is_first[:, 0] = is_first[1, 3] = True
    generator = seeded(3) if noisy else None
    state, states, actions = agent.initial(2), [], [torch.zeros(2, 2)]
    for t in range(5):
        action, state = agent.act(
            frames[:, t], state, is_first[:, t], explore=False, generator=generator
        )
        assert torch.equal(action, state.action)
        states.append(state.beliefs.stacked.features)
        actions.append(action)
    draws = None
    if noisy:
        again = seeded(3)
        steps = [agent.world_model.noise(2, 1, again) for _ in range(5)]
        draws = LatentNoise(*(torch.cat(parts, 1) for parts in zip(*steps, strict=True)))
    with torch.no_grad():
        led = torch.stack(actions[:-1], 1)
        seen = agent.world_model.observe(frames, led, is_first=is_first, noise=draws)
        features = seen.stacked.features
        torch.testing.assert_close(torch.stack(states, 1), features)
        torch.testing.assert_close(
            torch.stack(actions[1:], 1), agent.behavior.actor(features).sample()
        )


def test_exploring_samples_and_evaluating_takes_the_mode():
    agent, frames = build(), batch().image[:, 0]
    first = torch.ones(2, dtype=torch.bool)

    def act(explore, seed):
        generator = None if seed is None else seeded(seed)
        return agent.act(frames, agent.initial(2), first, explore=explore, generator=generator)

    (explored, state), (mode, same) = act(True, 1), act(False, 1)
    assert torch.equal(state.beliefs.stacked.stoch, same.beliefs.stacked.stoch)
    with torch.no_grad():
        policy = agent.behavior.actor(same.beliefs.stacked.features)
    assert torch.equal(mode, policy.sample()) and not torch.equal(explored, mode)
    again, _ = act(True, 1)
    other, _ = act(True, 2)
    assert torch.equal(explored, again) and not torch.equal(explored, other)
    assert torch.equal(act(True, None)[0], act(False, None)[0])
    assert not explored.requires_grad and not state.beliefs.stacked.deter.requires_grad
