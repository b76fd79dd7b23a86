"""Read the authors' released checkpoints: pickled arrays, read without Python's pickle.

Whoever unpickles a file runs what it asks for. This reader knows only the instructions that put
NumPy arrays into a tuple, takes their names literally and calls none: what else a file asks for is
refused by name.
"""

import hashlib
import math
import pickletools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apv_edu.checkpoint import provenance, save_video_model
from apv_edu.config import ModelSize
from apv_edu.errors import InputError
from apv_edu.nets.vision import DECODER_KERNELS
from apv_edu.official import load_official, official_shapes
from apv_edu.video_model import ActionFreeVideoModel

PARTS = ("encoder", "rssm", "decoder")
MAX_BYTES = 2**30
"""Largest file that is read: twenty times the paper's largest."""

# What arrays ask for, of old and new NumPy; `encode` is how old protocols write bytes.
_GLOBALS = {
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "numpy.core.multiarray._reconstruct": "reconstruct",
    "numpy._core.multiarray._reconstruct": "reconstruct",
    "numpy.core.numeric._frombuffer": "frombuffer",
    "numpy._core.numeric._frombuffer": "frombuffer",
    "_codecs.encode": "encode",
}
_NUMBERS = re.compile(r"[biu][1248]|f[248]")  # booleans, whole numbers and floats
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERAL = re.compile(r"(SHORT_)?BIN(BYTES|UNICODE)8?|BYTEARRAY8|BININT[12]?|INT|LONG[14]?|UNICODE")
_MARK = object()
_STEPS = 100_000
"""Most instructions of a file, against those that only pile things up; an array takes thirty."""
_AGAIN = "copy or download it again"
_WANTED = "pass the folder of one official pre-training run"


@dataclass(frozen=True)
class _Global:
    """A name that the file may mention; nothing stands behind it."""

    name: str


@dataclass
class _Dtype:
    """A dtype, first without its byte order."""

    code: str
    dtype: np.dtype | None = None


@dataclass
class _Array:
    """An array, first without its numbers."""

    values: np.ndarray | None = None


class _Forbidden(Exception):
    """What a file asked for."""


def read_arrays(path: Path | str) -> list[np.ndarray]:
    """The arrays of a pickled tuple or list of numeric NumPy arrays; nothing in it is executed.

    The arrays are read-only views of the file's bytes, so no file unfolds to more than its size.

    Raises:
        InputError: if the file is missing, damaged or too large, asks for anything but numeric
            arrays, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}: check the name of the checkpoint's folder.")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES} bytes: no checkpoint is so large.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}): check its permissions.") from error
    try:
        result = _interpret(data)
    except _Forbidden as error:
        raise InputError(
            f"{path} asks for {error}, which no array needs: it is refused and nothing of it was "
            "run; get the file from its authors again."
        ) from None
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        reason = str(error)[:100]
        raise InputError(
            f"{path} is no pickle of arrays, or truncated or damaged ({reason}): {_AGAIN}."
        ) from error
    items = result if isinstance(result, tuple | list) else [result]
    arrays = [item.values for item in items if isinstance(item, _Array) and item.values is not None]
    if items is not result or len(arrays) != len(items):
        raise InputError(
            f"{path} holds something else than a tuple of arrays: pass a file that the official "
            "code saved, such as rssm_variables.pkl."
        )
    return arrays


def _interpret(data: bytes) -> Any:
    """What the pickle ``data`` describes: tuples, lists, plain values, and placeholders."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    spare = len(data)  # bytes that text may still be turned into: no more than the file has
    argument: Any
    for step, (code, argument, _) in enumerate(pickletools.genops(data)):
        if step == _STEPS:
            raise ValueError(f"it has more than {_STEPS} instructions")
        match code.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                stack.append(_MARK)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if _LITERAL.fullmatch(name):
                stack.append(argument)
            case "EMPTY_LIST":
                stack.append([])
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack.append(tuple([stack.pop() for _ in range(int(name[-1]))][::-1]))
            case "TUPLE" | "LIST" as name:
                items = _pop_to_mark(stack)
                stack.append(tuple(items) if name == "TUPLE" else items)
            case "APPEND" | "APPENDS" as name:
                items = [stack.pop()] if name == "APPEND" else _pop_to_mark(stack)
                if not isinstance(stack[-1], list):
                    raise _Forbidden("an item of what is no list")
                stack[-1].extend(items)
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_global(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if not (isinstance(module, str) and isinstance(name, str)):
                    raise _Forbidden("a global whose name is no text")
                stack.append(_global(f"{module}.{name}"))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                made = _reduce(function, arguments)
                spare -= len(made) if isinstance(made, bytes) else 0
                if spare < 0:
                    raise ValueError("it unfolds to more than its size")
                stack.append(made)
            case "BUILD":
                state = stack.pop()
                _build(stack[-1], state)
            case "INST":
                raise _Forbidden(_shown(argument.replace(" ", ".", 1)))
            case name:
                raise _Forbidden(f"pickle's {name} {_shown(argument)}".rstrip())
    raise ValueError("it has no end")


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    """The items above the last mark, which are taken off with it."""
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _shown(name: object) -> str:
    """A name from a file as one short printable word."""
    return repr(name)[:100] if name is not None else ""


def _global(name: str) -> _Global:
    if name not in _GLOBALS:
        raise _Forbidden(_shown(name))
    return _Global(_GLOBALS[name])


def _reduce(function: object, arguments: object) -> _Array | _Dtype | bytes:
    """What NumPy would make of a call, as a placeholder."""
    if not (isinstance(function, _Global) and isinstance(arguments, tuple)):
        raise _Forbidden(f"a call of {_shown(type(function).__name__)}")
    match function.name, arguments:
        case "reconstruct", (_Global("ndarray"), (0,), bytes()):
            return _Array()
        case "dtype", (str(code), *_) if _NUMBERS.fullmatch(code):
            return _Dtype(code)
        case "dtype", (str(code), *_):
            raise _Forbidden(f"the dtype {_shown(code)}")
        case "frombuffer", (bytes() | bytearray() as raw, _Dtype() as kind, tuple(shape), str(o)):
            return _Array(_array(raw, kind, shape, o == "F"))
        case "encode", (str(text), "latin1" | "latin-1"):
            return text.encode("latin-1")
    raise _Forbidden(f"a call of {function.name!r} with other arguments than NumPy's")


def _build(blank: object, state: object) -> None:
    """Complete a placeholder as NumPy's ``__setstate__`` would, with plain numbers only."""
    match blank, state:
        case _Dtype(code, None), (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
            blank.dtype = np.dtype(order + code)
        case _Array(None), (1, tuple(shape), _Dtype() as kind, bool(f), bytes() as raw):
            blank.values = _array(raw, kind, shape, f)
        case _:
            raise _Forbidden(f"an odd state of {_shown(type(blank).__name__)}")


def _array(raw: bytes | bytearray, kind: _Dtype, shape: tuple[Any, ...], f: bool) -> np.ndarray:
    plain = len(shape) < 10 and all(type(side) is int and 0 <= side < MAX_BYTES for side in shape)
    if kind.dtype is None or not plain:
        raise _Forbidden("an array of an odd shape or dtype")
    if math.prod(shape) * kind.dtype.itemsize != len(raw):
        raise ValueError(f"an array of shape {shape} has {len(raw)} bytes")
    values = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if f else "C")
    values.flags.writeable = False
    return values


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
            raise InputError(f"{file} has numbers that are not finite in {name}: {_AGAIN}.")
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
