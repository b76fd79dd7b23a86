"""The official TensorFlow model's variables under our names and in our layouts, and back.

Official names are those of its modules ("rssm/gru/dense/kernel"). Dense kernels are [in, out],
convolutions [height, width, in, out], transposed convolutions [height, width, out, in].
"""

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from apv_edu.errors import InputError

ACTION_INPUTS = 50
"""Width of the official action input: real actions first, then zeros."""

# Our module names as patterns, and the official ones. {} is the layer's number.
NAMES = (
    (r"encoder\.convs\.(\d+)", "encoder/conv{}", 0),
    (r"decoder\.dense", "decoder/convin", 0),
    (r"decoder\.patch", "decoder/conv0", 0),
    (r"decoder\.convs\.(\d+)", "decoder/conv{}", 1),  # the patch is the official layer 0
    (r"rssm\.gru\.gates", "rssm/gru/dense", 0),
    (r"rssm\.gru\.norm", "rssm/gru/norm", 0),
    (r"rssm\.gru_input", "rssm/img_in", 0),
    (r"rssm\.prior_hidden", "rssm/img_out_0", 0),
    (r"rssm\.prior_logits", "rssm/img_dist_0", 0),
    (r"rssm\.posterior_hidden", "rssm/obs_out", 0),
    (r"rssm\.posterior_logits", "rssm/obs_dist", 0),
)


def official_name(parameter: str) -> str:
    """The official name of one of our parameters, such as "rssm.gru_input.weight".

    Raises:
        InputError: if the official model has no such variable.

    Source: the module names in the official files ``common/nets.py`` and ``agent.py``.
    """
    module, _, leaf = parameter.rpartition(".")
    for pattern, name, offset in NAMES:
        if match := re.fullmatch(pattern, module):
            name = name.format(*(int(number) + offset for number in match.groups()))
            if name.endswith("norm"):
                return f"{name}/{ {'weight': 'gamma', 'bias': 'beta'}[leaf] }"
            return f"{name}/{ {'weight': 'kernel', 'bias': 'bias'}[leaf] }"
    raise InputError(f"{parameter!r} has no official counterpart: pass a video model's parameter.")


def axes(name: str, dimensions: int) -> tuple[int, ...]:
    """Which of our array's axes the axes of the official array ``name`` are.

    Source: TensorFlow's layouts of kernels, as named at the top of this file.
    """
    if dimensions == 2:
        return (1, 0)
    if dimensions == 4 and name != "decoder/conv0/kernel":  # the patch has the official layout
        return (2, 3, 1, 0)
    return tuple(range(dimensions))


def to_official(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Parameters (or their gradients) by our names, as official arrays by official names.

    The rows of the action input, which our action-free model leaves out, come back as zeros.

    Raises:
        InputError: for a name that the official model has no variable for.

    Source: official file ``common/nets.py``; the action input is that of ``EnsembleRSSM``.
    """
    arrays = {}
    for parameter, tensor in tensors.items():
        name = official_name(parameter)
        array = tensor.detach().cpu().numpy()
        array = np.ascontiguousarray(array.transpose(axes(name, array.ndim)))
        if name == "rssm/img_in/kernel":
            array = np.pad(array, ((0, ACTION_INPUTS), (0, 0)))
        arrays[name] = array
    return arrays


@torch.no_grad()
def load_official(model: nn.Module, variables: Mapping[str, np.ndarray]) -> None:
    """Copy official ``variables`` (by official name) into ``model``, every parameter of it.

    Raises:
        InputError: if a variable is missing or belongs to a model of another size.

    Source: official file ``common/nets.py``, the inverse of ``to_official``.
    """
    for parameter, tensor in model.named_parameters():
        name = official_name(parameter)
        if name not in variables:
            raise InputError(f"The official variable {name} is missing: pass all of a model's.")
        array = np.asarray(variables[name])
        if name == "rssm/img_in/kernel":
            array = array[: tensor.shape[1]]
        array = array.transpose(np.argsort(axes(name, array.ndim)))
        if array.shape != tensor.shape:
            raise InputError(
                f"The official variable {name} has shape {np.shape(variables[name])}, which does "
                f"not fit {parameter} {tuple(tensor.shape)}: build the model with the same sizes."
            )
        tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))
