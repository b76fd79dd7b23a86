"""The replay: what it holds, what it draws, and what a killed run finds again."""

import errno
import multiprocessing as mp
import os
import signal
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from apv_edu.data import replay as module
from apv_edu.data.readers import read_video
from apv_edu.data.replay import Batch, Episode, Replay, read_episode, write_episode
from apv_edu.errors import InputError

SIZE, ACTIONS = 4, 2
LENGTHS = (6, 9, 3, 12, 5, 8, 7, 11, 4, 10, 6, 9)


def marked(index: int, length: int, success: bool | None = None) -> Episode:
    """An episode in which every number tells the episode and the time."""
    time = np.arange(length)
    image = np.zeros((length, SIZE, SIZE, 3), np.uint8)
    image[..., 0], image[..., 1] = index, time[:, None, None]
    action = np.stack([time, np.full(length, index)], 1).astype(np.float32)
    return Episode(image, action, (100 * index + time).astype(np.float32), success)


def filled(lengths=LENGTHS, capacity: int = 30, folder: Path | None = None) -> Replay:
    replay = Replay(capacity, SIZE, ACTIONS, folder=folder)
    for index, length in enumerate(lengths):
        replay.add(marked(index, length))
    return replay


class Lists:
    """The same replay as lists of whole episodes, with loops and no ring."""

    def __init__(self, capacity: int):
        self.capacity, self.held, self.added = capacity, [], 0

    def add(self, episode: Episode) -> None:
        self.held.append(episode)
        self.added += 1
        while sum(len(e.reward) for e in self.held) > self.capacity:
            del self.held[0]

    def sample(self, batch: int, length: int, rng: np.random.Generator) -> Batch:
        enough = [e for e in self.held if len(e.reward) >= length]
        chosen = [enough[i] for i in rng.integers(len(enough), size=batch)]
        rows = []
        for episode in chosen:
            upper = len(episode.reward) - length + 1
            start = min(int(rng.integers(upper + length)), len(episode.reward) - length)
            part = slice(start, start + length)
            first = np.arange(length) == 0
            rows.append((episode.image[part], episode.action[part], episode.reward[part], first))
        return Batch(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))


def assert_same(batch: Batch, wanted: Batch) -> None:
    for name in Batch._fields:
        ours, theirs = getattr(batch, name), getattr(wanted, name)
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), name


def draws(replay: Replay | Lists, seed: int = 3) -> list[Batch]:
    rng = np.random.default_rng(seed)
    return [Batch(*(x.clone() for x in replay.sample(*sizes, rng))) for sizes in [(5, 4), (3, 1)]]


def one_sentence(message: str, *words: str) -> None:
    assert "\n" not in message and message.endswith(".") and ": " in message, message
    assert ". " not in message, message
    for word in words:
        assert word in message, (word, message)


def refused(call, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    one_sentence(str(caught.value), *words)


# What it holds and draws


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.integers(12, 50),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=25),
    length=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_equals_lists_of_episodes_from_the_same_draws(capacity, lengths, length, seed):
    replay, lists = Replay(capacity, SIZE, ACTIONS), Lists(capacity)
    ours, theirs = np.random.default_rng(seed), np.random.default_rng(seed)
    for index, total in enumerate(lengths):
        episode = marked(index, total)
        replay.add(episode)
        lists.add(episode)
        held = [len(e.reward) for e in lists.held]
        assert (replay.added, replay.episodes) == (lists.added, len(held))
        assert replay.frames == sum(held) <= capacity
        if max(held) >= length:
            assert_same(replay.sample(4, length, ours), lists.sample(4, length, theirs))


def test_on_a_device_it_draws_the_same():
    """Indices and a gather instead of copies; the CPU stands in for the GPU."""
    here, there = filled(), Replay(30, SIZE, ACTIONS, device=torch.device("cpu"))
    for index, length in enumerate(LENGTHS):
        there.add(marked(index, length))
    assert there.frames == here.frames
    for length in (1, 5, 9):
        draws = (np.random.default_rng(length) for _ in range(2))
        assert_same(
            *(r.sample(16, length, rng) for r, rng in zip((here, there), draws, strict=True))
        )


def test_episodes_are_uniform_and_ends_are_prioritised():
    """All ``total + 1`` starts are equally likely; the last possible one takes the late ones."""
    replay = Replay(60, SIZE, ACTIONS)
    totals, length, batch = (4, 5, 9, 20), 5, 30_000
    for index, total in enumerate(totals):
        replay.add(marked(index, total))
    drawn = replay.sample(batch, length, np.random.default_rng(0)).image[:, 0, 0, 0]
    seen, wanted = [], []
    for index, total in enumerate(totals[1:], 1):  # the first is too short
        for start in range(total - length + 1):
            weight = length + 1 if start == total - length else 1
            wanted.append(batch * weight / (total + 1) / 3)
            seen.append(int(((drawn[:, 0] == index) & (drawn[:, 1] == start)).sum()))
    assert sum(seen) == batch
    assert stats.chisquare(seen, wanted).pvalue > 1e-3


