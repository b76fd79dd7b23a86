import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import truncnorm

from apv_edu.nets.truncated_normal import EDGE, TruncatedNormal, slopes

LOCS = (-1.0, -0.6, -0.05, 0.0, 0.3, 0.95, 1.0)
SCALES = (0.1, 0.25, 0.8, 2.1)
locs, scales = st.floats(-1, 1), st.floats(0.1, 2.1)


def grid() -> tuple[torch.Tensor, torch.Tensor]:
    """Every loc with every scale, (28, 1) in float64."""
    pairs = torch.cartesian_prod(*(torch.tensor(x, dtype=torch.float64) for x in (LOCS, SCALES)))
    return pairs[:, :1], pairs[:, 1:]


def shape_of(loc, scale):
    """scipy's parameters of the same distribution."""
    loc, scale = np.asarray(loc), np.asarray(scale)
    return (-1 - loc) / scale, (1 - loc) / scale, loc, scale


def scipy_of(loc, scale):
    return truncnorm(*shape_of(loc, scale))


def uniform(*shape, dtype=torch.float64, seed=0):
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_density_entropy_and_mean_agree_with_scipy():
    loc, scale = grid()
    ours, theirs = TruncatedNormal(loc, scale), scipy_of(loc, scale)
    for action in np.linspace(-1, 1, 9):
        log_prob = ours.log_prob(torch.full_like(loc, action))
        np.testing.assert_allclose(
            log_prob, truncnorm.logpdf(action, *shape_of(loc, scale))[:, 0], rtol=1e-9, atol=1e-9
        )
    np.testing.assert_allclose(ours.mean, theirs.mean(), atol=1e-10)
    # scipy's own closed form is off by up to 1e-9 in the far tails
    np.testing.assert_allclose(ours.entropy(), theirs.entropy()[:, 0], rtol=1e-7, atol=1e-7)


def test_densities_and_entropies_are_summed_over_the_action():
    loc, scale = torch.rand(3, 5, 4) - 0.5, torch.rand(3, 5, 4) + 0.1
    action = torch.rand(3, 5, 4) - 0.5
    whole = TruncatedNormal(loc, scale)
    parts = [TruncatedNormal(loc[..., i : i + 1], scale[..., i : i + 1]) for i in range(4)]
    density = sum(part.log_prob(action[..., i : i + 1]) for i, part in enumerate(parts))
    torch.testing.assert_close(whole.log_prob(action), density)
    torch.testing.assert_close(whole.entropy(), sum(part.entropy() for part in parts))
    assert whole.entropy().shape == (3, 5) and whole.mean.shape == (3, 5, 4)


def test_a_sample_is_the_quantile_of_its_noise():
    loc, scale = grid()
    u = uniform(len(loc), 1)
    sample = TruncatedNormal(loc, scale).sample(u)
    np.testing.assert_allclose(sample, scipy_of(loc, scale).ppf(u), atol=1e-7)


def test_samples_have_the_distributions_mean_and_spread():
    loc, scale = (x.expand(-1, 20_000) for x in grid())
    normal, theirs = TruncatedNormal(loc, scale), scipy_of(loc[:, 0], scale[:, 0])
    sample = normal.sample(uniform(*loc.shape))
    np.testing.assert_allclose(sample.mean(1), theirs.mean(), atol=0.02)
    np.testing.assert_allclose(sample.std(1), theirs.std(), atol=0.01)
    assert sample.abs().max() <= 1 - EDGE


def test_the_mode_keeps_off_the_bounds_and_passes_gradients():
    loc = torch.tensor([-1.0, -0.3, 0.7, 1.0], requires_grad=True)
    normal = TruncatedNormal(loc, torch.full((4,), 0.5))
    action = normal.sample()
    assert torch.equal(normal.mode, loc)
    torch.testing.assert_close(action, loc.detach().clamp(-1 + EDGE, 1 - EDGE), rtol=0, atol=1e-7)
    assert action.abs().max() < 1
    (gradient,) = torch.autograd.grad(action.sum(), loc)
    assert torch.equal(gradient, torch.ones(4))


def moved_quantile(loc, scale, u, step=1e-6):
    """Slopes of scipy's quantile by loc and by scale, at fixed noise."""
    by_loc = scipy_of(loc + step, scale).ppf(u) - scipy_of(loc - step, scale).ppf(u)
    by_scale = scipy_of(loc, scale + step).ppf(u) - scipy_of(loc, scale - step).ppf(u)
    return by_loc / (2 * step), by_scale / (2 * step)


@settings(deadline=None, max_examples=40)
@given(locs, scales, st.floats(0.001, 0.999))
def test_gradients_of_a_sample_are_those_of_the_quantile(loc, scale, u):
    values = [torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (loc, scale)]
    normal = TruncatedNormal(*values)
    sample = normal.sample(torch.tensor([u], dtype=torch.float64))
    ours = torch.autograd.grad(sample.sum(), values)
    for mine, slope in zip(ours, slopes(normal, sample), strict=True):
        torch.testing.assert_close(mine, slope, rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(ours, moved_quantile(loc, scale, u), strict=True):
        assert mine.item() == pytest.approx(theirs, rel=1e-4, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(locs, scales)
def test_gradients_of_density_and_entropy(loc, scale):
    values = [torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (loc, scale)]
    action = torch.tensor([0.4], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: TruncatedNormal(a, b).log_prob(action), values)
    assert torch.autograd.gradcheck(lambda a, b: TruncatedNormal(a, b).entropy(), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rarest_noise_gives_finite_actions_and_gradients(dtype):
    """float32 noise is exactly 0 or 1 - 2^-24 once in some 10^7 draws: a minute of training."""
    loc, scale = (x.to(dtype).requires_grad_() for x in grid())
    normal = TruncatedNormal(loc, scale)
    for u in (0.0, 2**-24, 0.5, 1 - 2**-24):
        sample = normal.sample(torch.full_like(loc, u))
        value = sample.sum() + normal.log_prob(sample.detach()).sum() + normal.entropy().sum()
        for gradient in torch.autograd.grad(value, (loc, scale), retain_graph=True):
            assert gradient.isfinite().all()
        assert sample.isfinite().all() and sample.abs().max() < 1


@pytest.mark.parametrize(("loc", "scale"), [(-1.0, 0.1), (-1.0, 0.15), (-0.5, 0.15), (1.0, 0.1)])
def test_far_tails_in_float32_stay_where_they_belong(loc, scale):
    """Shares that round to 0 or 1 must not become actions at the far bound, 20 scales away."""
    normal = TruncatedNormal(*(torch.tensor([x]) for x in (loc, scale)))
    for u in (2**-24, 2**-20, 1 - 2**-20, 1 - 2**-24):
        sample = normal.sample(torch.tensor([u])).item()
        assert sample == pytest.approx(scipy_of(loc, scale).ppf(u), abs=0.2 * scale)
