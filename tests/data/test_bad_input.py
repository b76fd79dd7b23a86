"""Bad videos: one sentence that names the file and the remedy; the good ones are used."""

import errno
import io
import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from video_files import numbered, truncate, write_folder, write_npz, write_video

from apv_edu.data import decoding, readers
from apv_edu.data.readers import find_videos, read_video
from apv_edu.data.video import VideoDataset, pack_videos
from apv_edu.errors import InputError


def refused(path: Path, *words: str) -> None:
    """Reading ``path`` fails with one sentence that names it and holds ``words``."""
    with pytest.raises(InputError) as caught:
        read_video(path)
    one_sentence(str(caught.value), str(path), *words)


def one_sentence(message: str, *words: str) -> None:
    assert "\n" not in message and message.endswith(".") and ": " in message, message
    assert ". " not in message, message
    for word in words:
        assert word in message, (word, message)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("header", ["last", "first"])
def test_truncated_mp4(tmp_path, share, header):
    # noise, so that the frames and not the header are most of the file
    frames = np.random.default_rng(0).integers(0, 256, (20, 48, 48, 3), np.uint8)
    path = write_video(tmp_path / "cut.mp4", frames, header_first=header == "first")
    assert len(read_video(path)) == 20
    refused(truncate(path, share), "truncated" if header == "last" else "copy or download")


@pytest.mark.parametrize("suffix", [".webm", ".avi", ".gif"])
def test_truncated_video_of_another_kind(tmp_path, suffix):
    frames = np.random.default_rng(0).integers(0, 256, (20, 48, 48, 3), np.uint8)
    path = write_video(tmp_path / f"cut{suffix}", frames)
    assert len(read_video(path)) == 20
    refused(truncate(path, 0.5), "copy or download")


def cut_before_frame(path: Path, frame: int, extra: int = 0) -> Path:
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    path.write_bytes(path.read_bytes()[: places[frame] + extra])
    return path


@pytest.mark.parametrize(
    ("suffix", "frame"), [(".mp4", 33), (".mp4", 38), (".mp4", 39), (".webm", 33), (".avi", 33)]
)
def test_a_video_cut_between_two_frames(tmp_path, suffix, frame):
    """Nothing in what is left is damaged: only the header tells that more was there."""
    frames = np.random.default_rng(0).integers(0, 256, (40, 96, 96, 3), np.uint8)
    codec, pixels = ("mjpeg", "yuvj420p") if suffix == ".avi" else ("", "")  # frames of one size
    path = write_video(tmp_path / f"cut{suffix}", frames, codec, pixels, header_first=True)
    assert len(read_video(path)) == 40
    refused(cut_before_frame(path, frame), "truncated (", "are there", "copy or download")


def test_sound_that_outlasts_the_pictures_is_no_truncation(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (12, 48, 48, 3), np.uint8)
    path = write_video(tmp_path / "sound.webm", frames, silence=3.0)
    assert len(read_video(path)) == 12
    refused(cut_before_frame(path, 8), "truncated (0.80 s of 1.20 s are there)")


def test_a_damaged_last_frame(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (20, 48, 48, 3), np.uint8)
    path = write_video(tmp_path / "cut.avi", frames)
    refused(cut_before_frame(path, 19, extra=300), "damaged frames")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("compressed", [True, False])
def test_truncated_npz(tmp_path, share, compressed):
    path, image = tmp_path / "cut-0-12.npz", numbered(12)
    (np.savez_compressed if compressed else np.savez)(path, image=image)
    refused(truncate(path, share), "truncated or corrupt", "copy or download")


def test_npz_whose_array_stops_early(tmp_path):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, numbered(12))

    path = tmp_path / "short.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", buffer.getvalue()[:-100])
    refused(path, "truncated or corrupt")


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_wrong_dtype(tmp_path, dtype):
    refused(write_npz(tmp_path / "a.npz", numbered(4).astype(dtype)), np.dtype(dtype).name, "uint8")


