"""The authors' files: their arrays are read, and nothing that they ask for is run."""

import copyreg
import hashlib
import importlib
import json
import os
import pickle
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from apv_edu import official_files, pickled_arrays
from apv_edu.checkpoint import load, load_video_model
from apv_edu.config import PRETRAIN, ModelSize
from apv_edu.data.readers import read_video
from apv_edu.data.video import pack_videos
from apv_edu.errors import InputError
from apv_edu.official import official_shapes, to_official
from apv_edu.official_files import (
    PARTS,
    import_official,
    load_official_folder,
    variable_order,
)
from apv_edu.pickled_arrays import read_arrays
from apv_edu.video_model import ActionFreeVideoModel

SIZE = ModelSize(depth=2, deter=8, hidden=6, stoch=3, classes=3)
ARRAYS = (
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(3, 2)),
    np.array(7, ">i2"),
    np.array([True, False]),
)


def refused(path: Path, *words: str) -> None:
    """Reading ``path`` fails with one sentence that names it and holds ``words``."""
    with pytest.raises(InputError) as caught:
        read_arrays(path)
    one_sentence(str(caught.value), str(path), *words)


def one_sentence(message: str, *words: str) -> None:
    assert "\n" not in message and message.endswith(".") and ": " in message, message
    for word in words:
        assert word in message, (word, message)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("container", [tuple, list])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol(tmp_path, protocol, container):
    path = written(tmp_path / "a.pkl", pickle.dumps(container(ARRAYS), protocol))
    found = read_arrays(path)
    assert len(found) == len(ARRAYS)
    for array, wanted in zip(found, ARRAYS, strict=True):
        assert array.dtype == wanted.dtype
        np.testing.assert_array_equal(array, wanted)


def test_arrays_of_newer_and_older_numpy(tmp_path):
    data = pickle.dumps(ARRAYS[:1], 2)
    new, old = b"numpy._core.multiarray", b"numpy.core.multiarray"
    assert (new in data) or (old in data)
    for module in (new, old):
        path = written(tmp_path / "a.pkl", data.replace(new, old).replace(old, module))
        np.testing.assert_array_equal(read_arrays(path)[0], ARRAYS[0])


