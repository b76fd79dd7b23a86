"""Every form of video is read to the same frames."""

import zipfile
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import (
    CODECS,
    number_of,
    numbered,
    truncate,
    write_folder,
    write_npz,
    write_video,
)

from apv_edu.data import decoding
from apv_edu.data.readers import find_videos, iterate_video, read_video
from apv_edu.errors import InputError

LENGTH = 12


@pytest.mark.parametrize("suffix", [*CODECS, ".npz", "folder", ".jpg"])
@pytest.mark.parametrize("stride", [1, 3])
def test_every_form_yields_the_numbered_frames(tmp_path, suffix, stride):
    frames = numbered(LENGTH, 60, 80)
    if suffix == ".npz":
        path = write_npz(tmp_path / "a-0-12.npz", frames)
    elif suffix in CODECS:
        path = write_video(tmp_path / f"a{suffix}", frames)
    else:  # ten or more frames, so that the order of names is not the order of numbers
        path = write_folder(tmp_path / "a", frames, ".jpg" if suffix == ".jpg" else ".png")
    video = read_video(path, image_size=32, stride=stride)
    wanted = frames[::stride, :32, :32]
    assert video.shape == wanted.shape and video.dtype == np.uint8
    lossless = suffix in (".npz", "folder")
    # gif's rgb8 has 8 levels of red and green and 4 of blue; the others are lossy by little
    tolerance = 0 if lossless else 43 if suffix == ".gif" else 10
    assert np.abs(video.astype(int) - wanted).max() <= tolerance
    if suffix != ".gif":
        assert number_of(video) == list(range(0, LENGTH, stride))


def test_shrinking_averages_and_does_not_skip_pixels(tmp_path):
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 200  # one pixel on, one off: a picking filter keeps only one of them
    video = read_video(write_npz(tmp_path / "a.npz", stripes), image_size=8)
    assert np.abs(video[:, :, 1:-1].astype(int) - 100).max() <= 3


@pytest.mark.parametrize(("height", "width"), [(20, 60), (60, 20), (21, 44)])
def test_the_centre_square_is_kept(tmp_path, height, width):
    frames = np.zeros((1, height, width, 3), np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    frames[:, top : top + side, left : left + side] = 255
    assert read_video(write_npz(tmp_path / "a.npz", frames), image_size=10).min() == 255


def test_a_frame_of_the_wanted_size_is_not_touched(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(read_video(write_npz(tmp_path / "a.npz", frames)), frames)


def test_an_uncompressed_and_a_newer_npy_header_are_read(tmp_path):
    frames = numbered(3, 64, 64)
    np.savez(tmp_path / "a.npz", image=frames)
    np.testing.assert_array_equal(read_video(tmp_path / "a.npz"), frames)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive, archive.open("image.npy", "w") as f:
        np.lib.format.write_array(f, frames, version=(2, 0))
    np.testing.assert_array_equal(read_video(tmp_path / "b.npz"), frames)


def test_a_video_of_a_turned_telephone_comes_upright(tmp_path, monkeypatch):
    frames = np.zeros((3, 48, 48, 3), np.uint8)
    frames[:, :, :24] = 255  # the left half is white
    path = write_video(tmp_path / "a.mp4", frames)
    as_stored = read_video(path, image_size=48)

    class Turned:  # PyAV writes no rotation mark, so mark the decoded frames
        def __init__(self, frame):
            self._frame = frame

        def __getattr__(self, name):
            return 90 if name == "rotation" else getattr(self._frame, name)

    rgb = decoding._rgb
    monkeypatch.setattr(decoding, "_rgb", lambda path, frame: rgb(path, cast(Any, Turned(frame))))
    turned = read_video(path, image_size=48)
    np.testing.assert_array_equal(turned, np.rot90(as_stored, axes=(1, 2)))
    assert turned[:, 30:].min() > 200 and turned[:, :18].max() < 50  # white is at the bottom


def test_iterate_is_lazy_and_equal(tmp_path):
    path = write_folder(tmp_path / "a", numbered(4, 8, 8))
    (path / "4.png").write_bytes(b"not an image")
    frames = iterate_video(path, image_size=8)
    first = [next(frames) for _ in range(4)]  # the broken fifth frame has not been read yet
    assert number_of(np.stack(first)) == [0, 1, 2, 3]
    with pytest.raises(InputError, match=r"4\.png"):
        next(frames)


def test_find_videos_in_rlbench_layout(tmp_path):
    cameras = ["front_rgb", "wrist_rgb", "left_shoulder_rgb"]
    others = ["front_mask", "front_depth", "wrist_point_cloud"]
    episodes = [f"close_jar/variation{v}/episodes/episode{e}" for v in (0, 1) for e in (2, 10)]
    for episode in episodes:
        for folder in cameras + others:
            write_folder(tmp_path / episode / folder, numbered(2, 4, 4))
        (tmp_path / episode / "low_dim_obs.pkl").write_bytes(b"")
    found = [path.relative_to(tmp_path).as_posix() for path in find_videos(tmp_path)]
    assert found == [f"{episode}/{camera}" for episode in episodes for camera in sorted(cameras)]


def test_find_videos_in_flat_folders(tmp_path):
    for name in ["10.webm", "9.webm", "a/x.MP4", "a/preview.png", "a/notes.txt", ".hidden.mp4"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "y.mp4").touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = [path.relative_to(tmp_path).as_posix() for path in find_videos(tmp_path)]
    assert found == ["9.webm", "10.webm", "a/x.MP4"]


def test_find_videos_follows_a_linked_folder(tmp_path):
    write_npz(tmp_path / "elsewhere" / "a-0-2.npz", numbered(2))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert find_videos(tmp_path / "here") == (tmp_path / "here" / "linked" / "a-0-2.npz",)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A path for each form, and the bytes of a good video there."""
    folder, frames = tmp_path_factory.mktemp("whole"), numbered(6, 16, 16)
    paths = {
        ".npz": write_npz(folder / "a.npz", frames),
        ".mp4": write_video(folder / "a.mp4", frames),
        ".gif": write_video(folder / "a.gif", frames),
        ".png": write_folder(folder / "a", frames[:1]) / "0.png",
    }
    return {suffix: (path, path.read_bytes()) for suffix, path in paths.items()}


@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    kept=st.floats(0, 1) | st.just(1.0),
)
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("suffix", [".npz", ".mp4", ".gif", ".png"])
def test_a_damaged_file_gives_frames_or_an_input_error(whole, suffix, changes, kept):
    path, data = whole[suffix]
    damaged = bytearray(data)
    for place, value in changes:
        damaged[int(place * (len(data) - 1))] = value
    path.write_bytes(damaged)
    truncate(path, kept)
    try:
        video = read_video(path.parent if suffix == ".png" else path, image_size=16)
    except InputError as error:
        assert path.read_bytes() != data and str(path) in str(error)
    else:
        assert video.dtype == np.uint8 and video.shape[1:] == (16, 16, 3) and len(video) > 0
