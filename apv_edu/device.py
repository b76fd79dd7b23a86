"""Which device, and in which precision."""

import torch

from apv_edu.errors import InputError


def choose_device(device: str) -> torch.device:
    """``auto`` is a CUDA GPU if there is one, else the CPU.

    Raises:
        InputError: when the device does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"There is no device {device!r} here: use 'auto', 'cpu' or 'cuda'."
        ) from error


def choose_precision(precision: str, device: torch.device) -> str:
    """``auto`` is bf16 on a GPU that has it, else fp32 (most CPUs are slower in bf16)."""
    if precision != "auto":
        return precision
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if able else "fp32"
