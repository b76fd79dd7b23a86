"""The stacked world model, its loss and gradients, and the bonus, against the official code."""

import re

import numpy as np
import pytest
import torch

from apv_edu.nets.distributions import balanced_kl, straight_through, unit_normal_nll
from apv_edu.world_model import Beliefs

pytestmark = pytest.mark.golden

PRECISIONS = (torch.float32, torch.float64)


def kl_variants(names) -> dict[str, dict]:
    """The options behind names such as ``call1/af_kl_loss_free1``."""
    found = {re.fullmatch(r"call1/kl_loss_(free(\d+))", name) for name in names}
    return {match[1]: {"free_nats": float(match[2])} for match in found if match}


def rollout_arrays(rollout, prefix: str) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}post_logit": rollout.posterior,
        f"{prefix}post_stoch": rollout.stoch,
        f"{prefix}post_deter": rollout.deter,
        f"{prefix}prior_logit": rollout.prior,
        f"{prefix}prior_stoch": straight_through(rollout.prior),
    }


def both_rollouts(seen, call: str) -> dict[str, torch.Tensor]:
    below = rollout_arrays(seen.video, f"{call}/af_")
    return below | rollout_arrays(seen.stacked, f"{call}/")


def start_from(model, beliefs: Beliefs) -> None:
    """Let the model's loss, which begins at the beginning, begin at ``beliefs``."""
    model.video_rssm.initial = lambda batch: beliefs.video
    model.rssm.initial = lambda batch: beliefs.stacked


def run_call(agent, call: str, batch, is_first):
    """The loss on one batch: its graph, what was observed, and all that the file says of it."""
    model, bonuses = agent.world_model, []

    def recorded(features):
        bonuses.append(agent.bonus(features))
        return bonuses[-1]

    loss, seen, metrics = model.loss(
        batch.image,
        batch.action,
        batch.reward,
        config=agent.config.world_model,
        is_first=is_first,
        bonus=recorded,
        beta=agent.config.bonus.beta,
    )
    ((raw, normed),) = bonuses
    features = seen.stacked.features
    decoded = model.decode(features)
    frames = zip(model.scale(batch.image).flatten(0, 1), decoded.flatten(0, 1), strict=True)
    nll = torch.stack([unit_normal_nll(frame, mean) for frame, mean in frames])
    out = both_rollouts(seen, call)
    out |= {
        f"{call}/int_rew_raw": raw,
        f"{call}/int_rew_normed": normed,
        f"{call}/streamnorm_mag": agent.bonus.magnitude.clone(),
        f"{call}/queue": agent.bonus.queue.clone(),
        f"{call}/queue_step": agent.bonus.filled.clone(),
        f"{call}/reward_target": batch.reward[:, : raw.shape[1]] + agent.config.bonus.beta * normed,
        f"{call}/reward_head_mean": model.reward(features),
        f"{call}/decoder_neg_log_prob": nll.unflatten(0, batch.image.shape[:2]),
        f"{call}/model_loss": loss,
        f"{call}/embed": model.encoder(model.scale(batch.image)),
    }
    out |= {f"{call}/metrics/{name}": value for name, value in metrics.items()}
    out |= {f"{call}/decoder_mean_t{t}": decoded[:, t] for t in range(decoded.shape[1])}
    return loss, seen, out


def forward(agent, batches, reference, gradient_views) -> dict[str, np.ndarray]:
    """Everything that a file ``finetune`` and its gradients hold, as our model computes it."""
    model = agent.world_model
    loss, seen, out = run_call(agent, "call1", batches[1], batches[1].is_first)
    for prefix, rollout in (("af_", seen.video), ("", seen.stacked)):
        for name, options in kl_variants(reference).items():
            kl_loss, value = balanced_kl(rollout.posterior, rollout.prior, balance=0.8, **options)
            out |= {f"call1/{prefix}kl_loss_{name}": kl_loss}
            out |= {f"call1/{prefix}kl_value_{name}": value}

    loss.backward()
    for name, part in zip(("enc_model", "model"), model.parts(), strict=True):
        norms = [p.grad.norm() for p in part if p.grad is not None]
        out[f"call1/{name}_grad_norm"] = torch.stack(norms).norm()
    # Only the video RSSM's prior has no gradient at all: nothing asks it for predictions.
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    assert {name.rpartition(".")[0] for name in idle} == {
        "video_rssm.prior_hidden",
        "video_rssm.prior_logits",
    }
    grads = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in model.named_parameters()
    }

    with torch.no_grad():
        out |= run_call(agent, "call2", batches[2], batches[2].is_first)[2]
        last = seen.beliefs()
        is_first = torch.from_numpy(reference["call3/is_first"])
        own = model.observe(batches[2].image, batches[2].action, last, is_first=is_first)
        out |= both_rollouts(own, "own_carry")
        # The official code hands the upper RSSM's state to both.
        start_from(model, Beliefs(last.stacked, last.stacked))
        out |= run_call(agent, "call3", batches[2], is_first)[2]
    arrays = {name: tensor.detach().numpy() for name, tensor in out.items()}
    return arrays | gradient_views(grads)


