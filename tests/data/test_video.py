"""Packing videos into one array, and sampling sequences from it."""

import json
import multiprocessing as mp
import os
import signal
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import number_of, numbered, write_folder, write_npz, write_video

from apv_edu.data import packing
from apv_edu.data.video import VideoDataset, pack_videos
from apv_edu.errors import InputError

LENGTHS = (6, 9, 12, 5, 8, 30, 7, 11, 10, 40)
LABELS = ("reach", "push")


def marked(video: int, length: int, size: int = 8) -> np.ndarray:
    """Frames whose red channel is the video's number and whose green channel is the time."""
    frames = np.zeros((length, size, size, 3), np.uint8)
    frames[..., 0] = video
    frames[..., 1] = np.arange(length)[:, None, None]
    return frames


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for number, length in enumerate(LENGTHS):
        label = LABELS[number % 2]
        write_npz(folder / f"{label}-{number}-{length}.npz", marked(number, length))
    return folder


@pytest.fixture(scope="module")
def dataset(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "dataset"
    return pack_videos(
        source, out, image_size=8, min_length=5, validation_fraction=0.4, progress=False
    )


def number(video) -> int:
    return int(video.name.split("-")[1])


def test_every_frame_arrives_under_its_name(dataset):
    assert len(dataset.videos) == len(LENGTHS) and dataset.image_size == 8
    assert isinstance(dataset.frames, np.memmap)
    for video in dataset.videos:
        wanted = marked(number(video), LENGTHS[number(video)])
        np.testing.assert_array_equal(dataset.clip(video), wanted)
        assert video.label == LABELS[number(video) % 2]
        assert np.shares_memory(dataset.clip(video, 1, 2), dataset.frames)
        np.testing.assert_array_equal(dataset.clip(video, 1, 2), wanted[1:3])
        np.testing.assert_array_equal(dataset.clip(video, 3), wanted[3:])


def test_the_manifest_says_what_made_it(dataset, source):
    manifest = json.loads((dataset.path / "manifest.json").read_text())
    assert manifest["settings"]["image_size"] == 8 and manifest["settings"]["stride"] == 1
    assert manifest["sha256"] == packing.sha256(dataset.path / "frames.npy")
    assert manifest["source"] == [str(source)] and manifest["skipped"] == []
    assert manifest["frames"] == sum(LENGTHS) == len(np.load(dataset.path / "frames.npy"))
    assert manifest == dataset.manifest == VideoDataset.open(dataset.path, verify=True).manifest


def test_the_record_of_a_collection_is_kept(tmp_path):
    write_npz(tmp_path / "in" / "reach-0-6.npz", marked(0, 6))
    record = {"settings": {"rendering": "fast"}, "seeds": {"reach-0": 3}}
    (tmp_path / "in" / "collect.json").write_text(json.dumps(record))
    dataset = pack_videos(tmp_path / "in", tmp_path / "out", min_length=5, progress=False)
    assert dataset.manifest["collected"] == [{"settings": {"rendering": "fast"}}]


@given(
    batch=st.integers(1, 9),
    length=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    split=st.sampled_from(["train", "validation"]),
)
@settings(max_examples=80, deadline=None)
def test_a_sample_is_a_run_of_one_video_of_its_split(dataset, batch, length, seed, split):
    sample = dataset.sample(batch, length, np.random.default_rng(seed), split)
    assert sample.shape == (batch, length, 8, 8, 3) and sample.dtype == np.uint8
    allowed = {number(video) for video in dataset.split(split)}
    for sequence in sample:
        assert (sequence == sequence[:, :1, :1]).all()
        which, times = sequence[:, 0, 0, 0], sequence[:, 0, 0, 1].astype(int)
        assert set(which) <= allowed and len(set(which)) == 1
        assert (np.diff(times) == 1).all() and times[-1] < LENGTHS[which[0]]
    again = dataset.sample(batch, length, np.random.default_rng(seed), split)
    np.testing.assert_array_equal(sample, again)


def test_sampling_is_uniform_over_long_enough_videos_and_over_starts(dataset):
    draws, length = 6000, 9
    sample = dataset.sample(draws, length, np.random.default_rng(0))
    allowed = [number(v) for v in dataset.split("train") if v.length >= length]
    counts = Counter(sample[:, 0, 0, 0, 0].tolist())
    assert set(counts) == set(allowed)
    for video in allowed:
        share = counts[video] / draws
        assert abs(share - 1 / len(allowed)) < 5 * np.sqrt(1 / len(allowed) / draws)
        starts = Counter(sample[sample[:, 0, 0, 0, 0] == video][:, 0, 0, 0, 1].tolist())
        assert set(starts) == set(range(LENGTHS[video] - length + 1))


@given(
    labels=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=60),
    fraction=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    seed=st.integers(0, 99),
)
def test_the_split_is_by_label_and_repeatable(labels, fraction, seed):
    split = packing.split_by_label(labels, fraction, seed)
    assert split == packing.split_by_label(labels, fraction, seed)
    for label, count in Counter(labels).items():
        held_out = sum(s == "validation" for s, x in zip(split, labels, strict=True) if x == label)
        if fraction == 0:
            assert held_out == 0
        elif count > 1:
            assert 1 <= held_out <= count - 1 and abs(held_out - fraction * count) <= 1
    more = packing.split_by_label([*labels, "z", "z"], fraction, seed)  # a new label moves no other
    shared = [i for i, label in enumerate(labels) if labels.count(label) > 1]
    assert [more[i] for i in shared] == [split[i] for i in shared]