class Call:
    """Pickled as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


def touch(path: Path) -> str:
    return f"touch {path}"


MALICIOUS = {
    "os.system": lambda mark: Call(os.system, touch(mark)),
    "builtins.eval": lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"),
    "builtins.exec": lambda mark: Call(exec, f"open({str(mark)!r}, 'w')"),
    "check_call": lambda mark: Call(subprocess.check_call, ["touch", str(mark)]),
    "importlib": lambda mark: Call(importlib.import_module, "antigravity"),
    "nested": lambda mark: (ARRAYS[0], [Call(os.system, touch(mark))]),
    "argument": lambda mark: Call(np.dtype, Call(os.system, touch(mark))),
    "object array": lambda mark: (np.array([Call(os.system, touch(mark))], object),),
    "record array": lambda mark: (np.zeros(2, [("a", "f4"), ("b", "O")]),),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", MALICIOUS)
def test_malicious_pickles_run_nothing(tmp_path, name, protocol):
    mark = tmp_path / "ran"
    data = pickle.dumps(MALICIOUS[name](mark), protocol)
    path = written(tmp_path / "a.pkl", data)
    asked = {"os.system": "posix.system", "nested": "posix.system", "argument": "posix.system"}
    word = asked.get(name, "" if "array" in name else name)
    if protocol < 3:
        word = word.replace("builtins", "__builtin__")
    refused(path, "asks for", word, "nothing of it was run")
    assert not mark.exists()
    if name not in ("importlib", "record array"):
        with suppress(TypeError):  # of what comes after
            pickle.loads(data)  # it would have run
        assert mark.exists()


def shell(mark: Path) -> bytes:
    """A protocol-0 string for the shell."""
    return f"V{touch(mark)}\n".encode()


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


class New:
    """Leaves a file behind when it is made by a pickle."""

    def __new__(cls, mark: Path, made: bool = False):
        mark.with_name("ran").touch()
        return super().__new__(cls)

    def __init__(self, mark: Path, made: bool = False):
        self.mark, self.made = mark, made
        mark.with_name("ran").unlink()

    def __getnewargs_ex__(self):
        return (self.mark,), ({"made": True} if self.made else {})


OPCODES = {
    "GLOBAL": lambda mark: b"cos\nsystem\n(" + shell(mark) + b"tR.",
    "INST": lambda mark: b"(" + shell(mark) + b"ios\nsystem\n.",
    "OBJ": lambda mark: b"(cos\nsystem\n" + shell(mark) + b"o.",
    "STACK_GLOBAL": lambda mark: (
        b"\x80\x04" + short("os") + short("system") + b"\x93(" + shell(mark) + b"tR."
    ),
    "dotted name": lambda mark: (
        b"\x80\x04" + short("pathlib") + short("os.system") + b"\x93(" + shell(mark) + b"tR."
    ),
    "NEWOBJ": lambda mark: pickle.dumps(New(mark), 2),
    "NEWOBJ_EX": lambda mark: pickle.dumps(New(mark, made=True), 4),
    "POP": lambda mark: b"cos\nsystem\n(" + shell(mark) + b"tR0).",
    "SETITEM": lambda mark: b"}V1\ncos\nsystem\n(" + shell(mark) + b"tRs.",
    "memo": lambda mark: b"cos\nsystem\np7\n0g7\n(" + shell(mark) + b"tR.",
}


@pytest.mark.parametrize("name", OPCODES)
def test_every_way_of_a_call_runs_nothing(tmp_path, name):
    mark = tmp_path / "ran"
    data = OPCODES[name](mark)
    refused(written(tmp_path / "a.pkl", data), "asks for", "nothing of it was run")
    assert not mark.exists()
    pickle.loads(data)  # it would have run
    assert mark.exists()


def test_an_extension_code_is_refused(tmp_path):
    mark = tmp_path / "ran"
    copyreg.add_extension("posix", "system", 77)
    try:
        for opcode in (b"\x82\x4d", b"\x83\x4d\x00", b"\x84\x4d\x00\x00\x00"):
            data = b"\x80\x02" + opcode + b"(" + shell(mark) + b"tR."
            refused(written(tmp_path / "a.pkl", data), "asks for pickle's EXT", "77")
            assert not mark.exists()
            pickle.loads(data)  # it would have run
            assert mark.exists()
            mark.unlink()
    finally:
        copyreg.remove_extension("posix", "system", 77)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
FLOATS = b"cnumpy\ndtype\n(V%b\nI00\nI01\ntR(I3\nV%b\nNNNI-1\nI-1\nI0\ntb"
FLOAT = FLOATS % (b"f4", b"<")


def built(shape: bytes = b"(I1\nt", dtype: bytes = FLOAT, data: bytes = bytes(4)) -> bytes:
    """A tuple of one array, by hand."""
    raw = b"C" + bytes([len(data)]) + data
    return b"(" + ARRAY + b"(I1\n" + shape + dtype + b"I00\n" + raw + b"tbt."


def test_an_array_by_hand(tmp_path):
    np.testing.assert_array_equal(read_arrays(written(tmp_path / "a.pkl", built())), [[0.0]])


ODD = {
    "persistent": (b"Psome name\n.", "PERSID 'some name'"),
    "binary persistent": (b"V1\nQ.", "BINPERSID"),
    "a new array": (b"cnumpy\nndarray\n((I9\ntt\x81.", "NEWOBJ"),
    "an array of a huge shape": (b"cnumpy\nndarray\n((I999999999\nttR.", "a call of 'ndarray'"),
    "another class": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntC\x01btR.",
        "a call of 'reconstruct' with other arguments",
    ),
    "allocation": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I999999999\ntC\x01btR.",
        "a call of 'reconstruct' with other arguments",
    ),
    "objects": (built(dtype=FLOATS % (b"O8", b"|")), "the dtype 'O8'"),
    "text": (built(dtype=FLOATS % (b"U9", b"<")), "the dtype 'U9'"),
    "records": (built(dtype=FLOAT.replace(b"NNN", b"N(V1\nt}")), "EMPTY_DICT"),
    "record names": (built(dtype=FLOAT.replace(b"NNN", b"N(V1\ntN")), "an odd state of '_Dtype'"),
    "parts": (built(dtype=FLOAT.replace(b"NNN", b"(V1\ntNN")), "an odd state of '_Dtype'"),
    "a dtype twice": (built(dtype=FLOAT + b"(I3\nV>\nNNNtb"), "an odd state of '_Dtype'"),
    "a list of objects": (built(data=b"").replace(b"C\x00", b"]"), "an odd state of '_Array'"),
    "no state": (b"(" + ARRAY + b"Nbt.", "an odd state of '_Array'"),
    "attributes": (b"cnumpy\nndarray\nN}V__call__\ncos\nsystem\ns\x86b.", "EMPTY_DICT"),
    "a changed global": (b"cnumpy\nndarray\nNb.", "an odd state of '_Global'"),
    "a changed list": (b"]Nb.", "an odd state of 'list'"),
    "a negative side": (built(shape=b"(I-1\nI-1\nt"), "an odd shape"),
    "a side that is none": (built(shape=b"(Nt"), "an odd shape"),
    "a huge side": (built(shape=b"(I0\nI9999999999\nt", data=b""), "an odd shape"),
    "a dtype without order": (built(dtype=b"cnumpy\ndtype\n(Vf4\ntR"), "an odd shape or dtype"),
    "a call of an array": (b"(" + ARRAY + b")Rt.", "a call of '_Array'"),
    "a call with a list": (b"cnumpy\ndtype\n]R.", "a call of '_Global'"),
    "another encoding": (b"c_codecs\nencode\n(Va\nVzip\ntR.", "a call of 'encode'"),
    "a name of no text": (b"\x80\x04)\x85\x85\x8c\x01a\x93.", "whose name is no text"),
    "an item of a tuple": (b"()I1\na.", "an item of what is no list"),
    "a name with a line break": (b"\x80\x04\x8c\x02\n.\x8c\x01a\x93.", r"'\n..a'"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_arrays_need_is_not_abused(tmp_path, name):
    data, word = ODD[name]
    refused(written(tmp_path / "a.pkl", data), "asks for", word, "nothing of it was run")


DAMAGED = {
    "empty": (b"", "pickle exhausted"),
    "text": (b"Weights: 1 2 3.", "opcode b'W'"),
    "zip": (b"PK\x03\x04" + bytes(100), ""),
    "mark": (b"t.", "pop"),
    "stack": (b"\x85.", "pop"),
    "memo": (b"g3\n.", "3"),
    "array": (built(data=bytes(8)), "an array of shape (1,) has 8 bytes"),
    "a huge array": (built(shape=b"(" + 2 * b"I1000000000\n" + b"t"), "has 4 bytes"),
    "endless": (b"(" + 1000 * b"]", "pickle exhausted"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(tmp_path, name):
    data, word = DAMAGED[name]
    refused(written(tmp_path / "a.pkl", data), word, "copy or download it again")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_truncated_files(tmp_path, share, protocol):
    data = pickle.dumps(ARRAYS, protocol)
    refused(written(tmp_path / "a.pkl", data[: int(share * len(data))]), "truncated or damaged")


@pytest.mark.parametrize("value", [3, (3,), ("text",), b"bytes", ARRAYS[0], (ARRAYS,), None])
def test_pickles_of_something_else(tmp_path, value):
    path = written(tmp_path / "a.pkl", pickle.dumps(value, 2))
    refused(path, "holds something else", "rssm_variables.pkl")


@pytest.mark.parametrize(
    ("value", "word"),
    [((3.5,), "BINFLOAT"), ({"a": ARRAYS[0]}, "EMPTY_DICT"), (np.float32(3), "scalar")],
)
def test_pickles_with_more_than_arrays(tmp_path, value, word):
    refused(written(tmp_path / "a.pkl", pickle.dumps(value, 2)), "asks for", word)


def test_no_damage_does_more_than_refuse(tmp_path):
    """Whatever happens to a file, it is read or refused, and no other error comes out."""
    rng, refusals = np.random.default_rng(0), 0
    for protocol in (0, 2, 4, 5):
        whole = np.frombuffer(pickle.dumps(ARRAYS, protocol), np.uint8)
        for _ in range(300):
            data = whole.copy()
            where = rng.integers(len(data), size=rng.integers(1, 4))
            data[where] = rng.integers(256, size=len(where))
            path = written(tmp_path / "a.pkl", data.tobytes())
            try:
                read_arrays(path)
            except InputError as error:
                one_sentence(str(error), str(path))
                refusals += 1
    assert refusals > 400


def test_no_file_unfolds_to_more_than_its_size(tmp_path, monkeypatch):
    text = b"V" + 1000 * b"a" + b"\np1\n"
    again = b"c_codecs\nencode\n(g1\nVlatin1\ntR"
    refused(written(tmp_path / "a.pkl", text + 200 * again + b"."), "unfolds to more")
    monkeypatch.setattr(pickled_arrays, "_STEPS", 100)
    refused(written(tmp_path / "a.pkl", 101 * b"]" + b"."), "more than 100 instructions")
    monkeypatch.setattr(pickled_arrays, "MAX_BYTES", 50)
    refused(tmp_path / "a.pkl", "larger than 50 bytes")


def test_no_file(tmp_path):
    refused(tmp_path / "a.pkl", "There is no file", "check the name")
    refused(tmp_path, "There is no file")


def saved(folder: Path, model: ActionFreeVideoModel, **changes) -> Path:
    """A folder as the authors write it, with some files' arrays replaced."""
    folder.mkdir(exist_ok=True)
    variables = to_official(dict(model.named_parameters()))
    for part in PARTS:
        names = [name for name in variable_order(variables) if name.startswith(f"{part}/")]
        arrays = changes.get(part, tuple(variables[name] for name in names))
        (folder / f"{part}_variables.pkl").write_bytes(pickle.dumps(arrays, 4))
    return folder


