"""Encoder, RSSM, KL, decoder and loss against the official code, array by array."""

import re

import numpy as np
import pytest
import torch

from apv_edu.config import LossConfig
from apv_edu.nets.distributions import (
    balanced_kl,
    entropy,
    kl_divergence,
    straight_through,
    unit_normal_nll,
)

pytestmark = pytest.mark.golden


def kl_variants(names) -> dict[str, dict]:
    """The options behind names such as ``kl_loss_free13_noavg``."""
    found = [re.fullmatch(r"kl_loss_(free(\d+)(_noavg)?)", name) for name in names]
    return {
        match[1]: {"free_nats": float(match[2]), "free_avg": not match[3]}
        for match in found
        if match
    }


def forward(model, golden) -> dict[str, np.ndarray]:
    """Everything that the file ``pretrain`` holds, by its names, as our model computes it."""
    inputs, reference = golden("inputs"), golden("pretrain")
    frames = torch.from_numpy(inputs["image1"])
    is_first = torch.from_numpy(inputs["is_first1"])
    out = {"embed": model.embed(frames)}

    rollout = model.observe(frames, is_first=is_first)
    out |= {
        "post_logit": rollout.posterior,
        "post_stoch": rollout.stoch,
        "post_deter": rollout.deter,
        "prior_logit": rollout.prior,
        "prior_stoch": straight_through(rollout.prior),
        "prior_deter": rollout.deter,
        "feat": rollout.features,
        "post_ent": entropy(rollout.posterior),
        "prior_ent": entropy(rollout.prior),
    }
    for name, options in kl_variants(reference).items():
        loss, value = balanced_kl(rollout.posterior, rollout.prior, balance=0.8, **options)
        out |= {f"kl_loss_{name}": loss, f"kl_value_{name}": value}

    decoded = model.decode(rollout.features)
    shown = next(name for name in reference if name.startswith("decoder_mean_t0"))
    out[shown] = decoded[:, [0, int(shown.removeprefix("decoder_mean_t0"))]]
    each_frame = zip(model.scale(frames).flatten(0, 1), decoded.flatten(0, 1), strict=True)
    losses = torch.stack([unit_normal_nll(frame, mean) for frame, mean in each_frame])
    out["decoder_neg_log_prob"] = losses.unflatten(0, frames.shape[:2])

    imagined = model.imagine(rollout.state(4), reference["imagine_deter"].shape[1])
    out |= {
        "imagine_logit": imagined.prior,
        "imagine_stoch": imagined.stoch,
        "imagine_deter": imagined.deter,
    }

    carried = model.observe(
        torch.from_numpy(inputs["image2"]),
        rollout.state(),
        is_first=torch.from_numpy(reference["carry_is_first"]),
    )
    out |= {"carry_post_logit": carried.posterior, "carry_post_deter": carried.deter}

    loss, metrics = model.loss(frames, config=LossConfig(), is_first=is_first)
    out["model_loss"] = loss
    out |= {f"metrics/{name}": value for name, value in metrics.items()}
    loss.backward()
    norms = torch.stack([p.grad.norm() for p in model.parameters()])
    out["grad_norm"] = norms.norm()
    return {name: tensor.detach().numpy() for name, tensor in out.items()}


@pytest.fixture(scope="module")
def runs(official_model, golden):
    return [forward(official_model(dtype), golden) for dtype in (torch.float32, torch.float64)]


GROUPS = {
    "encoder": ("embed",),
    "posterior": ("post_", "feat"),
    "prior": ("prior_",),
    "kl": ("kl_",),
    "decoder": ("decoder_",),
    "imagination": ("imagine_",),
    "carried state": ("carry_post",),
    "loss": ("metrics/", "model_loss", "grad_norm"),
}


@pytest.mark.parametrize("prefixes", GROUPS.values(), ids=GROUPS)
def test_pretrain_arrays(prefixes, runs, golden, assert_parity):
    reference = {k: v for k, v in golden("pretrain").items() if k.startswith(prefixes)}
    assert_parity(reference, *runs)


def test_every_array_belongs_to_a_group(golden):
    variants = kl_variants(golden("pretrain")).values()
    assert {options["free_avg"] for options in variants} == {True, False}
    assert len({options["free_nats"] for options in variants}) > 2
    prefixes = sum(GROUPS.values(), ())
    assert {k for k in golden("pretrain") if not k.startswith(prefixes)} == {"carry_is_first"}


def one_hot_parts(arrays, dtype) -> dict[str, np.ndarray]:
    p = torch.from_numpy(arrays["onehot/logit_p"]).to(dtype).requires_grad_()
    q = torch.from_numpy(arrays["onehot/logit_q"]).to(dtype)
    sample = straight_through(p)
    (sample * torch.from_numpy(arrays["onehot/st_weight"])).sum().backward()
    assert p.grad is not None
    out = {
        "onehot/mode_p": sample,
        "onehot/entropy_p": entropy(p),
        "onehot/kl_pq": kl_divergence(p, q),
        "onehot/st_grad": p.grad,
    }
    return {name: tensor.detach().numpy() for name, tensor in out.items()}


def test_one_hot_distribution(golden, assert_parity):
    arrays = golden("dists")
    given = ("onehot/logit_p", "onehot/logit_q", "onehot/st_weight")
    reference = {k: v for k, v in arrays.items() if k.startswith("onehot/") and k not in given}
    ours, exact = (one_hot_parts(arrays, dtype) for dtype in (torch.float32, torch.float64))
    assert_parity(reference, ours, exact)