class Explosive:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickled_objects_are_refused_and_never_executed(tmp_path):
    mark = tmp_path / "executed"
    path = tmp_path / "objects.npz"
    np.savez(path, image=np.array([Explosive(mark)], dtype=object))
    pickle.loads(pickle.dumps(Explosive(mark)))  # it would go off
    assert mark.exists()
    mark.unlink()
    refused(path, "Python objects", "save one uint8 array")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((4, 8, 8), ("grey", "convert it to RGB")),
        ((4, 8, 8, 1), ("grey", "convert it to RGB")),
        ((4, 8, 8, 4), ("RGBA", "convert it to RGB")),
        ((4, 3, 8, 8), ("(4, 3, 8, 8)", "reshape it to (T, H, W, 3)")),
        ((4,), ("(4,)", "reshape")),
        ((0, 8, 8, 3), ("no frames", "record it again")),
        ((2, 0, 8, 3), ("0 x 8", "resize")),
    ],
)
def test_npz_of_another_shape(tmp_path, shape, words):
    refused(write_npz(tmp_path / "a.npz", np.zeros(shape, np.uint8)), *words)


def test_npz_of_another_order(tmp_path):
    refused(write_npz(tmp_path / "a.npz", np.asfortranarray(numbered(4))), "ascontiguousarray")


def test_npz_without_images(tmp_path):
    np.savez(tmp_path / "a.npz", action=np.zeros(3), reward=np.zeros(3))
    refused(tmp_path / "a.npz", "`image`", "action, reward", "save the frames under that name")


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "grey"), ("LA", "grey"), ("1", "grey"), ("RGBA", "RGBA"), ("P", "P")]
)
def test_grey_and_rgba_image(tmp_path, mode, kind):
    folder = write_folder(tmp_path / "frames", numbered(3))
    Image.fromarray(numbered(1)[0]).convert(mode).save(folder / "2.png")
    refused(folder, "2.png", f"is a {kind} image", "convert it to RGB")


def test_grey_and_transparent_video(tmp_path):
    grey = write_video(tmp_path / "grey.avi", numbered(4)[..., :1], "ffv1", "gray")
    refused(grey, "grey", "convert it to RGB")
    rgba = np.concatenate([numbered(4), np.full((4, 48, 48, 1), 255, np.uint8)], -1)
    opaque = write_video(tmp_path / "opaque.avi", rgba, "ffv1", "bgra")
    assert len(read_video(opaque)) == 4
    rgba[2, 0, 0, 3] = 100
    refused(write_video(tmp_path / "rgba.avi", rgba, "ffv1", "bgra"), "RGBA", "convert it to RGB")


def test_truncated_and_unlike_images(tmp_path):
    folder = write_folder(tmp_path / "frames", numbered(3))
    Image.fromarray(numbered(1, 20, 30)[0]).save(folder / "2.png")
    refused(folder, "2.png", "30 x 20", "make all frames of a video one size")
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    Image.fromarray(noise).save(folder / "2.png")
    truncate(folder / "2.png", 0.6)
    refused(folder, "2.png", "cannot be read as an image")


def test_absurd_sizes_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    header = io.BytesIO()
    shape = (1, 2**20, 2**20, 3)
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )

    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image.npy", header.getvalue())
    refused(path, "1048576 x 1048576", "resize")
    monkeypatch.setattr(decoding, "MAX_PIXELS", 1000)
    refused(write_video(tmp_path / "wide.mp4", numbered(2)), "48 x 48", "resize")
    refused(write_folder(tmp_path / "wide", numbered(2)), "48 x 48", "resize")


def test_a_video_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_FRAMES", 5)
    refused(write_npz(tmp_path / "a.npz", numbered(6)), "more than 5 frames", "split it")


def test_files_that_are_no_videos(tmp_path):
    refused(tmp_path / "missing.mp4", "does not exist", "check the name")
    (tmp_path / "notes.txt").write_text("frames")
    refused(tmp_path / "notes.txt", "is not a video", ".mp4")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no frames")
    (tmp_path / "text.mp4").write_text("not a video at all")
    refused(tmp_path / "text.mp4", "truncated or corrupt")


def test_a_playlist_in_disguise_opens_no_other_file(tmp_path):
    write_video(tmp_path / "other.mp4", numbered(4))
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    refused(tmp_path / "list.mp4", "truncated or corrupt")


