"""Checkpoints: named tensors and their story in one safetensors file, whole or not at all.

A file carries the SHA-256 of everything in it, so a damaged one is refused instead of trained on.
"""

import hashlib
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

import apv_edu
from apv_edu.config import ModelSize
from apv_edu.errors import InputError
from apv_edu.files import write_atomically
from apv_edu.video_model import ActionFreeVideoModel

HEADER = "apv_edu"  # one metadata key, since safetensors does not keep the order of several


def save(path: Path | str, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Save named tensors and JSON-able ``metadata`` as one safetensors file, atomically.

    Equal tensors and metadata give the same bytes on every machine.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"metadata": metadata, "sha256": _digest(tensors, metadata)}
    data = safetensors.torch.save(tensors, {HEADER: json.dumps(header, sort_keys=True)})
    write_atomically(path, data)


def load(path: Path | str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load the tensors (on the CPU) and metadata that ``save`` wrote, and verify their checksum.

    Raises:
        InputError: when the file is missing, damaged, or not a checkpoint of this package.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}: check the path, or train one first.")
    damaged = f"The checkpoint {path} is damaged"
    remedy = "delete it and restore a copy or train again."
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{damaged} ({error}): {remedy}") from error
    if header is None:
        raise InputError(
            f"{path} was not written by apv_edu: it lacks the settings needed to use it; "
            "pass a file that `apv-edu pretrain` made."
        )
    metadata = header.get("metadata") if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or header.get("sha256") != _digest(tensors, metadata):
        raise InputError(f"{damaged} (its checksum does not match): {remedy}")
    return tensors, metadata


def digest(path: Path | str) -> str:
    """The SHA-256 over the tensors and metadata of a checkpoint: which weights these are.

    Raises:
        InputError: as ``load``.
    """
    return _digest(*load(path))


def save_video_model(
    path: Path | str,
    model: ActionFreeVideoModel,
    metadata: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Save the weights of a video model for inference; ``torch.float16`` halves the file.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    tensors = {name: weight.to(dtype) for name, weight in model.state_dict().items()}
    save(path, tensors, {**metadata, "kind": "video_model", "size": asdict(model.size)})


def load_video_model(path: Path | str, size: ModelSize | None = None) -> ActionFreeVideoModel:
    """Load a video model in fp32 on the CPU, in evaluation mode.

    Args:
        path: a file written by ``save_video_model``.
        size: the sizes that are wanted; None takes whatever the file holds.

    Raises:
        InputError: when the file is missing, damaged, no video model, or one of other sizes.
    """
    tensors, metadata = load(path)
    if metadata.get("kind") != "video_model":
        raise InputError(
            f"{path} is a {metadata.get('kind', 'file')!r}, not a video model: "
            "pass the model.safetensors of a pre-training run."
        )
    stored = ModelSize(**metadata["size"])
    if size is not None and size != stored:
        raise InputError(
            f"{path} holds a model of other sizes ({describe(stored, size)}) than asked for "
            f"({describe(size, stored)}): pass the sizes of the file, or choose another file."
        )
    model = ActionFreeVideoModel(stored)
    load_weights(model, tensors, path)
    return model.eval()


def load_weights(model: torch.nn.Module, tensors: dict[str, Tensor], path: Path | str) -> None:
    """Copy ``tensors`` into ``model``; ``path`` is only for the message.

    Raises:
        InputError: when names or shapes do not fit the model.
    """
    own = model.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        found = tuple(tensors[name].shape) if name in tensors else "no tensor"
        wanted = tuple(own[name].shape) if name in own else "no tensor"
        if found != wanted:
            raise InputError(
                f"{path} does not fit this model: {name!r} has {found} in the file and {wanted} in "
                "the model; use the sizes that the file was trained with, or choose another file."
            )
    model.load_state_dict(tensors)


def check_resumable(
    path: Path, metadata: dict[str, Any], kind: str, settings: dict[str, Any], steps: int
) -> None:
    """See that the checkpoint at ``path`` is one to go on from, up to ``steps`` steps.

    Raises:
        InputError: when it is of another kind, of other settings, or beyond ``steps`` already.
    """
    if metadata.get("kind") != kind:
        raise InputError(
            f"{path} is no checkpoint to resume (a {metadata.get('kind', 'file')!r}): "
            "move it away, or choose another folder."
        )
    if (before := metadata["settings"]) != settings:
        raise InputError(
            f"{path} was trained with other settings ({differences(before, settings)}): "
            "give the same ones to resume it, or another folder to start anew."
        )
    if metadata["step"] > steps:
        raise InputError(
            f"{path} is at step {metadata['step']} already, beyond the {steps} asked for: "
            "ask for more steps, or choose another folder."
        )


def describe(settings: ModelSize, other: ModelSize) -> str:
    """The fields of ``settings`` that differ from ``other``, as one phrase."""
    theirs = asdict(other)
    return ", ".join(f"{k}={v}" for k, v in asdict(settings).items() if v != theirs[k])


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Where two nested settings differ, as ``name: this there, that now``."""

    def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        items: dict[str, Any] = {}
        for key, value in settings.items():
            items |= (
                flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
            )
        return items

    old, new = flat(before), flat(now)
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    return "; ".join(f"{k}: {old.get(k)} there, {new.get(k)} now" for k in changed)


def provenance(command: str, *, seed: int, steps: int) -> dict[str, Any]:
    """How a model was made, for its metadata: the command, seed, steps and library versions."""
    versions = {
        "apv_edu": apv_edu.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    return {"command": command, "seed": seed, "steps": steps, "versions": versions}


def _digest(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
