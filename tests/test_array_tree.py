"""Dictionaries of arrays are read from pickles, and nothing that they ask for is run."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from test_official_files import ARRAYS, MALICIOUS, OPCODES, Call, one_sentence, touch, written

from apv_edu import pickled_arrays
from apv_edu.errors import InputError
from apv_edu.pickled_arrays import read_array_tree, read_arrays

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def refused(path: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_array_tree(path)
    one_sentence(str(caught.value), str(path), *words)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_dictionaries_of_every_protocol(tmp_path, protocol):
    rng = np.random.default_rng(0)
    one = rng.normal(size=(8, 25))
    tree = {
        "APV": {"metaworld_reach": one, "metaworld_door_lock": np.float32(one).T},
        "Zwölf": {"only": ARRAYS[2]},
        "none": {},
        "many": {f"task {k}": np.full(2, k) for k in range(1100)},  # more than one SETITEMS
    }
    found = read_array_tree(written(tmp_path / "a.pkl", pickle.dumps(tree, protocol)))
    assert {name: list(part) for name, part in found.items()} == {
        name: list(part) for name, part in tree.items()
    }
    for name, part in tree.items():
        for task, wanted in part.items():
            array = found[name][task]
            assert isinstance(array, np.ndarray) and array.dtype == wanted.dtype
            np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_dictionaries_run_nothing(tmp_path, name, protocol):
    mark = tmp_path / "ran"
    data = pickle.dumps({"APV": {"task": MALICIOUS[name](mark)}}, protocol)
    refused(written(tmp_path / "a.pkl", data), "asks for", "nothing of it was run")
    assert not mark.exists()


@pytest.mark.parametrize("name", OPCODES)
def test_every_way_of_a_call_in_a_dictionary_runs_nothing(tmp_path, name):
    mark = tmp_path / "ran"
    data = b"}Va\n" + OPCODES[name](mark)[:-1] + b"s."
    if data[3:7].startswith(b"\n\x80"):
        data = b"\x80\x04}Va\n" + OPCODES[name](mark)[2:-1] + b"s."
    refused(written(tmp_path / "a.pkl", data), "asks for", "nothing of it was run")
    assert not mark.exists()
    pickle.loads(data)  # it would have run
    assert mark.exists()


def test_a_call_as_a_key_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    data = b"}" + pickle.dumps(Call(exec, f"open({str(mark)!r}, 'w')"), 0)[:-1] + b"Va\ns."
    refused(written(tmp_path / "a.pkl", data), "asks for", "exec")
    assert not mark.exists()
    assert touch(mark)
    pickle.loads(data)
    assert mark.exists()


ODD = {
    "a number as a key": (pickle.dumps({3: ARRAYS[0]}), "a dictionary whose key is no text"),
    "bytes as a key": (pickle.dumps({b"a": ARRAYS[0]}), "a dictionary whose key is no text"),
    "half an item": (b"(Va\nVb\nVc\nd.", "truncated or damaged"),
    "an item of a list": (b"]Va\nVb\ns.", "an item of what is no dictionary"),
    "items of an array": (b"}Va\n" + pickle.dumps(ARRAYS[0], 2)[2:-1] + b"(Vb\nVc\nus.", "no dict"),
    "a mark as a value": (b"}Va\n(s.", "something else than dictionaries"),
    "in itself": (b"}p1\nVa\ng1\ns.", "something else than dictionaries"),
    "twice": (b"}Va\n}p1\nsVb\ng1\ns.", "something else than dictionaries"),
    "deep": (200 * b"}Va\n" + b"}" + 200 * b"s" + b".", "something else than dictionaries"),
    "a blank array": (
        b"}Va\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btRs.",
        "something else than dictionaries",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_dictionaries(tmp_path, name):
    data, word = ODD[name]
    refused(written(tmp_path / "a.pkl", data), word)


@pytest.mark.parametrize("value", [3, "text", ARRAYS, {"a": 3}, {"a": {"b": [ARRAYS[0]]}}])
def test_pickles_of_something_else(tmp_path, value):
    data = pickle.dumps(value, 2)
    refused(written(tmp_path / "a.pkl", data), "something else", "metaworld_raw_data.pkl")


def test_a_tree_is_no_larger_than_its_file(tmp_path, monkeypatch):
    """Dictionaries that hold one another twice would grow without end."""
    layer = b"".join(b"}p%d\nVa\ng%d\nsVb\ng%d\ns" % (k + 1, k, k) for k in range(60))
    refused(written(tmp_path / "a.pkl", b"}p0\n" + layer + b"."), "something else")
    path = written(tmp_path / "a.pkl", pickle.dumps({"a": ARRAYS[0]}))
    for name, limit, word in (("_STEPS", 5, "more than 5 instructions"), ("MAX_BYTES", 9, "9 b")):
        with monkeypatch.context() as patch:
            patch.setattr(pickled_arrays, name, limit)
            refused(path, word)
    refused(tmp_path / "b.pkl", "There is no file", "check the name")


def test_no_damage_does_more_than_refuse(tmp_path):
    rng, refusals = np.random.default_rng(0), 0
    tree = {"APV": {"a": ARRAYS[0], "b": ARRAYS[1]}, "other": {}}
    for protocol in (0, 2, 4, 5):
        whole = np.frombuffer(pickle.dumps(tree, protocol), np.uint8)
        for _ in range(200):
            data = whole.copy()
            where = rng.integers(len(data), size=rng.integers(1, 4))
            data[where] = rng.integers(256, size=len(where))
            path = written(tmp_path / "a.pkl", data.tobytes())
            try:
                read_array_tree(path)
            except InputError as error:
                one_sentence(str(error), str(path))
                refusals += 1
    assert refusals > 200


def test_read_arrays_still_takes_no_dictionary(tmp_path):
    path = written(tmp_path / "a.pkl", pickle.dumps(({"a": ARRAYS[0]},), 0))
    with pytest.raises(InputError, match="asks for pickle's DICT"):
        read_arrays(path)
