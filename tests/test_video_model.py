import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apv_edu.bench.naive import NaiveStep
from apv_edu.config import LossConfig, ModelSize
from apv_edu.errors import InputError
from apv_edu.nets.distributions import balanced_kl
from apv_edu.video_model import ActionFreeVideoModel

TINY = ModelSize(image_size=32, depth=2, deter=8, hidden=8, stoch=3, classes=4)


def build(size=TINY, seed=0) -> ActionFreeVideoModel:
    torch.manual_seed(seed)
    return ActionFreeVideoModel(size)


def videos(batch=2, length=4, size=TINY, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, length, size.image_size, size.image_size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=8)
@given(
    st.sampled_from([32, 64]),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
)
def test_shapes(image_size, batch, length, horizon, noisy):
    size = ModelSize(image_size=image_size, depth=1, deter=5, hidden=6, stoch=3, classes=2)
    model, frames = build(size), videos(batch, length, size)
    noise = model.noise(batch, length + horizon, seeded()) if noisy else None
    rollout = model.observe(frames, noise=None if noise is None else noise[:, :length])
    assert rollout.deter.shape == (batch, length, 5)
    assert rollout.stoch.shape == rollout.posterior.shape == (batch, length, 3, 2)
    assert model.embed(frames).shape[:2] == (batch, length)
    assert model.decode(rollout.features).shape == frames.shape
    assert model.imagine(rollout.state(), horizon).stoch.shape == (batch, horizon, 3, 2)
    predicted = model.predict(frames, horizon, noise)
    assert predicted.shape == (batch, horizon, image_size, image_size, 3)
    assert predicted.min() >= 0 and predicted.max() <= 1


def test_pixels_scale_to_plus_and_minus_one_half():
    frames = videos()
    scaled = build().scale(frames)
    torch.testing.assert_close(scaled, frames / 255 - 0.5)
    assert (scaled.min().item(), scaled.max().item()) == (-0.5, 0.5)


@pytest.mark.parametrize("frames", [videos().float(), videos(size=ModelSize()), videos()[..., :1]])
def test_other_frames_are_refused(frames):
    kept = frames.clone()
    with pytest.raises(InputError, match=r"uint8 frames \(\.\.\., 32, 32, 3\), not .*: convert"):
        build().observe(frames)
    assert torch.equal(frames, kept)


@pytest.mark.parametrize("free_nats", [0.0, 50.0])
def test_loss_is_image_loss_plus_scaled_kl(free_nats):
    model, frames = build(), videos()
    noise = model.noise(2, 4, seeded())
    config = LossConfig(kl_scale=0.3, kl_balance=0.6, free_nats=free_nats)
    loss, metrics = model.loss(frames, config=config, noise=noise)
    rollout = model.observe(frames, noise=noise)
    error = model.decode(rollout.features) - model.scale(frames)
    normal = torch.distributions.Normal(0.0, 1.0)
    image_loss = -normal.log_prob(error).flatten(2).sum(-1).mean()
    kl_loss, kl = balanced_kl(rollout.posterior, rollout.prior, balance=0.6, free_nats=free_nats)
    torch.testing.assert_close(loss, image_loss + 0.3 * kl_loss)
    torch.testing.assert_close(metrics["image_loss"], image_loss.detach())
    torch.testing.assert_close(metrics["kl_loss"], kl_loss.detach())
    torch.testing.assert_close(metrics["model_kl"], kl.mean())
    assert torch.equal(metrics["model_loss"], loss.detach())
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("size", [TINY, ModelSize(depth=2, deter=8, hidden=6, stoch=3, classes=4)])
def test_loss_and_gradients_equal_the_naive_step(size):
    model, frames = build(size), videos(size=size)
    naive, config = NaiveStep(model, sample=False), LossConfig()
    loss, _ = model.loss(frames, config=config)
    plain = naive.loss(frames, config)
    torch.testing.assert_close(plain, loss, rtol=1e-5, atol=0)

    patch = model.decoder.patch.weight
    ours = torch.autograd.grad(loss, [patch, *(p for p in model.parameters() if p is not patch)])
    plains = torch.autograd.grad(plain, naive.parameters)
    torch.testing.assert_close(ours[0].permute(3, 2, 0, 1), plains[0], rtol=1e-3, atol=1e-3)
    for got, want in zip(ours[1:], plains[1:], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


def test_an_episode_start_matters_to_the_loss():
    model, frames = build(), videos()
    is_first = torch.zeros(2, 4, dtype=torch.bool)
    plain, _ = model.loss(frames, config=LossConfig())
    unchanged, _ = model.loss(frames, config=LossConfig(), is_first=is_first)
    is_first[:, 2] = True
    changed, _ = model.loss(frames, config=LossConfig(), is_first=is_first)
    assert torch.equal(plain, unchanged) and not torch.equal(plain, changed)


def test_prediction_watches_then_imagines():
    model, context = build(), videos(length=3)
    for p in model.decoder.parameters():
        torch.nn.init.normal_(p, std=0.4)  # far beyond black and white
    noise = model.noise(2, 5, seeded())
    state = model.observe(context, noise=noise[:, :3]).state()
    imagined = model.imagine(state, 2, noise[:, 3:])
    expected = (model.decode(imagined.features) + 0.5).clamp(0, 1).detach()
    assert torch.equal(model.predict(context, 2, noise), expected)
    assert expected.min() == 0 and expected.max() == 1
    assert not model.predict(context, 2).requires_grad


def test_same_seed_same_weights_noise_and_loss():
    def run(seed):
        model = build(seed=5)
        noise = model.noise(2, 4, seeded(seed))
        loss, _ = model.loss(videos(), config=LossConfig(), noise=noise)
        return [noise, loss, *torch.autograd.grad(loss, list(model.parameters()))]

    first, again, other = run(1), run(1), run(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])


def test_bfloat16_autocast_stays_close_and_trains():
    model, frames = build(), videos()
    noise = model.noise(2, 4, seeded())
    plain, _ = model.loss(frames, config=LossConfig(), noise=noise)
    with torch.autocast("cpu", torch.bfloat16):
        rollout = model.observe(frames, noise=noise)
        decoded = model.decode(rollout.features)
        loss, metrics = model.loss(frames, config=LossConfig(), noise=noise)
    assert {tensor.dtype for tensor in (*rollout, decoded, loss, *metrics.values())} == {
        torch.float32
    }
    torch.testing.assert_close(loss, plain, rtol=1e-3, atol=0)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
