import errno
import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from apv_edu.errors import InputError
from apv_edu.logger import (
    CSVLogger,
    Loggers,
    TensorBoardLogger,
    curves,
    encode_gif,
    encode_mp4,
    folder_logger,
    read_csv,
)


@pytest.fixture
def frames() -> np.ndarray:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    return small.repeat(16, 1).repeat(16, 2)


def test_rows_are_on_disk_at_once_and_exact(tmp_path: Path):
    logger = CSVLogger(tmp_path / "m.csv")
    logger.scalars(1, {"a": 1 / 3, "b": float("nan")})
    logger.scalars(2, {"a": 2.5})
    rows = read_csv(tmp_path / "m.csv")
    assert rows[0] == (1, "a", 1 / 3)
    assert np.isnan(rows[1][2])
    logger.close()
    steps, values = curves(tmp_path / "m.csv")["a"]
    assert steps.tolist() == [1, 2]
    assert values.tolist() == [1 / 3, 2.5]


@pytest.mark.parametrize("tail", ["", "7,a,0.", "7,", "12,a,1.0\n12,b"])
def test_resume_neither_repeats_nor_loses_rows(tmp_path: Path, tail: str):
    path = tmp_path / "m.csv"
    logger = CSVLogger(path)
    for step in range(1, 7):
        logger.scalars(step, {"a": step, "b": -step})
    logger.close()
    with path.open("a") as file:
        file.write(tail)  # what a killed process may leave
    resumed = CSVLogger(path)
    resumed.resume(4)
    resumed.scalars(5, {"a": 50.0})
    resumed.close()
    expected = [(s, n, v) for s in range(1, 5) for n, v in (("a", s), ("b", -s))]
    assert read_csv(path) == [*expected, (5, "a", 50.0)]


def test_resume_at_zero_starts_anew(tmp_path: Path):
    logger = CSVLogger(tmp_path / "m.csv")
    logger.scalars(1, {"a": 1.0})
    logger.resume(0)
    logger.close()
    assert (tmp_path / "m.csv").read_text() == "step,name,value\n"


@pytest.mark.parametrize("line", ["x,a,1.0", "3,a", "3,a,?"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str):
    path = tmp_path / "m.csv"
    path.write_text(f"step,name,value\n1,a,1.0\n{line}\n4,a,1.0\n")
    with pytest.raises(InputError, match=r"m\.csv is damaged: delete it"):
        CSVLogger(path).resume(3)


def test_no_log_has_no_rows(tmp_path: Path):
    assert read_csv(tmp_path / "none.csv") == []


def test_mp4_decodes_to_the_frames(frames: np.ndarray, tmp_path: Path):
    logger = CSVLogger(tmp_path / "m.csv")
    logger.video(20, "validation/open_loop", frames)
    path = tmp_path / "validation_open_loop_0000020.mp4"
    with av.open(str(path), "r") as container:
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert decoded.shape == frames.shape
    grey = np.abs(decoded.mean(-1) - frames.mean(-1))  # colour is stored at half resolution
    assert grey.mean() < 4


def test_mp4_of_odd_size_loses_a_line():
    file = _file(encode_mp4(np.zeros((2, 33, 47, 3), np.uint8)))
    with av.open(file, "r") as container:
        frame = next(container.decode(video=0))
    assert (frame.height, frame.width) == (32, 46)


def test_gif_has_every_frame(frames: np.ndarray):
    image = Image.open(_file(encode_gif(frames)))
    assert image.size == (80, 64)
    assert getattr(image, "n_frames", 1) == len(frames)


def test_tensorboard_reads_back_what_a_resumed_run_logged(tmp_path: Path, frames: np.ndarray):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoardLogger(tmp_path)
    for step in range(1, 7):
        first.scalars(step, {"loss": float(step)})
    first.close()
    again = TensorBoardLogger(tmp_path)
    again.resume(4)
    again.scalars(5, {"loss": 50.0})
    again.video(5, "grid", frames)
    again.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    points = [(event.step, event.value) for event in events.Scalars("loss")]
    assert points == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50)]
    image = events.Images("grid")[0]
    assert (image.width, image.height) == (80, 64)
    assert image.encoded_image_string == encode_gif(frames)


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    logger = CSVLogger(tmp_path / "m.csv")
    logger.resume(0)
    logger.close()
    monkeypatch.setattr(logger, "file", Full())
    with pytest.raises(InputError, match=r"No space left to write .*m\.csv \(what was there"):
        logger.scalars(1, {"a": 1.0})


def test_what_resuming_may_not_open_or_delete_is_named(tmp_path: Path, monkeypatch):
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    TensorBoardLogger(tmp_path / "tb").scalars(1, {"a": 1.0})
    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"Cannot write .*tb"):
        patch.setattr(Path, "unlink", refuse)
        TensorBoardLogger(tmp_path / "tb").resume(0)
    monkeypatch.setattr("apv_edu.logger.write_atomically", lambda *_: None)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"Cannot write .*m\.csv.*Permission denied"):
        CSVLogger(tmp_path / "m.csv").resume(0)


def test_all_are_closed_even_if_one_fails(tmp_path: Path, monkeypatch):
    def broken() -> None:
        raise InputError("No space left.")

    first, second, third = (CSVLogger(tmp_path / f"{name}.csv") for name in "abc")
    logger = Loggers(first, second, third)
    logger.resume(0)
    monkeypatch.setattr(second, "close", broken)
    with pytest.raises(InputError, match="No space left"):
        logger.close()
    assert first.file is None
    assert third.file is None


def test_several_as_one(tmp_path: Path):
    both = Loggers(CSVLogger(tmp_path / "a.csv"), CSVLogger(tmp_path / "b.csv"))
    both.resume(0)
    both.scalars(1, {"x": 1.0})
    both.close()
    assert read_csv(tmp_path / "a.csv") == read_csv(tmp_path / "b.csv") == [(1, "x", 1.0)]


def test_a_run_folder_holds_csv_and_tensorboard(tmp_path: Path):
    logger = folder_logger(tmp_path)
    logger.resume(0)
    logger.scalars(1, {"x": 1.0})
    logger.close()
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.csv", "tensorboard"}


def _file(data: bytes) -> io.BytesIO:
    return io.BytesIO(data)
