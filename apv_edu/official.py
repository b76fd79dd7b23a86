"""The official TensorFlow model's variables under our names and in our layouts, and back.

Official names are those of its modules ("rssm/gru/dense/kernel"). Dense kernels are [in, out],
convolutions [height, width, in, out], transposed convolutions [height, width, out, in].
"""

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from apv_edu.errors import InputError

ACTION_INPUTS = 50
"""Width of the official action input: real actions first, then zeros."""
ACTION_KERNEL = "rssm/img_in/kernel"
"""End of the names of the kernels that see it."""

# Our modules as patterns, and the official ones.
NAMES = (
    (r"encoder\.convs\.(\d+)", r"encoder/conv\1"),
    (r"decoder\.dense", r"decoder/convin"),
    (r"decoder\.patch", r"decoder/conv0"),
    (r"decoder\.convs\.0", r"decoder/conv1"),
    (r"decoder\.convs\.1", r"decoder/conv2"),
    (r"decoder\.convs\.2", r"decoder/conv3"),
    (r"rssm\.gru\.gates", r"rssm/gru/dense"),
    (r"rssm\.gru\.norm", r"rssm/gru/norm"),
    (r"rssm\.gru_input", r"rssm/img_in"),
    (r"rssm\.prior_hidden", r"rssm/img_out_0"),
    (r"rssm\.prior_logits", r"rssm/img_dist_0"),
    (r"rssm\.posterior_hidden", r"rssm/obs_out"),
    (r"rssm\.posterior_logits", r"rssm/obs_dist"),
    (r"(reward|actor|critic|target_critic)\.layers\.(\d+)", r"\1/dense\2"),
    (r"(reward|actor|critic|target_critic)\.out", r"\1/out/out"),
    (r"actor\.std", r"actor/out/std"),
)


def official_name(parameter: str) -> str:
    """The official name of one of our parameters, such as "rssm.gru_input.weight".

    Raises:
        InputError: if the official models have no such variable.

    Source: the module names in the official files ``common/nets.py`` and ``agent.py``.
    """
    if parameter.startswith("video_rssm."):  # the agent's action-free model is built alike
        return f"af_{official_name(parameter.removeprefix('video_'))}"
    module, _, leaf = parameter.rpartition(".")
    leaves = {"weight": "kernel", "bias": "bias"}
    if module.endswith("norm"):
        leaves = {"weight": "gamma", "bias": "beta"}
    for pattern, name in NAMES:
        if (match := re.fullmatch(pattern, module)) and leaf in leaves:
            return f"{match.expand(name)}/{leaves[leaf]}"
    raise InputError(
        f"{parameter!r} has no official counterpart: pass a parameter of a video model, of a world "
        "model, or of an agent's actor or critic, by its full name."
    )


def axes(name: str, dimensions: int) -> tuple[int, ...]:
    """Which of our array's axes the axes of the official array ``name`` are.

    Source: TensorFlow's layouts of kernels, as named at the top of this file.
    """
    if dimensions == 2:
        return (1, 0)
    if dimensions == 4 and name != "decoder/conv0/kernel":  # the patch has the official layout
        return (2, 3, 1, 0)
    return tuple(range(dimensions))


def official_shapes(model: nn.Module, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """The official name and shape of every parameter of ``model``, which may be on "meta".

    Args:
        model: as for ``load_official``.
        prefix: as for ``load_official``.

    Raises:
        InputError: if the official models have no such variable.

    Source: official file ``common/nets.py``.
    """
    tensors = dict(_named(model.named_parameters(), prefix))
    shapes = {}
    for parameter, tensor in tensors.items():
        name = official_name(parameter)
        shape = [tensor.shape[axis] for axis in axes(name, tensor.ndim)]
        if name.endswith(ACTION_KERNEL):
            shape[0] = _latent(parameter, tensors) + ACTION_INPUTS
        shapes[name] = tuple(shape)
    return shapes


def to_official(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, np.ndarray]:
    """Parameters (or their gradients) by our names, as official arrays by official names.

    The rows of the action input that our models leave out come back as zeros.

    Args:
        tensors: by the names of a video model's or a world model's parameters.
        prefix: what to put before each name, such as "actor" for an actor's own parameters.

    Raises:
        InputError: for a name that the official models have no variable for.

    Source: official file ``common/nets.py``; the action input is that of ``EnsembleRSSM``.
    """
    tensors = dict(_named(tensors.items(), prefix))
    arrays = {}
    for parameter, tensor in tensors.items():
        name = official_name(parameter)
        array = tensor.detach().cpu().numpy()
        array = np.ascontiguousarray(array.transpose(axes(name, array.ndim)))
        if name.endswith(ACTION_KERNEL):
            unused = _latent(parameter, tensors) + ACTION_INPUTS - len(array)
            array = np.pad(array, ((0, unused), (0, 0)))
        arrays[name] = array
    return arrays


@torch.no_grad()
def load_official(model: nn.Module, variables: Mapping[str, np.ndarray], prefix: str = "") -> None:
    """Copy official ``variables`` (by official name) into ``model``, every parameter of it.

    Args:
        model: a video model, a world model, or, with a prefix, a single module.
        variables: all of the model's, and others if there are more.
        prefix: what the module is called in the official agent, such as "actor".

    Raises:
        InputError: if a variable is missing or belongs to a model of another size.

    Source: official file ``common/nets.py``, the inverse of ``to_official``.
    """
    shapes = official_shapes(model, prefix)
    for name, shape in shapes.items():
        if name not in variables:
            raise InputError(f"The official variable {name} is missing: pass all of a model's.")
        if np.shape(variables[name]) != shape:
            raise InputError(
                f"The official variable {name} has shape {np.shape(variables[name])} and the model "
                f"wants {shape}: build the model with the same sizes."
            )
    for name, tensor in zip(shapes, model.parameters(), strict=True):
        array = np.asarray(variables[name])
        array = array.transpose(np.argsort(axes(name, array.ndim)))
        if name.endswith(ACTION_KERNEL):
            array = array[:, : tensor.shape[1]]
        tensor.copy_(torch.tensor(array))


def _named(tensors: Iterable[tuple[str, Tensor]], prefix: str) -> Iterator[tuple[str, Tensor]]:
    return ((f"{prefix}.{name}" if prefix else name, tensor) for name, tensor in tensors)


def _latent(parameter: str, tensors: Mapping[str, Tensor]) -> int:
    """Width of the latent state that the action is joined to: what the prior puts out."""
    prior = parameter.replace("gru_input.weight", "prior_logits.weight")
    if prior not in tensors:
        raise InputError(f"{parameter!r} alone does not tell its latents: pass {prior!r} with it.")
    return tensors[prior].shape[0]