def test_other_seeds_hold_out_other_videos():
    labels = ["a"] * 40
    assert packing.split_by_label(labels, 0.5, 0) != packing.split_by_label(labels, 0.5, 1)


def test_videos_with_labels_of_their_own_are_split_too():
    split = packing.split_by_label([f"label {i}" for i in range(20)], 0.1, 0)
    assert split.count("validation") == 2
    assert packing.split_by_label(["only"], 0.5, 0) == ["train"]


def test_evaluation_clips_are_fixed_and_spread_over_videos(dataset):
    held_out = dataset.split("validation")
    count = 3 * len(held_out)
    clips = dataset.clips(count, 5)
    np.testing.assert_array_equal(clips, dataset.clips(count, 5))
    assert clips.shape == (count, 5, 8, 8, 3)
    which = clips[:, 0, 0, 0, 0].tolist()
    assert Counter(which) == {number(video): 3 for video in held_out}
    labels = {LABELS[video % 2] for video in which[:2]}
    assert labels == set(LABELS)  # both labels come before either comes twice
    longest = max(held_out, key=lambda video: video.length)
    starts = clips[clips[:, 0, 0, 0, 0] == number(longest)][:, 0, 0, 0, 1]
    thirds = starts / (longest.length - 5 + 1) * 3
    assert thirds.astype(int).tolist() == [0, 1, 2]
    assert not np.array_equal(clips, dataset.clips(count, 5, seed=1))


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": -3}, {"count": 2, "seed": -1}])
def test_impossible_evaluation_clips_are_refused(dataset, wrong):
    with pytest.raises(InputError, match=r"count=.* must be at least 1 and seed=.* at least 0"):
        dataset.clips(length=5, **wrong)


def test_forms_strides_and_sizes_can_be_mixed(tmp_path):
    write_npz(tmp_path / "a" / "x" / "reach-0-12.npz", numbered(12, 16, 16))
    write_video(tmp_path / "a" / "clip.webm", numbered(12, 48, 64))
    inner = tmp_path / "b" / "close_jar" / "variation0" / "episodes" / "episode0"
    write_folder(inner / "front_rgb", numbered(12, 20, 20))
    sources = [tmp_path / "a", tmp_path / "b", tmp_path / "a" / "x"]  # the last is there already
    dataset = pack_videos(sources, tmp_path / "out", stride=2, min_length=6, progress=False)
    assert [(video.name, video.label) for video in dataset.videos] == [
        ("a/clip.webm", "a"),
        ("a/x/reach-0-12.npz", "reach"),
        ("b/close_jar/variation0/episodes/episode0/front_rgb", "close_jar"),
    ]
    for video in dataset.videos:
        assert number_of(dataset.clip(video)) == [0, 2, 4, 6, 8, 10]
    assert dataset.image_size == 64


def test_one_video_alone_can_be_packed(tmp_path):
    write_folder(tmp_path / "walk" / "camera", numbered(6, 8, 8))
    dataset = pack_videos(
        tmp_path / "walk" / "camera", tmp_path / "out", image_size=8, min_length=6, progress=False
    )
    assert [(v.name, v.label, v.split) for v in dataset.videos] == [("camera", "walk", "train")]


def test_the_same_pack_twice_is_the_same_bytes(source, dataset, tmp_path):
    options = {"image_size": 8, "min_length": 5, "validation_fraction": 0.4, "progress": False}
    again = pack_videos(source, tmp_path / "other", **options)
    for name in ("frames.npy", "manifest.json"):
        assert (again.path / name).read_bytes() == (dataset.path / name).read_bytes()


def test_an_existing_dataset_is_returned_at_once(source, dataset, monkeypatch):
    monkeypatch.setattr(packing, "locked_partial", None)  # nothing may be built or written
    options = {"image_size": 8, "min_length": 5, "validation_fraction": 0.4, "progress": False}
    assert pack_videos(source, dataset.path, **options).manifest == dataset.manifest
    with pytest.raises(InputError, match=r"stride=1, not 2.*delete it or choose another"):
        pack_videos(source, dataset.path, **options, stride=2)


