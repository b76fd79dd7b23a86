"""Stop a training whose numbers are no longer finite, and say what is left of it."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from apv_edu.errors import InputError


def check_losses(values: dict[str, Tensor], step: int, kept: int, out: Path) -> None:
    """Look at the losses and gradient norms of ``step``; ``kept`` is the checkpoint's step.

    Raises:
        InputError: when one is not finite.
    """
    for name, value in values.items():
        if name.endswith(("loss", "grad_norm")) and not math.isfinite(value):
            raise InputError(_broken(f"The {name} is {float(value)}", step, kept, out))


def check_weights(model: nn.Module, step: int, kept: int, out: Path) -> None:
    """Look at every weight, before it is saved over the last good ones.

    Raises:
        InputError: when one is not finite.
    """
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise InputError(_broken(f"The weight {name} is not finite", step, kept, out))


def _broken(what: str, step: int, kept: int, out: Path) -> str:
    saved = f"the checkpoint of step {kept} in {out} is kept" if kept else "nothing was saved yet"
    return (
        f"{what} at step {step}, so training stopped ({saved}): start anew in another folder with "
        "a lower optimizer.learning_rate, and look at the videos."
    )
