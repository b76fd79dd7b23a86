import math

import pytest
import torch

from apv_edu.agent_config import BonusConfig, HeadSize, WorldModelConfig
from apv_edu.bonus import VideoBonus
from apv_edu.config import ModelSize
from apv_edu.errors import InputError
from apv_edu.nets.distributions import balanced_kl
from apv_edu.video_model import ActionFreeVideoModel
from apv_edu.world_model import Beliefs, StackedWorldModel

TINY = ModelSize(image_size=32, depth=2, deter=8, hidden=8, stoch=3, classes=4)
FEATURES = 3 * 4 + 8
KINDS = {
    "stacked": {},
    "concat": {"concat_embed": True},
    "single": {"stacked": False},
}
kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)


def build(seed=0, **options) -> StackedWorldModel:
    torch.manual_seed(seed)
    return StackedWorldModel(TINY, 2, HeadSize(6, 1), **options).double()


def batch(size=2, length=6, seed=0):
    """Frames, actions and rewards."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(
        0, 256, (size, length, 32, 32, 3), dtype=torch.uint8, generator=generator
    )
    actions = 2 * torch.rand(size, length, 2, dtype=torch.float64, generator=generator) - 1
    rewards = torch.randn(size, length, dtype=torch.float64, generator=generator)
    return frames, actions, rewards


def noise(model, size=2, length=6):
    return model.noise(size, length, torch.Generator().manual_seed(9))


def bonus_of(seen=4):
    """A bonus for the first ``seen`` of six steps."""
    config = BonusConfig(window=7 - seen, queue=30, dim=5, neighbours=2)
    return VideoBonus(FEATURES, config, torch.Generator().manual_seed(0)).double()


@kinds
def test_shapes(options):
    model, (frames, actions, _) = build(**options), batch()
    seen = model.observe(frames, actions, noise=noise(model))
    for rollout in seen:
        assert rollout.features.shape == (2, 6, FEATURES)
        assert rollout.prior.shape == rollout.posterior.shape == (2, 6, 3, 4)
    assert model.decode(seen.stacked.features).shape == frames.shape
    assert model.reward(seen.stacked.features).shape == (2, 6)
    assert (
        (model.video_rssm is None) == (seen.video is seen.stacked) == (options == KINDS["single"])
    )


@kinds
def test_parts_hold_every_weight_once(options):
    model = build(**options)
    below, above = model.parts()
    assert sorted(map(id, [*below, *above])) == sorted(map(id, model.parameters()))
    names = {id(p): name.partition(".")[0] for name, p in model.named_parameters()}
    single = model.video_rssm is None
    assert {names[id(p)] for p in below} == {"encoder"} | (set() if single else {"video_rssm"})


@kinds
def test_steps_one_by_one_equal_the_whole_sequence(options):
    model, (frames, actions, _) = build(**options), batch()
    is_first = torch.zeros(2, 6, dtype=torch.bool)
    is_first[0, 0] = is_first[1, 3] = True
    all_noise = noise(model)
    whole = model.observe(frames, actions, is_first=is_first, noise=all_noise)
    beliefs = model.initial(2)
    for t in range(6):
        now = slice(t, t + 1)
        step = model.observe(
            frames[:, now],
            actions[:, now],
            beliefs,
            is_first=is_first[:, now],
            noise=type(all_noise)(*(n[:, now] for n in all_noise)),
        )
        beliefs = step.beliefs()
        torch.testing.assert_close(step.stacked.features[:, 0], whole.stacked.features[:, t])
        torch.testing.assert_close(step.video.features[:, 0], whole.video.features[:, t])
    assert (beliefs.video is None) == (model.video_rssm is None)


def test_actions_reach_the_upper_rssm_alone():
    model, (frames, actions, _) = build(), batch()
    changed = actions.clone()
    changed[:, 3] *= -1
    one, two = model.observe(frames, actions), model.observe(frames, changed)
    assert torch.equal(one.video.deter, two.video.deter)
    assert torch.equal(one.stacked.deter[:, :3], two.stacked.deter[:, :3])
    assert not torch.equal(one.stacked.deter[:, 3], two.stacked.deter[:, 3])


def test_each_rssm_continues_its_own_belief():
    model, (frames, actions, _) = build(), batch()
    assert model.video_rssm is not None
    first = model.observe(frames, actions).beliefs()
    other = Beliefs(model.video_rssm.initial(2), first.stacked)
    one, two = (model.observe(frames[:, :1], actions[:, :1], b) for b in (first, other))
    own = model.video_rssm.observe(model.encoder(model.scale(frames[:, :1])), first.video)
    torch.testing.assert_close(one.video.deter, own.deter)
    assert not torch.equal(one.video.deter, two.video.deter)
    assert torch.equal(one.stacked.deter, two.stacked.deter)


def test_the_upper_rssm_sees_embeddings_only_if_asked():
    (frames, actions, _), sizes = batch(), []
    for options in KINDS.values():
        model = build(**options)
        sizes.append(model.rssm.embed)
        if options == KINDS["concat"]:
            seen = model.observe(frames, actions)
            embed = torch.cat([model.encoder(model.scale(frames)), seen.video.features], -1)
            again = model.rssm.observe(embed, actions=actions)
            torch.testing.assert_close(again.posterior, seen.stacked.posterior)
    embed_dim = build().encoder.embed_dim
    assert sizes == [FEATURES, FEATURES + embed_dim, embed_dim]


def video_model(seed=7):
    torch.manual_seed(seed)
    return ActionFreeVideoModel(TINY).double()


def equal_states(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.values(), two.values(), strict=True))


@pytest.mark.parametrize("options", [{}, {"concat_embed": True}])
def test_a_stacked_model_takes_the_video_model_below(options):
    model, fresh, video = build(**options), build(**options), video_model()
    model.load_video_model(video)
    for name, source in (("encoder", "encoder"), ("decoder", "decoder"), ("video_rssm", "rssm")):
        weights = getattr(video, source).state_dict()
        assert equal_states(getattr(model, name).state_dict(), weights)
    for name in ("rssm", "reward"):
        assert equal_states(getattr(model, name).state_dict(), getattr(fresh, name).state_dict())
    with torch.no_grad():
        next(video.encoder.parameters()).add_(1)  # ours is a copy: the video model may train on
    assert not equal_states(model.encoder.state_dict(), video.encoder.state_dict())


def test_naive_loading_keeps_the_fresh_action_inputs():
    model, fresh, video = build(stacked=False), build(stacked=False), video_model()
    model.load_video_model(video)
    latent = 3 * 4
    for name, weight in model.rssm.state_dict().items():
        known = video.rssm.state_dict()[name]
        if name == "gru_input.weight":
            assert weight.shape[1] == latent + 2 and known.shape[1] == latent
            assert torch.equal(weight[:, :latent], known)
            assert torch.equal(weight[:, latent:], fresh.rssm.gru_input.weight[:, latent:])
        else:
            assert torch.equal(weight, known), name
    assert equal_states(model.encoder.state_dict(), video.encoder.state_dict())
    assert equal_states(model.decoder.state_dict(), video.decoder.state_dict())
    # Without actions it is the video model.
    frames, actions, _ = batch()
    seen = model.observe(frames, torch.zeros_like(actions)).stacked
    torch.testing.assert_close(seen.posterior, video.observe(frames).posterior)


def gaussian_nll(x, mean):
    return 0.5 * (x - mean).square() + 0.5 * math.log(2 * math.pi)


@kinds
@pytest.mark.parametrize("with_bonus", [False, True])
def test_loss_by_hand(options, with_bonus):
    model, (frames, actions, rewards) = build(**options), batch()
    config = WorldModelConfig(
        image_scale=0.5,
        reward_scale=3.0,
        kl_scale=0.7,
        video_kl_scale=0.2,
        kl_balance=0.6,
        free_nats=0.1,
    )
    loss, _, metrics = model.loss(
        frames,
        actions,
        rewards,
        config=config,
        noise=noise(model),
        bonus=bonus_of() if with_bonus else None,
        beta=0.4,
    )
    seen = model.observe(frames, actions, noise=noise(model))
    features, target = seen.stacked.features, rewards
    if with_bonus:
        raw, normed = bonus_of()(seen.video.features)
        target = rewards[:, :4] + 0.4 * normed
        torch.testing.assert_close(metrics["intr_mean"], raw.mean())
        torch.testing.assert_close(metrics["intr_normed_std"], normed.std(correction=0))
    predicted = model.reward(features)[:, : target.shape[1]]
    image = gaussian_nll(model.scale(frames), model.decode(features)).flatten(2).sum(-1).mean()
    reward = gaussian_nll(target, predicted).mean()
    kl, value = balanced_kl(seen.stacked.posterior, seen.stacked.prior, balance=0.6, free_nats=0.1)
    expected = 0.5 * image + 3 * reward + 0.7 * kl
    if model.video_rssm is not None:
        below, _ = balanced_kl(seen.video.posterior, seen.video.prior, balance=0.6, free_nats=0.1)
        expected = expected + 0.2 * below
        torch.testing.assert_close(metrics["af_kl_loss"], below.detach())
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(metrics["image_loss"], image.detach())
    torch.testing.assert_close(metrics["reward_loss"], reward.detach())
    torch.testing.assert_close(metrics["model_kl"], value.mean())
    weights = list(model.parameters())
    both = (torch.autograd.grad(x, weights) for x in (loss, expected))
    for got, want in zip(*both, strict=True):
        torch.testing.assert_close(got, want)
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_video_prior_learns_only_if_its_divergence_counts(scale):
    model, (frames, actions, rewards) = build(), batch()
    config = WorldModelConfig(video_kl_scale=scale)
    loss, _, metrics = model.loss(frames, actions, rewards, config=config)
    loss.backward()
    learning = {
        name.split(".")[1]: p.grad is not None and bool(p.grad.any())
        for name, p in model.named_parameters()
        if name.startswith("video_rssm.")
    }
    assert learning.pop("prior_hidden") == learning.pop("prior_logits") == (scale > 0)
    assert len(learning) == 4 and all(learning.values())
    assert metrics["af_kl_loss"] > 0


def test_the_reward_head_learns_from_the_steps_that_have_a_bonus():
    model, (frames, actions, rewards) = build(), batch()
    heard = []
    model.reward.register_forward_hook(lambda _, given, out: heard.append(given[0].shape[1]))

    def gradients(rewards, bonus):
        loss, *_ = model.loss(frames, actions, rewards, config=WorldModelConfig(), bonus=bonus)
        return torch.autograd.grad(loss, list(model.reward.parameters()))

    late, early = rewards.clone(), rewards.clone()
    late[:, 4:] += 5
    early[:, 3] += 5
    before, same, other = (gradients(r, bonus_of()) for r in (rewards, late, early))
    assert heard == [4, 4, 4]
    assert all(torch.equal(a, b) for a, b in zip(before, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, other, strict=True))
    without = gradients(rewards, None), gradients(late, None)
    assert heard[3:] == [6, 6] and not torch.equal(without[0][0], without[1][0])


def test_the_bonus_gets_and_gives_no_gradient():
    """A bonus that would pull at the features must find them stopped."""
    model, (frames, actions, rewards) = build(), batch()

    def leaky(features):
        raw = features.square().sum(-1)[:, :4]
        return raw, raw / 10

    raw, normed = leaky(model.observe(frames, actions).video.features.detach())
    gradients = []
    for bonus in (leaky, lambda _: (raw, normed)):
        loss, *_ = model.loss(frames, actions, rewards, config=WorldModelConfig(), bonus=bonus)
        gradients.append(torch.autograd.grad(loss, list(model.encoder.parameters())))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


def test_an_episode_start_forgets_the_past_and_the_action():
    model, (frames, actions, rewards) = build(), batch()
    is_first = torch.zeros(2, 6, dtype=torch.bool)
    is_first[:, 3] = True
    seen = model.observe(frames, actions, is_first=is_first)
    actions[:, 3] = 0.0
    fresh = model.observe(frames[:, 3:], actions[:, 3:])
    for one, two in zip(seen, fresh, strict=True):
        torch.testing.assert_close(one.features[:, 3:], two.features)
    losses = [
        model.loss(frames, actions, rewards, config=WorldModelConfig(), is_first=first)[0]
        for first in (None, is_first)
    ]
    assert not torch.equal(*losses)


def test_noise_moves_each_rssms_samples():
    model, (frames, actions, _) = build(), batch()
    first = noise(model)
    assert first.video.shape == first.stacked.shape == (2, 6, 3, 4)
    assert not torch.equal(first.video, first.stacked)
    again = noise(model)
    assert torch.equal(first.video, again.video) and torch.equal(first.stacked, again.stacked)
    seen = model.observe(frames, actions, noise=first)
    for rollout, gumbel in zip(seen, first, strict=True):
        assert torch.equal(rollout.stoch.argmax(-1), (rollout.posterior + gumbel).argmax(-1))
        assert not torch.equal(rollout.stoch.argmax(-1), rollout.posterior.argmax(-1))


def test_other_frames_are_refused():
    model, (frames, actions, rewards) = build(), batch()
    with pytest.raises(InputError, match=r"uint8 frames \(\.\.\., 32, 32, 3\), not .*: convert"):
        model.observe(frames.float(), actions)
    with pytest.raises(InputError, match="uint8 frames"):
        model.loss(frames[:, :, :16], actions, rewards, config=WorldModelConfig())
