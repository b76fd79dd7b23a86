"""Policy distribution, imagination, returns, actor and critic against the official code."""

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm

from apv_edu.behavior import imagine, lambda_return
from apv_edu.nets.rssm import State
from apv_edu.nets.truncated_normal import TruncatedNormal, slopes

pytestmark = pytest.mark.golden

PRECISIONS = (torch.float32, torch.float64)


def numpy(tensors: dict) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def policy_steps(agent, batch, steps: int) -> dict[str, torch.Tensor]:
    """Acting on the frames from time 2 on, with the modes of latents and actions."""
    state, out = agent.initial(len(batch.image)), {}
    for t in range(steps):
        frames, is_first = batch.image[:, t + 2], batch.is_first[:, t + 2]
        action, state = agent.act(frames, state, is_first, explore=False)
        out[f"policy/action_t{t}"] = action
        out[f"policy/af_deter_t{t}"] = state.beliefs.video.deter
        out[f"policy/deter_t{t}"] = state.beliefs.stacked.deter
    return out


def forward(agent, batches, reference, gradient_views) -> dict[str, np.ndarray]:
    """Everything that a file ``imag`` holds, time first as there."""
    model, behavior, config = agent.world_model, agent.behavior, agent.config.behavior
    batch = batches[1]
    with torch.no_grad():
        seen = model.observe(batch.image, batch.action, is_first=batch.is_first)
    start = State(*(x.flatten(0, 1) for x in (seen.stacked.deter, seen.stacked.stoch)))
    trajectory = imagine(model.rssm, behavior.actor, start, config.horizon)
    features = trajectory.features
    reward, value = model.reward(features), behavior.target_critic(features)
    options = {"discount": config.discount, "lam": config.lam}
    actor_loss, critic_loss, metrics = behavior.losses(trajectory, reward, config)
    actor_loss.backward(inputs=list(behavior.actor.parameters()), retain_graph=True)
    critic_loss.backward(inputs=list(behavior.critic.parameters()))
    steps = torch.arange(config.horizon + 1, dtype=reward.dtype)
    over_time = {
        "action": trajectory.actions,
        "reward": reward,
        # The losses, compared below, hold these two as one number and its powers.
        "discount": torch.full_like(reward, config.discount),
        "weight": (config.discount**steps).expand_as(reward),
        "feat": features,
        "target_value": value,
        "target": lambda_return(reward[:, :-1], value[:, :-1], value[:, -1], **options),
        "actor_ent": TruncatedNormal(
            trajectory.policy.loc[:, :-1], trajectory.policy.scale[:, :-1]
        ).entropy(),
    }
    out = {name: tensor.transpose(0, 1) for name, tensor in over_time.items()}
    torch.testing.assert_close(metrics["critic_target"], out["target"].mean())
    torch.testing.assert_close(metrics["actor_ent"], out["actor_ent"].mean())
    out |= {"actor_loss": actor_loss, "critic_loss": critic_loss}
    out |= policy_steps(agent, batch, 1 + max(int(n[-1]) for n in reference if "action_t" in n))
    arrays = numpy(out)
    for name in ("actor", "critic"):
        params = dict(getattr(behavior, name).named_parameters())
        grads = {key: p.grad for key, p in params.items()}
        arrays |= gradient_views(grads, name)
        arrays[f"{name}_grad_norm"] = torch.stack([g.norm() for g in grads.values()]).norm().numpy()
    assert all(p.grad is None for p in model.parameters())
    return arrays


@pytest.fixture(scope="module")
def runs(setting, official_agent, batches, golden, gradient_views):
    reference = golden(f"imag{setting.suffix}")
    agents = (official_agent(setting, dtype) for dtype in PRECISIONS)
    return [forward(agent, batches, reference, gradient_views) for agent in agents]


GROUPS = {
    "imagination": ("action", "feat", "reward"),
    "returns": ("target", "discount", "weight"),
    "losses": ("actor_loss", "critic_loss", "actor_ent"),
    "gradients": ("grad", "actor_grad", "critic_grad"),
    "policy": ("policy/",),
}


@pytest.mark.parametrize("prefixes", GROUPS.values(), ids=GROUPS)
def test_behavior_arrays(prefixes, setting, runs, golden, assert_parity):
    arrays = golden(f"imag{setting.suffix}")
    reference = {k: v for k, v in arrays.items() if k.startswith(prefixes)}
    assert_parity(reference, *runs)


def test_every_array_belongs_to_a_group(setting, golden, runs):
    ours, _ = runs
    arrays, prefixes = golden(f"imag{setting.suffix}"), sum(GROUPS.values(), ())
    assert not {name for name in arrays if not name.startswith(prefixes)}
    # and no weight of actor or critic is missing from the file
    weights = {name for name in ours if name.startswith("grad_norm/")}
    assert weights == {name for name in arrays if name.startswith("grad_norm/")}