def arrays_of(folder: Path, part: str) -> list[np.ndarray]:
    return read_arrays(folder / f"{part}_variables.pkl")


@pytest.fixture
def model() -> ActionFreeVideoModel:
    torch.manual_seed(0)
    return ActionFreeVideoModel(SIZE)


SIZES = (
    SIZE,
    ModelSize(image_size=32, depth=3, deter=5, hidden=7, stoch=4, classes=4),
    ModelSize(depth=1, deter=12, hidden=12, stoch=6, classes=2),
)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_folder_gives_the_model_back(tmp_path, size):
    model = ActionFreeVideoModel(size)
    folder = saved(tmp_path / "authors", model)
    classes = None if size.stoch == size.classes else size.classes
    state = torch.get_rng_state()
    found = load_official_folder(folder, classes)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.size == size and not found.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in found.parameters())
    for name, weight in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name


def test_the_paper_model_has_32_variables_of_32_classes():
    variables = {
        "encoder/conv0/bias": np.zeros(48),
        "rssm/gru/dense/bias": np.zeros(3072),
        "rssm/img_in/bias": np.zeros(1024),
        "rssm/img_dist_0/bias": np.zeros(1024),
    }
    size = official_files._size(Path("authors"), variables, 64, None)
    assert size == PRETRAIN["paper"].model