def test_only_first_entries_are_first_and_sequences_stay_within_one_episode():
    batch = filled().sample(64, 5, np.random.default_rng(0))
    assert batch.is_first[:, 0].all() and not batch.is_first[:, 1:].any()
    episode, time = batch.image[:, :, 0, 0, 0].int(), batch.image[:, :, 0, 0, 1].int()
    assert (episode == episode[:, :1]).all() and (time.diff(dim=1) == 1).all()
    assert torch.equal(batch.action, torch.stack([time, episode], -1).float())
    assert torch.equal(batch.reward, (100 * episode + time).float())


def test_a_sequence_may_wrap_around_the_end_of_the_ring():
    replay = filled(lengths=(7, 8), capacity=10)
    assert (replay.episodes, replay.frames) == (1, 8)
    batch = replay.sample(1, 8, np.random.default_rng(0))  # rows 7, 8, 9, 0, ..., 4
    assert torch.equal(batch.reward[0], 100 + torch.arange(8.0))


def test_the_oldest_whole_episodes_make_room():
    replay = filled(lengths=(4, 4), capacity=10)
    replay.add(marked(2, 2))
    assert (replay.episodes, replay.frames) == (3, 10)  # an exact fit drops none
    replay.add(marked(3, 5))
    assert (replay.episodes, replay.frames, replay.added) == (2, 7, 4)
    batch = replay.sample(200, 1, np.random.default_rng(0))
    assert set(batch.image[:, 0, 0, 0, 0].tolist()) == {2, 3}


def test_buffers_are_reused():
    replay = filled()
    first = replay.sample(3, 4, np.random.default_rng(0))
    kept, place = first.reward.clone(), first.image.data_ptr()
    again = replay.sample(3, 4, np.random.default_rng(1))
    assert again.image.data_ptr() == place and not torch.equal(first.reward, kept)
    assert replay.sample(2, 6, np.random.default_rng(0)).image.shape == (2, 6, SIZE, SIZE, 3)


def test_the_paper_s_replay_takes_3_3_gb_at_most_and_none_before_it_is_filled(monkeypatch):
    small = Replay(1000, 64, 4)
    assert small.nbytes == 1000 * (64 * 64 * 3 + 4 * 4 + 4)
    assert 250 * small.nbytes <= 3.3e9
    monkeypatch.setattr(module, "available_memory", lambda _: 10**12)
    before = Path("/proc/self/statm").read_text().split()[1]
    large = Replay(250_000, 64, 4)
    pages = int(Path("/proc/self/statm").read_text().split()[1]) - int(before)
    assert large.nbytes == 250 * small.nbytes and pages * os.sysconf("SC_PAGE_SIZE") < 1e8


# What a killed run finds again


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("added", range(1, len(LENGTHS) + 1))
def test_restored_samples_are_bit_identical(tmp_path, added, pruned):
    """Also after eviction and wrap-around, and where later episodes dropped what is asked for."""
    replay = filled(LENGTHS[:added], folder=tmp_path)
    if pruned:
        replay.prune()
    wanted, (held, frames) = draws(replay), (replay.episodes, replay.frames)
    for index in range(added, len(LENGTHS)):  # what the kill will undo
        replay.add(marked(50 + index, LENGTHS[index] + 1))
    again = Replay(30, SIZE, ACTIONS)
    again.restore(tmp_path, added=added, episodes=held)
    assert (again.added, again.episodes, again.frames) == (added, held, frames)
    for ours, theirs in zip(draws(again), wanted, strict=True):
        assert_same(ours, theirs)
    # and it goes on as if nothing had happened
    whole = filled()
    for index in range(added, len(LENGTHS)):
        again.add(marked(index, LENGTHS[index]))
    for ours, theirs in zip(draws(again), draws(whole), strict=True):
        assert_same(ours, theirs)
    again.prune()
    assert len(list(tmp_path.iterdir())) == whole.episodes


def test_restore_without_a_count_takes_what_fits(tmp_path):
    replay = filled(folder=tmp_path)  # nothing pruned: all files are there
    wanted = draws(replay)
    again = Replay(30, SIZE, ACTIONS, folder=tmp_path)
    again.restore(tmp_path, added=len(LENGTHS))
    for ours, theirs in zip(draws(again), wanted, strict=True):
        assert_same(ours, theirs)
    assert len(list(tmp_path.iterdir())) == again.episodes
    smaller = Replay(12, SIZE, ACTIONS)
    smaller.restore(tmp_path, added=len(LENGTHS))
    assert (smaller.added, smaller.episodes, smaller.frames) == (len(LENGTHS), 1, 9)


