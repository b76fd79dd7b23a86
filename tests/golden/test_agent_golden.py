"""Three whole training steps of the official agent: every metric, every weight."""

import numpy as np
import pytest
import torch

from apv_edu.official import to_official

pytestmark = pytest.mark.golden

PRECISIONS = (torch.float32, torch.float64)
STEPS = (1, 2, 1)
"""The batches of the three steps."""


def three_steps(agent, batches, starts) -> dict[str, np.ndarray]:
    out = {}
    for step, batch in enumerate(STEPS, start=1):
        metrics = agent.update(batches[batch])
        metrics |= {
            # One loss, two optimisers: the official code reports it for both.
            "enc_model_loss": metrics["model_loss"],
            # The official reward normalisation has momentum 1: its magnitude stays 1.
            "reward_normed_mean": metrics["reward_mean"],
            "reward_normed_std": metrics["reward_std"],
            # A schedule in the official code, of which the configuration makes a constant.
            "actor_ent_scale": torch.tensor(agent.config.behavior.entropy, dtype=torch.float64),
        }
        out |= {f"step{step}/{name}": value.numpy() for name, value in metrics.items()}
    weights = to_official(dict(agent.world_model.named_parameters()))
    for name in ("actor", "critic", "target_critic"):
        weights |= to_official(dict(getattr(agent.behavior, name).named_parameters()), name)
    # The official action rows, which we leave out, only ever see weight decay.
    decay = (1 - agent.config.world_model.optimizer.weight_decay) ** len(STEPS)
    for prefix, rssm in (("af_", agent.world_model.video_rssm), ("", agent.world_model.rssm)):
        name, used = f"{prefix}rssm/img_in/kernel", rssm.gru_input.in_features
        weights[name][used:] = starts[name][used:] * decay
    return out | {
        f"after3_every64/{name}": weight.ravel()[::64] for name, weight in weights.items()
    }


@pytest.fixture(scope="module")
def starts(setting, golden) -> dict[str, np.ndarray]:
    """All weights before the first step."""
    starts = golden("variables") | golden("variables_finetune")
    return starts | (golden(f"variables_finetune{setting.suffix}") if setting.suffix else {})


@pytest.fixture(scope="module")
def runs(setting, official_agent, batches, starts):
    return [three_steps(official_agent(setting, dtype), batches, starts) for dtype in PRECISIONS]


def test_three_official_training_steps(setting, runs, starts, golden, assert_parity):
    reference = golden(f"finetune_steps{setting.suffix}")
    weights = {name: array for name, array in reference.items() if name.startswith("after3_")}
    metrics = {name: array for name, array in reference.items() if name not in weights}
    assert set(runs[0]) == set(reference)
    assert_parity(metrics, *runs)
    # A weight may cross zero on its way: then its start is the scale of its rounding.
    terms = {name: starts[name.partition("/")[2]].ravel()[::64] for name in weights}
    assert_parity(weights, *runs, terms=terms)


def test_weights_moved_as_the_official_ones_did(setting, runs, starts, golden):
    """A weight hardly moves in three steps: ask for its movement, as far as rounding shows it."""
    _, exact = runs
    for name, array in golden(f"finetune_steps{setting.suffix}").items():
        if not name.startswith("after3_"):
            continue
        start = starts[name.partition("/")[2]].ravel()[::64].astype(np.float64)
        wanted = array - start
        rounding = 3 * np.finfo(np.float32).eps * np.abs(start).max()
        error = np.abs(exact[name] - start - wanted).max()
        assert error <= 1e-3 * np.abs(wanted).max() + rounding, name
