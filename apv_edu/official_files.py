"""The authors' released checkpoints as models of ours; nothing in their files is executed."""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from apv_edu.checkpoint import provenance, save_video_model
from apv_edu.config import ModelSize
from apv_edu.errors import InputError
from apv_edu.nets.vision import DECODER_KERNELS
from apv_edu.official import load_official, official_shapes
from apv_edu.pickled_arrays import AGAIN, read_arrays
from apv_edu.video_model import ActionFreeVideoModel

PARTS = ("encoder", "rssm", "decoder")
_WANTED = "pass the folder of one official pre-training run"


def variable_order(names: Iterable[str]) -> list[str]:
    """Official names in the order in which the official code saves them.

    Layers come in alphabetical order, and in a layer the kernel before the bias, gamma before beta.

    Source: TensorFlow's ``tf.Module.variables``, which ``Module.save`` in the official file
    ``common/tfutils.py`` writes.
    """

    def key(name: str) -> tuple[list[str], bool]:
        *module, leaf = name.split("/")
        return module, leaf in ("bias", "beta")

    return sorted(names, key=key)


def load_official_folder(folder: Path | str, classes: int | None = None) -> ActionFreeVideoModel:
    """The action-free model in a folder of the authors' pre-training, on the CPU, for inference.

    Args:
        folder: holds ``encoder_variables.pkl``, ``rssm_variables.pkl``, ``decoder_variables.pkl``.
        classes: classes of each latent variable. The files tell only their product with the number
            of variables; None takes both to be its square root (1024 is 32 x 32), as in the
            official settings.

    Raises:
        InputError: if a file is missing, damaged or malicious, or the files are not those of one
            pre-trained model.

    Source: official files ``common/tfutils.py``, ``Module.save``, and ``agent.py``.
    """
    folder = Path(folder)
    arrays = {part: read_arrays(_file(folder, part)) for part in PARTS}
    layers = {len(kernels): size for size, kernels in DECODER_KERNELS.items()}
    image_size = layers.get((len(arrays["encoder"]) + 1) // 2, 64)  # two arrays a layer
    variables = _by_name(folder, arrays, official_shapes(_unfilled(ModelSize(image_size))))
    model = _unfilled(_size(folder, variables, image_size, classes))
    for name, shape in official_shapes(model).items():
        found, file = variables[name], _file(folder, name.partition("/")[0])
        if found.shape != shape or not np.issubdtype(found.dtype, np.floating):
            raise InputError(
                f"{file} has {found.dtype} {found.shape} for {name} where a pre-trained model of "
                f"its size has float32 {shape}: {_WANTED}."
            )
        if not np.isfinite(found).all():
            raise InputError(f"{file} has numbers that are not finite in {name}: {AGAIN}.")
    model = model.to_empty(device="cpu")
    load_official(model, {name: array.astype(np.float32) for name, array in variables.items()})
    return model.eval()


def import_official(
    folder: Path | str, out: Path | str, command: str, classes: int | None = None
) -> ActionFreeVideoModel:
    """Write the model of ``load_official_folder`` as a ``model.safetensors`` at ``out``.

    Its metadata names the three files by their SHA-256. Those do not tell how they were made: the
    seed and the number of steps are None.

    Raises:
        InputError: as ``load_official_folder``, and when ``out`` cannot be written.
    """
    model = load_official_folder(folder, classes)
    files = [_file(Path(folder), part) for part in PARTS]
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    unknown = {"seed": None, "steps": None}
    story = provenance(command, seed=0, steps=0) | unknown | {"imported": digests}
    save_video_model(out, model, story)
    return model


def _file(folder: Path, part: str) -> Path:
    return folder / f"{part}_variables.pkl"


def _unfilled(size: ModelSize) -> ActionFreeVideoModel:
    """A model of shapes alone, which takes no memory, however absurd its size."""
    with torch.device("meta"):
        return ActionFreeVideoModel(size)


def _by_name(
    folder: Path, arrays: dict[str, list[np.ndarray]], names: Iterable[str]
) -> dict[str, np.ndarray]:
    """The arrays of the files under the official ``names``."""
    order = variable_order(names)
    variables = {}
    for part in PARTS:
        wanted = [name for name in order if name.startswith(f"{part}/")]
        if len(arrays[part]) != len(wanted):
            raise InputError(
                f"{_file(folder, part)} has {len(arrays[part])} arrays instead of {len(wanted)}: "
                f"{_WANTED}."
            )
        variables |= dict(zip(wanted, arrays[part], strict=True))
    return variables


def _size(
    folder: Path, variables: dict[str, np.ndarray], image_size: int, classes: int | None
) -> ModelSize:
    """The sizes that some of the biases tell."""
    names = "encoder/conv0", "rssm/gru/dense", "rssm/img_in", "rssm/img_dist_0"
    depth, gates, hidden, latent = sizes = [variables[f"{name}/bias"].size for name in names]
    if min(sizes) == 0 or gates < 3:
        raise InputError(f"{folder} holds empty arrays: {_WANTED}.")
    if classes is None and math.isqrt(latent) ** 2 == latent:
        classes = math.isqrt(latent)
    if classes is None or classes < 1 or latent % classes:
        raise InputError(
            f"{folder} has latents of {latent} numbers, which are not {classes or 'as many'} "
            "classes each of some variables: give the number of classes that it was trained with."
        )
    return ModelSize(image_size, depth, gates // 3, hidden, latent // classes, classes)