def test_other_videos_do_not_pass_for_the_same_dataset(tmp_path):
    write_npz(tmp_path / "in" / "a-0-6.npz", marked(0, 6))
    pack_videos(tmp_path / "in", tmp_path / "out", min_length=5, progress=False)
    write_npz(tmp_path / "in" / "a-1-6.npz", marked(1, 6))
    with pytest.raises(InputError, match="other videos"):
        pack_videos(tmp_path / "in", tmp_path / "out", min_length=5, progress=False)


def test_videos_made_anew_under_their_old_names_do_not_pass_either(tmp_path):
    folder = write_folder(tmp_path / "in" / "a", numbered(6, 8, 8))
    write_npz(tmp_path / "in" / "b-0-6.npz", marked(0, 6))
    options = {"min_length": 5, "progress": False}
    pack_videos(tmp_path / "in", tmp_path / "out", **options)
    file = tmp_path / "in" / "b-0-6.npz"
    for changed in (folder / "3.png", file):
        stat = changed.stat()
        os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))
        with pytest.raises(InputError, match="other videos"):
            pack_videos(tmp_path / "in", tmp_path / "out", **options)
        os.utime(changed, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        pack_videos(tmp_path / "in", tmp_path / "out", **options)
    image = (folder / "3.png").stat()
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes() + b"longer")
    os.utime(folder / "3.png", ns=(image.st_atime_ns, image.st_mtime_ns))
    with pytest.raises(InputError, match="other videos"):
        pack_videos(tmp_path / "in", tmp_path / "out", **options)


def _killed_at(stage: str, source, out) -> None:
    def die(*_args, **_options):
        os.kill(os.getpid(), signal.SIGKILL)

    if stage == "reading":
        frames, videos = packing.iterate_video, []

        def iterate(path, **options):
            videos.append(path)
            return die() if len(videos) == 3 else frames(path, **options)

        packing.iterate_video = iterate
    else:
        setattr(packing, stage, die)
    pack_videos(source, out, image_size=8, min_length=5, progress=False)


@pytest.mark.parametrize("stage", ["reading", "split_by_label", "sha256", "publish"])
def test_a_killed_pack_leaves_nothing_half_made(source, tmp_path, stage):
    out = tmp_path / "out"
    process = mp.get_context("fork").Process(target=_killed_at, args=(stage, source, out))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists() and list(tmp_path.iterdir()) == [tmp_path / ".out.partial"]
    dataset = pack_videos(source, out, image_size=8, min_length=5, progress=False)
    assert VideoDataset.open(out, verify=True).videos == dataset.videos
    assert list(tmp_path.iterdir()) == [out]
    assert sorted(path.name for path in out.iterdir()) == ["frames.npy", "manifest.json"]


def test_an_interrupted_pack_cleans_up(source, tmp_path, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "split_by_label", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pack_videos(source, tmp_path / "out", min_length=5, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_two_packs_at_once_do_not_mix(source, tmp_path):
    with (
        packing.locked_partial(tmp_path / "out"),
        pytest.raises(InputError, match=r"Another process is writing to .*out: wait"),
    ):
        pack_videos(source, tmp_path / "out", min_length=5, progress=False)


def test_progress_shows_the_time_left(source, tmp_path, capsys):
    pack_videos(source, tmp_path / "out", image_size=8, min_length=5)
    shown = capsys.readouterr().err
    assert f"{len(LENGTHS)}/{len(LENGTHS)}" in shown and "00:00<00:00" in shown


def test_a_long_video_is_packed_in_little_memory(tmp_path):
    np.savez(tmp_path / "long.npz", image=np.zeros((1500, 64, 64, 3), np.uint8))  # 18 MB
    tracemalloc.start()
    pack_videos(tmp_path, tmp_path / "out", progress=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_a_dataset_is_not_read_when_opened_nor_copied_when_looked_at(tmp_path):
    videos, length = 5000, 60
    with (tmp_path / "frames.npy").open("wb") as file:  # a file with a hole: 3.7 GB, none on disk
        file.write(packing._npy_header(videos * length, 64))
        file.truncate(file.tell() + videos * length * 64 * 64 * 3)
    entries = [
        {"name": f"{i}", "label": f"{i % 50}", "split": "train", "start": i * length, "length": 60}
        for i in range(videos)
    ]
    manifest = {
        "format": packing.FORMAT,
        "frames": videos * length,
        "sha256": "",
        "settings": {"image_size": 64},
        "videos": entries,
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    tracemalloc.start()
    dataset = VideoDataset.open(tmp_path)
    sample = dataset.sample(16, 25, np.random.default_rng(0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sample.shape == (16, 25, 64, 64, 3) and not sample.any()
    assert peak < 20e6 < dataset.frames.nbytes / 100  # the manifest, and what was drawn
    assert isinstance(dataset.frames, np.memmap) and not dataset.frames.flags.owndata
    assert np.shares_memory(dataset.clip(dataset.videos[-1]), dataset.frames)