ORDERS = Path(__file__).parent / "golden" / "official_ckpt"


@pytest.mark.parametrize(
    ("file", "size"),
    [
        ("order.json", ModelSize(depth=8, deter=64, hidden=64, stoch=8, classes=8)),
        ("order_paper_metaworld_pretrain.json", PRETRAIN["paper"].model),
    ],
)
def test_the_rule_gives_the_official_order(file, size):
    listing = json.loads((ORDERS / file).read_text())
    shapes = official_shapes(official_files._unfilled(size))
    for part in PARTS:
        wanted = [entry["name"] for entry in listing[f"{part}_variables.pkl"]]
        assert [n for n in variable_order(reversed(shapes)) if n.startswith(f"{part}/")] == wanted
        for entry in listing[f"{part}_variables.pkl"]:
            assert shapes[entry["name"]] == tuple(entry["shape"])


def test_the_rule_gives_the_order_of_the_agents_files():
    listing = json.loads((ORDERS / "order.json").read_text())
    files = next(value for value in listing.values() if isinstance(value, dict))
    assert len(files) > 3
    for entries in files.values():
        names = [entry["name"] for entry in entries]
        assert variable_order(sorted(names)) == names


def test_import_writes_a_model_and_its_story(tmp_path, model):
    folder, out = saved(tmp_path / "authors", model), tmp_path / "out" / "model.safetensors"
    import_official(folder, out, "apv-edu import-official")
    again = load_video_model(out, SIZE)
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
    story = load(out)[1]
    assert story["command"] == "apv-edu import-official"
    assert story["seed"] is None and story["steps"] is None
    data = (folder / "rssm_variables.pkl").read_bytes()
    assert story["imported"]["rssm_variables.pkl"] == hashlib.sha256(data).hexdigest()
    assert sorted(story["imported"]) == sorted(f"{part}_variables.pkl" for part in PARTS)


def folder_refused(folder: Path, *words: str, classes: int | None = None) -> None:
    with pytest.raises(InputError) as caught:
        import_official(folder, folder / "model.safetensors", "import", classes)
    one_sentence(str(caught.value), str(folder), *words)
    assert not (folder / "model.safetensors").exists()


def test_a_folder_that_is_incomplete(tmp_path, model):
    folder_refused(tmp_path / "nowhere", "no file", "encoder_variables.pkl", "check the name")
    saved(tmp_path, model)
    (tmp_path / "decoder_variables.pkl").unlink()
    folder_refused(tmp_path, "no file", "decoder_variables.pkl", "check the name")