@pytest.fixture(scope="module")
def runs(setting, official_agent, batches, golden, gradient_views):
    reference = golden(f"finetune{setting.suffix}")
    agents = (official_agent(setting, dtype) for dtype in PRECISIONS)
    return [forward(agent, batches, reference, gradient_views) for agent in agents]


ROLLOUTS = ("post_", "prior_", "af_post_", "af_prior_")
GROUPS = {
    "encoder": ("call1/embed",),
    "rollouts": tuple(f"call{i}/{name}" for i in (1, 2) for name in ROLLOUTS),
    "each continues its own state": ("own_carry/",),
    "both continue the upper state": tuple(f"call3/{name}" for name in ROLLOUTS),
    "bonus": tuple(f"call{i}/{n}" for i in (1, 2, 3) for n in ("int_rew", "streamnorm", "queue")),
    "reward": tuple(f"call{i}/reward_" for i in (1, 2, 3)),
    "decoder": tuple(f"call{i}/decoder_" for i in (1, 2, 3)),
    "kl": ("call1/kl_", "call1/af_kl_"),
    "loss": tuple(f"call{i}/{name}" for i in (1, 2, 3) for name in ("metrics/", "model_loss")),
    "gradient norms": ("call1/enc_model_grad_norm", "call1/model_grad_norm"),
}


@pytest.mark.parametrize("prefixes", GROUPS.values(), ids=GROUPS)
def test_world_model_arrays(prefixes, setting, runs, golden, assert_parity):
    arrays = golden(f"finetune{setting.suffix}")
    reference = {k: v for k, v in arrays.items() if k.startswith(prefixes)}
    assert_parity(reference, *runs)


def test_every_array_belongs_to_a_group(setting, golden):
    arrays = golden(f"finetune{setting.suffix}")
    assert len(kl_variants(arrays)) > 1
    prefixes = sum(GROUPS.values(), ())
    assert {k for k in arrays if not k.startswith(prefixes)} == {"call3/is_first"}


def test_the_carried_states_differ(runs):
    """Else call 3 and the own carry would test one thing twice."""
    ours, _ = runs
    assert not np.array_equal(ours["call3/af_post_deter"], ours["own_carry/af_post_deter"])


def test_the_queue_holds_moments_of_earlier_calls(runs):
    ours, _ = runs
    first, second = ours["call1/queue"], ours["call2/queue"]
    pushed = ours["call1/int_rew_raw"].size
    assert np.array_equal(second[pushed:], first[: len(second) - pushed])
    assert ours["call2/queue_step"] == len(second) < 2 * pushed


def test_weight_gradients(setting, runs, golden, assert_parity):
    reference = golden(f"finetune_grads{setting.suffix}")
    ours, _ = runs
    named = {name.partition("/")[2] for name in ours if name.startswith("grad_norm/")}
    assert {name.partition("/")[2] for name in reference} == named
    assert_parity(reference, *runs)


def test_stream_norm(golden, assert_parity, official_agent, setting):
    """The division by the running magnitude alone: distances are given."""
    arrays, runs = golden("streamnorm"), []
    calls = sum(name.startswith("in") for name in arrays)
    for dtype in PRECISIONS:
        bonus, out = official_agent(setting, dtype).bonus, {}
        for i in range(calls):
            given = torch.from_numpy(arrays[f"in{i}"]).to(dtype)
            features = torch.zeros(
                given.shape[0], given.shape[1] + bonus.config.window - 1, len(bonus.projection)
            )
            bonus.distance = lambda _, given=given: given.flatten()
            raw, normed = bonus(features.to(dtype))
            out |= {f"in{i}": raw.numpy(), f"out{i}": normed.numpy()}
            out[f"mag{i}"] = bonus.magnitude.numpy().copy()
        runs.append(out)
    assert set(runs[0]) == set(arrays)
    assert_parity(arrays, *runs)