def test_restore_clears_a_killed_run_s_future_and_halves(tmp_path):
    filled((6, 9, 3, 12), folder=tmp_path)
    (tmp_path / ".000004-5.npz.123.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("not an episode")
    again = Replay(30, SIZE, ACTIONS)
    again.restore(tmp_path, added=2, episodes=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["000000-6.npz", "000001-9.npz", "notes.txt"]
    again.add(marked(2, 7))
    assert (tmp_path / "000002-7.npz").exists() and again.added == 3
    again.restore(tmp_path, added=2)  # into one that already holds something
    assert (again.added, again.episodes, again.frames) == (2, 2, 15)


def test_restore_to_the_very_beginning(tmp_path):
    filled((6, 9), folder=tmp_path)
    again = Replay(30, SIZE, ACTIONS)
    again.restore(tmp_path, added=0, episodes=0)
    assert (again.added, again.episodes) == (0, 0) and not any(tmp_path.iterdir())
    again.restore(tmp_path / "new", added=0)
    again.add(marked(0, 5))
    assert (tmp_path / "new" / "000000-5.npz").exists()


def test_prune_deletes_dropped_episodes_only(tmp_path):
    replay = filled(folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == len(LENGTHS) > replay.episodes
    replay.prune()
    kept = sorted(int(path.name[:6]) for path in tmp_path.iterdir())
    assert kept == list(range(replay.added - replay.episodes, replay.added))


def test_a_killed_writer_leaves_whole_episodes(tmp_path):
    """Killed anywhere while it adds: every file under its own name can be restored."""
    process = mp.get_context("fork").Process(target=filled, args=([7] * 5000, 30, tmp_path))
    process.start()
    while len(list(tmp_path.glob("*.npz"))) < 20:
        assert process.is_alive()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    added = len(list(tmp_path.glob("[0-9]*.npz")))
    assert 20 <= added < 5000
    again = Replay(30, SIZE, ACTIONS)
    again.restore(tmp_path, added=added)
    for ours, theirs in zip(draws(again), draws(filled([7] * added)), strict=True):
        assert_same(ours, theirs)
    assert len(list(tmp_path.iterdir())) == again.episodes


@pytest.mark.parametrize("success", [None, False, True])
def test_episode_files_are_official_ones(tmp_path, success):
    path, episode = tmp_path / "000000-6.npz", marked(0, 6, success)
    write_episode(path, episode)
    again = read_episode(path)
    assert again.success is success
    for key in ("image", "action", "reward"):
        np.testing.assert_array_equal(getattr(again, key), getattr(episode, key), strict=True)
    with np.load(path) as file:
        assert all(len(file[key]) == 6 for key in file)  # the official loader slices every key
        assert file["is_first"].tolist() == [True] + [False] * 5
        assert file["is_last"].tolist() == [False] * 5 + [True]
        assert not file["is_terminal"].any()
    np.testing.assert_array_equal(read_video(path, image_size=SIZE), episode.image)


# Bad input


def test_too_large_a_replay_is_refused_before_anything_is_allocated():
    tracemalloc.start()
    refused(lambda: Replay(10**9, 64, 4), "1000000000 frames takes 12308.0 GB", "GB are free")
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    refused(lambda: Replay(0, 64, 4), "0 frames")


def test_the_largest_capacity_that_fits_is_named(monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda _: 2_000_000)
    refused(lambda: Replay(200, 64, 4), "0.0 GB are free", "1 to 162.")
    assert Replay(162, 64, 4).nbytes <= 2_000_000


def test_available_memory_is_that_of_the_machine_or_less():
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < module.available_memory() <= pages


@pytest.mark.parametrize(
    ("key", "array", "words"),
    [
        ("image", np.zeros((5, 8, 8, 3), np.uint8), ("(5, 8, 8, 3)", "(5, 4, 4, 3)")),
        ("image", np.zeros((5, 4, 4, 3), np.float32), ("float32 image", "uint8")),
        ("image", np.zeros((), np.uint8), ("image of shape ()",)),
        ("action", np.zeros((5, 3), np.float32), ("action", "(5, 2)")),
        ("action", np.zeros((4, 2), np.float32), ("action", "(5, 2)")),
        ("reward", np.zeros(5), ("float64 reward",)),
        ("reward", np.full(5, np.nan, np.float32), ("reward", "not finite")),
        ("action", np.full((5, 2), np.inf, np.float32), ("action", "not finite")),
    ],
)
def test_a_wrong_episode_changes_nothing(tmp_path, key, array, words):
    replay = filled((6, 9), folder=tmp_path)
    wanted = draws(replay)
    refused(lambda: replay.add(Episode(**(vars(marked(2, 5)) | {key: array}))), *words)
    assert replay.added == 2 and len(list(tmp_path.iterdir())) == 2
    for ours, theirs in zip(draws(replay), wanted, strict=True):
        assert_same(ours, theirs)


def test_an_episode_longer_than_the_replay_or_empty():
    refused(lambda: Replay(10, SIZE, ACTIONS).add(marked(0, 11)), "11 entries", "1 to 10")
    refused(lambda: Replay(10, SIZE, ACTIONS).add(marked(0, 0)), "0 entries", "1 to 10")


def test_no_episode_is_long_enough():
    rng = np.random.default_rng(0)
    refused(lambda: filled().sample(2, 50, rng), "no episode of 50", "longest has 10")
    refused(lambda: filled().sample(2, 0, rng), "no episode of 0")
    refused(lambda: Replay(9, SIZE, ACTIONS).sample(2, 5, rng), "longest has 0")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_named(tmp_path, share):
    filled((6, 9, 3), folder=tmp_path)
    path = tmp_path / "000001-9.npz"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    later = Replay(30, SIZE, ACTIONS)
    refused(lambda: later.restore(tmp_path, added=2), str(path), "damaged")
    assert len(list(tmp_path.iterdir())) == 3  # nothing was deleted


def test_a_flipped_byte_is_found(tmp_path):
    filled((6, 9, 3), folder=tmp_path)
    path = tmp_path / "000001-9.npz"
    content = bytearray(path.read_bytes())
    content[content.index(b"image.npy") + 60] ^= 0xFF
    path.write_bytes(content)
    refused(lambda: Replay(30, SIZE, ACTIONS).restore(tmp_path, added=3), str(path), "damaged")


def test_a_file_without_actions_and_one_with_pickled_objects(tmp_path):
    video, objects = tmp_path / "000000-5.npz", tmp_path / "objects.npz"
    np.savez(video, image=marked(0, 5).image, reward=np.zeros(5, np.float32))
    refused(lambda: Replay(30, SIZE, ACTIONS).restore(tmp_path, added=1), str(video), "damaged")
    np.savez(objects, image=np.array([{}]), action=np.array([{}]), reward=np.array([{}]))
    refused(lambda: read_episode(objects), str(objects), "damaged")


def test_files_of_other_sizes_are_named(tmp_path):
    filled((6, 9), folder=tmp_path)
    other = Replay(30, SIZE, ACTIONS + 1)
    refused(lambda: other.restore(tmp_path, added=2), "000000-6.npz", "action", "(6, 3)")
    refused(lambda: Replay(5, SIZE, ACTIONS).restore(tmp_path, added=2), "000000-6.npz", "1 to 5")


@pytest.mark.parametrize(
    ("lost", "episodes"), [(1, None), (3, None), (0, 4), (1, 4), (3, 4), (None, 4)]
)
def test_a_missing_file_is_named(tmp_path, lost, episodes):
    filled((6, 9, 3, 5), folder=tmp_path)
    for path in tmp_path.iterdir():
        if lost is None or path.name.startswith(f"{lost:06d}"):
            path.unlink()
    later = Replay(30, SIZE, ACTIONS)
    name = f"{lost or 0:06d}-"
    refused(lambda: later.restore(tmp_path, added=4, episodes=episodes), str(tmp_path), name)


def test_a_missing_folder_is_named(tmp_path):
    later, folder = Replay(30, SIZE, ACTIONS), tmp_path / "nowhere"
    refused(lambda: later.restore(folder, added=4), str(folder), "000003-", "missing")


def test_a_new_run_does_not_mix_its_episodes_with_another_s(tmp_path):
    filled((6, 9), folder=tmp_path)
    new = Replay(30, SIZE, ACTIONS, folder=tmp_path)
    new.prune()
    refused(lambda: new.add(marked(0, 5)), str(tmp_path), "another run")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    replay = filled((6, 9), folder=tmp_path)
    wanted = draws(replay)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refused(lambda: replay.add(marked(2, 5)), "No space", "000002-5.npz")
    assert replay.added == 2
    for ours, theirs in zip(draws(replay), wanted, strict=True):
        assert_same(ours, theirs)
    replay.add(marked(2, 5))
    assert sorted(path.name[:6] for path in tmp_path.iterdir()) == ["000000", "000001", "000002"]