def test_lambda_return(golden, assert_parity):
    arrays, runs = golden("lambda_return"), []
    for dtype in PRECISIONS:
        given = {k: torch.from_numpy(v.T).to(dtype) for k, v in arrays.items()}
        reward, value, bootstrap = given["reward"], given["value"], given["bootstrap"]
        discounts = {"returns_099": 0.99, "returns_random": given["pcont_random"]}
        out = {
            name: lambda_return(reward, value, bootstrap, discount=discount, lam=0.95).T
            for name, discount in discounts.items()
        }
        runs.append(numpy(out))
    reference = {k: v for k, v in arrays.items() if k.startswith("returns_")}
    assert set(arrays) - set(reference) == {"reward", "value", "bootstrap", "pcont_random"}
    assert_parity(reference, *runs)


def actor_parts(agent, arrays, dtype) -> dict[str, np.ndarray]:
    policy = agent.behavior.actor(torch.from_numpy(arrays["actor/feat"]).to(dtype))
    out = {
        "actor/loc": policy.loc,
        "actor/scale": policy.scale,
        "actor/mean": policy.mean,
        "actor/mode": policy.mode,
        "actor/log_prob": policy.log_prob(torch.from_numpy(arrays["actor/x"]).to(dtype)),
        "actor/entropy": policy.entropy(),
    }
    return numpy(out)


def grid_parts(arrays, dtype) -> dict[str, np.ndarray]:
    """The distribution of one action on a grid of loc, scale and action."""
    loc, scale = (
        torch.from_numpy(arrays[f"grid/{name}"]).to(dtype).requires_grad_()
        for name in ("loc", "scale")
    )
    normal = TruncatedNormal(loc[..., None], scale[..., None])
    entropy, x = normal.entropy(), torch.from_numpy(arrays["grid/x"]).to(dtype)
    by_loc, by_scale = torch.autograd.grad(entropy.sum(), (loc, scale))
    points = TruncatedNormal(loc[..., None, None], scale[..., None, None])
    out = {
        "grid/entropy": entropy,
        "grid/mean": normal.mean[..., 0],
        "grid/log_prob": points.log_prob(x[:, None]),
        "grid/dent_dloc": by_loc,
        "grid/dent_dscale": by_scale,
    }
    return numpy(out)


def test_actor_distribution(golden, official_agent, setting, assert_parity):
    arrays = golden("dists")
    given = ("actor/feat", "actor/x")
    reference = {k: v for k, v in arrays.items() if k.startswith("actor/") and k not in given}
    runs = [actor_parts(official_agent(setting, dtype), arrays, dtype) for dtype in PRECISIONS]
    assert_parity(reference, *runs)


def test_truncated_normal_on_a_grid(golden, assert_parity):
    arrays = golden("dists")
    ours, exact = (grid_parts(arrays, dtype) for dtype in PRECISIONS)
    assert {k for k in arrays if k.startswith("grid/")} == (
        {*ours, *(f"{k}64" for k in ours)} | {"grid/loc", "grid/scale", "grid/x"}
    )
    assert_parity({k: arrays[k] for k in ours}, ours, exact)
    for name, array in exact.items():  # both in float64
        np.testing.assert_allclose(array, arrays[f"{name}64"], rtol=1e-10, atol=1e-12)


def test_gradients_of_samples(golden):
    """Official samples shift and stretch with loc and scale; ours also follow the bounds.

    The official sample's gradient is that of an untruncated normal, (1, (sample - loc) / scale):
    as if, while loc and scale move, the bounds moved along. Ours is the derivative of the
    quantile of the same noise, a deliberate deviation listed on the book's page of deviations.
    """
    arrays = {k.partition("/")[2]: v for k, v in golden("dists").items() if "pathwise/" in k}
    assert set(arrays) == {"loc", "scale", "sample", "dsample_dloc", "dsample_dscale"}
    loc, scale, sample = (arrays[name].astype(np.float64) for name in ("loc", "scale", "sample"))
    z, (a, b) = (sample - loc) / scale, ((edge - loc) / scale for edge in (-1, 1))
    np.testing.assert_allclose(arrays["dsample_dloc"], 1, rtol=1e-6)
    np.testing.assert_allclose(arrays["dsample_dscale"], z, rtol=1e-5, atol=1e-6)

    normal = TruncatedNormal(torch.from_numpy(loc), torch.from_numpy(scale))
    by_loc, by_scale = (slope.numpy() for slope in slopes(normal, torch.from_numpy(sample)))
    share = truncnorm.cdf(z, a, b)

    def quantile(loc, scale):
        return truncnorm.ppf(share, (-1 - loc) / scale, (1 - loc) / scale, loc, scale)

    np.testing.assert_allclose(quantile(loc, scale), sample, atol=1e-9)
    step = 1e-5
    moved_loc = (quantile(loc + step, scale) - quantile(loc - step, scale)) / (2 * step)
    moved_scale = (quantile(loc, scale + step) - quantile(loc, scale - step)) / (2 * step)
    np.testing.assert_allclose(by_loc, moved_loc, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(by_scale, moved_scale, rtol=1e-5, atol=1e-6)
    # Ours is the official slope less the pull of the bounds, which is not a small thing.
    assert (by_loc < 1).all() and (by_loc < 0.5).mean() > 0.1


def test_every_distribution_is_compared(golden):
    kinds = {name.partition("/")[0] for name in golden("dists")}
    assert kinds == {"actor", "grid", "pathwise", "onehot"}  # onehot: test_observe_golden.py
