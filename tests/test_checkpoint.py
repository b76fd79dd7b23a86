import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apv_edu import checkpoint
from apv_edu.config import ModelSize
from apv_edu.errors import InputError
from apv_edu.files import remove_leftovers, write_atomically
from apv_edu.video_model import ActionFreeVideoModel

SMALL = ModelSize(depth=2, deter=8, hidden=8, stoch=2, classes=3)
TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor(7),
    "c": torch.ones(3, dtype=torch.bfloat16),
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "x.safetensors", TENSORS, {"step": 3, "nested": {"é": [1, None]}})
    return tmp_path / "x.safetensors"


def test_round_trip_keeps_values_types_and_metadata(saved: Path):
    tensors, metadata = checkpoint.load(saved)
    assert metadata == {"step": 3, "nested": {"é": [1, None]}}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)
    assert os.listdir(saved.parent) == [saved.name]


def test_same_content_same_bytes(saved: Path, tmp_path: Path):
    other = tmp_path / "y.safetensors"
    checkpoint.save(
        other,
        dict(reversed(TENSORS.items())),
        {"nested": {"é": [1, None]}, "step": 3},
    )
    assert other.read_bytes() == saved.read_bytes()


def test_missing_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"no checkpoint .*nothing\.safetensors"):
        checkpoint.load(tmp_path / "nothing.safetensors")


@settings(max_examples=60, deadline=None)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_refused(tmp_path_factory, position: float, bit: int):
    path = tmp_path_factory.mktemp("flip") / "x.safetensors"
    checkpoint.save(path, TENSORS, {"step": 3})
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.safetensors"):
        checkpoint.load(path)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_is_refused(saved: Path, keep: int):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"x\.safetensors is damaged .* train again"):
        checkpoint.load(saved)


def test_foreign_safetensors_are_refused(tmp_path: Path):
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "f.safetensors")
    with pytest.raises(InputError, match=r"f\.safetensors was not written by apv_edu"):
        checkpoint.load(tmp_path / "f.safetensors")


def test_full_disk_keeps_the_previous_file(saved: Path, monkeypatch: pytest.MonkeyPatch):
    before = saved.read_bytes()

    def full(_descriptor: int):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        InputError, match=r"No space left to write .*x\.safetensors \(what was there"
    ):
        checkpoint.save(saved, {"a": torch.zeros(1)}, {})
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"Cannot write .*file/x.*choose a folder"):
        write_atomically(tmp_path / "file" / "x", b"data")


def test_leftovers_of_a_killed_writer_go(tmp_path: Path):
    (tmp_path / ".x.safetensors.123.part").write_bytes(b"half")
    (tmp_path / "keep.part").write_bytes(b"mine")
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["keep.part"]


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 0.0), (torch.float16, 1e-3)])
def test_video_model_round_trip(tmp_path: Path, dtype: torch.dtype, close: float):
    model = ActionFreeVideoModel(SMALL)
    story = checkpoint.provenance("apv-edu pretrain", seed=4, steps=9)
    path = tmp_path / "model.safetensors"
    checkpoint.save_video_model(path, model, story, dtype)
    loaded = checkpoint.load_video_model(path)
    assert loaded.size == SMALL
    assert not loaded.training
    for name, weight in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=close, atol=close / 10)
    stored, metadata = checkpoint.load(path)
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    assert (metadata["command"], metadata["seed"], metadata["steps"]) == ("apv-edu pretrain", 4, 9)
    assert metadata["versions"]["torch"] == torch.__version__


def test_other_sizes_name_both(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    checkpoint.save_video_model(path, ActionFreeVideoModel(SMALL), {})
    with pytest.raises(InputError, match=r"other sizes \(depth=2, deter=8.*depth=16, deter=256"):
        checkpoint.load_video_model(path, ModelSize(hidden=8, stoch=2, classes=3))


def test_weights_that_do_not_fit_name_the_tensor():
    layer = torch.nn.Linear(2, 3)
    with pytest.raises(InputError, match=r"'weight' has \(3, 5\) in the file and \(3, 2\)"):
        checkpoint.load_weights(layer, torch.nn.Linear(5, 3).state_dict(), "f.safetensors")
    with pytest.raises(InputError, match=r"f\.safetensors.*'bias' has no tensor in the file"):
        checkpoint.load_weights(layer, {"weight": layer.weight}, "f.safetensors")


def test_a_training_checkpoint_is_no_model(saved: Path):
    with pytest.raises(InputError, match=r"not a video model: pass the model\.safetensors"):
        checkpoint.load_video_model(saved)
