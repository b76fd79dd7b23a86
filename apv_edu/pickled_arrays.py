"""Read pickled arrays without Python's pickle.

Whoever unpickles a file runs what it asks for. This reader knows only the instructions that put
NumPy arrays into a tuple, or into dictionaries, takes their names literally and calls none: what
else a file asks for is refused by name.
"""

import math
import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apv_edu.errors import InputError

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
MAX_DEPTH = 8
"""Most dictionaries inside each other."""
AGAIN = "copy or download it again"


Tree = dict[str, "Tree | np.ndarray"]
"""Arrays and further trees by name."""


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
    result = _read(path, dictionaries=False)
    items = result if isinstance(result, tuple | list) else [result]
    arrays = [item.values for item in items if isinstance(item, _Array) and item.values is not None]
    if items is not result or len(arrays) != len(items):
        raise InputError(
            f"{path} holds something else than a tuple of arrays: pass a file that the official "
            "code saved, such as rssm_variables.pkl."
        )
    return arrays


def read_array_tree(path: Path | str) -> Tree:
    """The arrays of a pickled dictionary of arrays and of such dictionaries, with texts as keys.

    What ``read_arrays`` promises holds here too. A dictionary that is in the tree twice, or that
    holds itself, is refused: the tree is no larger than the file.

    Raises:
        InputError: as in ``read_arrays``.
    """
    path = Path(path)
    result = _read(path, dictionaries=True)
    tree = _tree(result, set()) if isinstance(result, dict) else None
    if tree is None:
        raise InputError(
            f"{path} holds something else than dictionaries of arrays: pass a file of raw results, "
            "such as metaworld_raw_data.pkl."
        )
    return tree


def _tree(found: dict[str, Any], seen: set[int], depth: int = 1) -> Tree | None:
    """``found`` with arrays instead of placeholders; None if it is no tree of arrays."""
    if id(found) in seen or depth > MAX_DEPTH:
        return None
    seen.add(id(found))
    tree: Tree = {}
    for key, value in found.items():
        leaf = value.values if isinstance(value, _Array) else None
        branch = _tree(value, seen, depth + 1) if isinstance(value, dict) else leaf
        if branch is None:
            return None
        tree[key] = branch
    return tree


def _read(path: Path, *, dictionaries: bool) -> Any:
    """What ``_interpret`` makes of a file, or an ``InputError`` that says why it cannot."""
    if not path.is_file():
        raise InputError(f"There is no file {path}: check the name of the file and its folder.")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES} bytes: no such file is so large.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}): check its permissions.") from error
    try:
        return _interpret(data, dictionaries)
    except _Forbidden as error:
        raise InputError(
            f"{path} asks for {error}, which no array needs: it is refused and nothing of it was "
            "run; get the file from its authors again."
        ) from None
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        reason = str(error)[:100]
        raise InputError(
            f"{path} is no pickle of arrays, or truncated or damaged ({reason}): {AGAIN}."
        ) from error


def _interpret(data: bytes, dictionaries: bool = False) -> Any:
    """What the pickle ``data`` describes: tuples, lists, plain values, and placeholders.

    Dictionaries are among them only where they are asked for.
    """
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
            case "EMPTY_DICT" if dictionaries:
                stack.append({})
            case "DICT" if dictionaries:
                stack.append(_pairs(_pop_to_mark(stack)))
            case "SETITEM" | "SETITEMS" as name if dictionaries:
                one = name == "SETITEM"
                items = [stack.pop(), stack.pop()][::-1] if one else _pop_to_mark(stack)
                if not isinstance(stack[-1], dict):
                    raise _Forbidden("an item of what is no dictionary")
                stack[-1].update(_pairs(items))
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


def _pairs(items: list[Any]) -> dict[str, Any]:
    """A dictionary of keys and values in turn."""
    if not all(isinstance(key, str) for key in items[::2]):
        raise _Forbidden("a dictionary whose key is no text")
    return dict(zip(items[::2], items[1::2], strict=True))


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
