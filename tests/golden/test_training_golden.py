"""Gradients, the optimiser, and three steps of official training."""

import numpy as np
import pytest
import torch

from apv_edu.config import LossConfig, OptimizerConfig
from apv_edu.official import to_official
from apv_edu.optimizer import DecoupledAdam

pytestmark = pytest.mark.golden

PRECISIONS = (torch.float32, torch.float64)


def loss_on(model, golden, batch: int):
    inputs = golden("inputs")
    is_first = torch.from_numpy(inputs[f"is_first{batch}"])
    assert is_first[:, 0].all()  # so the official run's carried state plays no part
    frames = torch.from_numpy(inputs[f"image{batch}"])
    return model.loss(frames, config=LossConfig(), is_first=is_first)


def test_weight_gradients(official_model, golden, assert_parity):
    reference, runs = golden("pretrain_grads"), []
    for dtype in PRECISIONS:
        model = official_model(dtype)
        loss_on(model, golden, 1)[0].backward()
        grads = to_official({name: p.grad for name, p in model.named_parameters()})
        views = {f"grad/{name}": grad for name, grad in grads.items()}
        views |= {f"grad_every8/{name}": grad.ravel()[::8] for name, grad in grads.items()}
        views |= {f"grad_norm/{name}": np.linalg.norm(grad) for name, grad in grads.items()}
        runs.append(views)
        assert {name.partition("/")[2] for name in reference} == set(grads)
    assert_parity(reference, *runs)


def three_steps(model, golden, variables) -> dict[str, np.ndarray]:
    config = OptimizerConfig()
    optimizer = DecoupledAdam(model.parameters(), config)
    out = {}
    for step, batch in enumerate((1, 2, 1), start=1):
        optimizer.zero_grad()
        loss, metrics = loss_on(model, golden, batch)
        loss.backward()
        metrics["model_grad_norm"] = optimizer.step()
        out |= {f"step{step}/{name}": value.numpy() for name, value in metrics.items()}
    weights = to_official(dict(model.named_parameters()))
    # The official action rows, which we leave out, only ever see weight decay.
    used = model.rssm.gru_input.in_features
    unused = variables["rssm/img_in/kernel"][used:]
    weights["rssm/img_in/kernel"][used:] = unused * (1 - config.weight_decay) ** 3
    return out | {
        f"after3_every64/{name}": weight.ravel()[::64] for name, weight in weights.items()
    }


def test_three_official_training_steps(official_model, golden, variables, assert_parity):
    runs = [three_steps(official_model(dtype), golden, variables) for dtype in PRECISIONS]
    reference = golden("pretrain_steps")
    weights = {name: array for name, array in reference.items() if name.startswith("after3_")}
    metrics = {name: array for name, array in reference.items() if name not in weights}
    assert len(weights) == len(variables)
    assert_parity(metrics, *runs)
    # A weight may cross zero on its way: then its start is the scale of its rounding.
    starts = {name: variables[name.partition("/")[2]].ravel()[::64] for name in weights}
    assert_parity(weights, *runs, terms=starts)


def optimizer_run(arrays, clip: str, dtype) -> dict[str, np.ndarray]:
    count = sum(name.startswith("init/") for name in arrays)
    starts = [torch.tensor(arrays[f"init/{i}"], dtype=dtype) for i in range(count)]
    params = [torch.nn.Parameter(start) for start in starts]
    optimizer = DecoupledAdam(params, OptimizerConfig(clip=float(clip)))
    out = {}
    for step in range(1, 1 + sum(name.endswith("/0") for name in arrays if "grad/" in name)):
        for i, p in enumerate(params):
            p.grad = torch.tensor(arrays[f"grad/step{step}/{i}"], dtype=dtype)
        name = f"clip{clip}/step{step}"
        out[f"{name}/grad_norm"] = optimizer.step().numpy()
        out |= {f"{name}/{i}": p.detach().numpy().copy() for i, p in enumerate(params)}
    return out


def test_optimizer(golden, assert_parity):
    arrays = golden("optimizer")
    clips = {name.partition("/")[0] for name in arrays if name.startswith("clip")}
    assert len(clips) == 2  # one that clips and one that does not
    for clip in clips:
        runs = [optimizer_run(arrays, clip.removeprefix("clip"), dtype) for dtype in PRECISIONS]
        reference = {k: v for k, v in arrays.items() if k.startswith(f"{clip}/")}
        assert_parity(reference, *runs)
        # A parameter hardly moves: ask as much of its movement, as far as rounding lets it be seen.
        for name in (name for name in reference if name[-1].isdigit()):
            start = arrays["init/" + name.rpartition("/")[2]].astype(np.float64)
            rounding = 3 * np.finfo(np.float32).eps * np.abs(start).max()
            for run in runs:
                np.testing.assert_allclose(
                    run[name] - start, reference[name] - start, 1e-3, rounding
                )