@pytest.mark.parametrize("options", [{"image_size": 0}, {"stride": 0}])
def test_settings_out_of_range(tmp_path, options):
    path = write_npz(tmp_path / "in" / "a.npz", numbered(4))
    with pytest.raises(InputError, match="must be at least 1"):
        read_video(path, **options)
    with pytest.raises(InputError, match="at least 1"):
        pack_videos(tmp_path / "in", tmp_path / "out", **options)
    with pytest.raises(InputError, match=r"validation_fraction=1.0 must be in \[0, 1\)"):
        pack_videos(tmp_path / "in", tmp_path / "out", validation_fraction=1.0)
    with pytest.raises(InputError, match="seed=-1 at least 0"):
        pack_videos(tmp_path / "in", tmp_path / "out", seed=-1)


def test_an_empty_and_a_missing_folder(tmp_path):
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    for function in (find_videos, lambda folder: pack_videos(folder, tmp_path / "out")):
        with pytest.raises(InputError) as caught:
            function(tmp_path / "empty")
        one_sentence(str(caught.value), str(tmp_path / "empty"), "holds no videos", "put npz")
        with pytest.raises(InputError) as caught:
            function(tmp_path / "missing")
        one_sentence(str(caught.value), str(tmp_path / "missing"), "not a folder", "check the name")
    with pytest.raises(InputError, match="No source"):
        pack_videos([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_corrupt_video_among_good_ones_is_named_and_counted(tmp_path, capfd):
    for index in range(3):
        write_npz(tmp_path / "in" / f"reach-{index}-12.npz", numbered(12))
    truncate(write_npz(tmp_path / "in" / "reach-7-12.npz", numbered(12)))
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 48, 3), np.uint8)
    truncate(write_video(tmp_path / "in" / "cut.mp4", noise, header_first=True))
    write_npz(tmp_path / "in" / "short-0-4.npz", numbered(4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = pack_videos(tmp_path / "in", tmp_path / "out", min_length=10, progress=False)
    warned = capfd.readouterr().err
    assert warned.count("\n") == 1 and warned.startswith("Skipped 3 of 6 videos: ")
    skipped = {entry["name"]: entry["reason"] for entry in dataset.manifest["skipped"]}
    assert set(skipped) == {"reach-7-12.npz", "cut.mp4", "short-0-4.npz"}
    for name, reason in skipped.items():
        assert name in warned
        one_sentence(reason, name)
    assert "has 4 frames at stride 1, fewer than the 10" in skipped["short-0-4.npz"]
    assert [video.name for video in dataset.videos] == [f"reach-{i}-12.npz" for i in range(3)]
    for video in dataset.videos:  # and nothing of the corrupt ones stays in the array
        np.testing.assert_array_equal(dataset.clip(video), read_video(tmp_path / "in" / video.name))
    assert len(dataset.frames) == 36
    pack_videos(tmp_path / "in", tmp_path / "out", min_length=10, progress=False)
    assert capfd.readouterr().err == ""  # said once


def test_no_usable_video(tmp_path):
    for index in range(2):
        truncate(write_npz(tmp_path / "in" / f"reach-{index}-12.npz", numbered(12)))
    with pytest.raises(InputError) as caught:
        pack_videos(tmp_path / "in", tmp_path / "out", progress=False)
    one_sentence(str(caught.value), "reach-0-12.npz", "copy or download", "1 other")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_link_to_nowhere_is_one_more_bad_video(tmp_path, capfd):
    write_npz(tmp_path / "in" / "reach-0-12.npz", numbered(12))
    (tmp_path / "in" / "lost.mp4").symlink_to(tmp_path / "gone.mp4")
    dataset = pack_videos(tmp_path / "in", tmp_path / "out", min_length=5, progress=False)
    assert [entry["name"] for entry in dataset.manifest["skipped"]] == ["lost.mp4"]
    assert "Skipped 1 of 2 videos: lost.mp4" in capfd.readouterr().err


def test_an_out_that_cannot_be_written(tmp_path):
    write_npz(tmp_path / "in" / "reach-0-12.npz", numbered(12))
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        pack_videos(tmp_path / "in", tmp_path / "file" / "out", min_length=5, progress=False)
    one_sentence(
        str(caught.value), str(tmp_path / "file" / "out"), "Cannot write", "choose a folder"
    )


def full_disk(*_args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullFile(io.FileIO):
    """A file on a disk with room for 50 KB."""

    def write(self, data) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.tell() + len(data) > 50_000:
            full_disk()
        return super().write(data)


@pytest.mark.parametrize("stage", ["write", "fsync", "mkdir"])
def test_a_full_disk(tmp_path, monkeypatch, stage):
    write_npz(tmp_path / "in" / "reach-0-12.npz", numbered(12))
    if stage == "write":
        path_open = Path.open

        def opened(path, mode="r", *args, **options):
            full = path.name == "frames.npy" and mode == "wb"
            return FullFile(path, "wb") if full else path_open(path, mode, *args, **options)

        monkeypatch.setattr(Path, "open", opened)
    else:
        owner = os if stage == "fsync" else Path
        monkeypatch.setattr(owner, stage, lambda *_args, **_options: full_disk())
    with pytest.raises(InputError) as caught:
        pack_videos(tmp_path / "in", tmp_path / "out", min_length=5, progress=False)
    one_sentence(str(caught.value), str(tmp_path / "out"), "No space left", "free some")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.fixture
def packed(tmp_path) -> Path:
    write_npz(tmp_path / "in" / "reach-0-12.npz", numbered(12))
    write_npz(tmp_path / "in" / "reach-1-12.npz", numbered(12))
    return pack_videos(tmp_path / "in", tmp_path / "out", min_length=5, progress=False).path


def not_opened(path: Path, *words: str, verify: bool = False) -> None:
    with pytest.raises(InputError) as caught:
        VideoDataset.open(path, verify=verify)
    one_sentence(str(caught.value), str(path), *words)


def test_a_folder_that_is_no_dataset(tmp_path):
    not_opened(tmp_path, "not a packed dataset", "pack_videos")
    not_opened(tmp_path / "missing", "not a packed dataset")
    write_npz(tmp_path / "reach-0-12.npz", numbered(12))
    with pytest.raises(InputError, match="not a packed dataset: choose another folder"):
        pack_videos(tmp_path, tmp_path, progress=False)


def test_damaged_frames(packed):
    frames = packed / "frames.npy"
    whole = frames.read_bytes()
    frames.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert len(VideoDataset.open(packed).videos) == 2  # seen only by the checksum
    not_opened(packed, "checksum", "pack the videos again", verify=True)
    frames.write_bytes(whole[:-1])
    not_opened(packed, "truncated or damaged", "pack the videos again")
    frames.write_bytes(whole + b"more")
    not_opened(packed, "longer than the array", "pack the videos again")
    np.save(frames, np.load(io.BytesIO(whole))[:-1])
    not_opened(packed, "manifest says", "pack the videos again")
    np.save(frames, np.array([{}], dtype=object))
    not_opened(packed, "truncated or damaged")
    frames.unlink()
    not_opened(packed, "is missing", "pack the videos again")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 99},
        {"frames": 5},
        {"videos": []},
        {"videos": "all"},
        {"videos": [{"name": "a"}]},
        {"settings": {}},
        {"settings": {"image_size": "64"}},
        {"sha256": None},
    ],
)
def test_a_damaged_manifest(packed, change):
    path = packed / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    not_opened(packed, "manifest.json", "is damaged", "pack the videos again")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_an_unreadable_manifest(packed, text):
    (packed / "manifest.json").write_bytes(text.encode("latin-1"))
    not_opened(packed, "manifest.json", "is damaged", "pack the videos again")


@pytest.mark.parametrize(
    "change", [{"start": 1}, {"length": 13}, {"length": -1}, {"split": "test"}, {"start": "0"}]
)
def test_videos_that_do_not_fit_the_array(packed, change):
    path = packed / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["videos"][0] |= change
    path.write_text(json.dumps(manifest))
    not_opened(packed, "is damaged")


def test_sequences_longer_than_any_video(packed):
    dataset, rng = VideoDataset.open(packed), np.random.default_rng(0)
    for ask in (lambda: dataset.sample(2, 13, rng), lambda: dataset.clips(2, 13)):
        with pytest.raises(InputError) as caught:
            ask()
        one_sentence(str(caught.value), str(packed), "13 frames", "longest has 12", "shorter")
    with pytest.raises(InputError, match="Unknown split 'test'"):
        dataset.split("test")
    with pytest.raises(InputError, match="it has 12"):
        dataset.clip(dataset.videos[0], 5, 8)