def test_a_malicious_file_among_the_three(tmp_path, model):
    mark = tmp_path / "ran"
    arrays = (*arrays_of(saved(tmp_path, model), "rssm")[:-1], Call(os.system, touch(mark)))
    folder_refused(saved(tmp_path, model, rssm=arrays), "rssm_variables.pkl", "posix.system")
    assert not mark.exists()


@pytest.mark.parametrize("part", PARTS)
def test_another_number_of_arrays(tmp_path, model, part):
    folder = saved(tmp_path, model)
    arrays = arrays_of(folder, part)
    for changed in (arrays[:-1], [*arrays, arrays[-1]], []):
        saved(folder, model, **{part: changed})
        count = f"{part}_variables.pkl has {len(changed)} arrays instead of {len(arrays)}"
        folder_refused(folder, count, "pass the folder")


def test_arrays_of_other_shapes_and_kinds(tmp_path, model):
    folder = saved(tmp_path, model)
    rssm = arrays_of(folder, "rssm")
    swapped = [rssm[6], *rssm[1:6], rssm[0], *rssm[7:]]
    folder_refused(
        saved(folder, model, rssm=swapped), "rssm_variables.pkl", "for rssm/img_in/kernel"
    )
    whole = [array.astype(np.int32) for array in rssm]
    folder_refused(saved(folder, model, rssm=whole), "int32", "float32")
    broken = [np.full_like(array, np.nan) for array in rssm]
    folder_refused(saved(folder, model, rssm=broken), "not finite", "copy or download")
    empty = [np.zeros((0, *array.shape[1:]), np.float32) for array in rssm]
    folder_refused(saved(folder, model, rssm=empty), "empty arrays")
    huge = [np.zeros(1_000_000, np.float32)] + [np.zeros(1, np.float32)] * (len(rssm) - 1)
    huge[1], huge[7] = np.zeros(3_000_000, np.float32), huge[0]  # a GRU of terabytes
    folder_refused(saved(folder, model, rssm=huge), "pass the folder")


def test_the_files_of_an_agent_are_refused(tmp_path, model):
    """Its rssm_variables.pkl is the stacked model, whose posterior sees features, no images."""
    folder = saved(tmp_path, model)
    rssm = arrays_of(folder, "rssm")
    rssm[12] = np.zeros((8 + 9 + 8, 6), np.float32)
    folder_refused(saved(folder, model, rssm=rssm), "rssm/obs_out/kernel", "(25, 6)", "pre-trained")


def test_the_number_of_classes(tmp_path):
    folder = saved(tmp_path, ActionFreeVideoModel(SIZES[2]))
    folder_refused(folder, "latents of 12 numbers", "give the number of classes")
    for classes in (0, -2, 5):
        folder_refused(folder, "latents of 12 numbers", classes=classes)
    assert load_official_folder(folder, classes=3).size.stoch == 4


EPISODE = "push_buttons_wrist_rgb_episode-9-64.npz"


def write_episode(path: Path, **changes) -> np.ndarray:
    """An episode in the authors' form, and its frames."""
    path.parent.mkdir(exist_ok=True)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), np.uint8)
    first, last = np.arange(64) == 0, np.arange(64) == 63
    arrays = {"image": image, "reward": np.zeros(64, np.float32)}
    arrays |= {"is_first": first, "is_last": last, "is_terminal": last}
    np.savez_compressed(path, **(arrays | changes))
    return image


def test_an_official_episode_is_packed(tmp_path):
    image = write_episode(tmp_path / "in" / EPISODE)
    dataset = pack_videos(tmp_path / "in", tmp_path / "out", progress=False)
    (video,) = dataset.videos
    assert video.name == EPISODE and video.length == 64
    assert video.label == "push_buttons_wrist_rgb_episode"
    np.testing.assert_array_equal(dataset.clip(video), image)


def test_objects_in_an_episode_are_never_unpickled(tmp_path):
    mark = tmp_path / "ran"
    objects = np.array([Call(os.system, touch(mark))], object)
    path = tmp_path / "in" / EPISODE
    write_episode(path, image=objects)
    with pytest.raises(InputError) as caught:
        read_video(path)
    one_sentence(str(caught.value), EPISODE, "Python objects", "never unpickled")
    image = write_episode(path, reward=objects)  # which no video needs
    np.testing.assert_array_equal(read_video(path), image)
    assert not mark.exists()
