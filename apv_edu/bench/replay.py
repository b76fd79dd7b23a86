"""Seconds to sample a batch from the replay's ring, beside lists of episodes."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from apv_edu.bench.measure import interleaved, log
from apv_edu.data.replay import Batch, Episode, Replay

BATCHES = ((16, 50), (50, 50))
"""Sequences and their length in the paper's settings for dm_control and Meta-World."""
FULL = 250_000
"""Frames of a whole Meta-World run."""


def sample_lists(
    episodes: Sequence[Episode],
    batch: int,
    length: int,
    rng: np.random.Generator,
    *,
    official: bool,
) -> Batch:
    """What ``Replay.sample`` draws, from a list of episodes, one sequence after another.

    A slice of each is stacked into new memory; the ``official`` loader also copies every slice
    three times before: ``np.array``, ``astype`` and ``np.concatenate``.

    Source: ``_sample_sequence``, ``convert`` and ``_generate_chunks`` of the official
    ``common/replay.py``; the batch that TensorFlow puts together is ``np.stack`` here.
    """
    columns: tuple[list, ...] = ([], [], [], [])
    for _ in range(batch):
        episode = episodes[int(rng.integers(len(episodes)))]
        total = len(episode.reward)
        start = min(int(rng.integers(total + 1)), total - length)
        sequence = [
            array[start : start + length]
            for array in (episode.image, episode.action, episode.reward)
        ]
        if official:
            sequence = [np.array(part).astype(part.dtype) for part in sequence]
        is_first = np.zeros(length, bool)
        is_first[0] = True
        for column, part in zip(columns, [*sequence, is_first], strict=True):
            column.append(np.concatenate([part]) if official else part)
    return Batch(*(torch.from_numpy(np.stack(column)) for column in columns))


def bench_replay(
    *, frames: int = 20_000, episode: int = 500, image_size: int = 64, rounds: int = 101
) -> list[dict]:
    """One row a batch and way of sampling: wall and CPU seconds, times the official, memory.

    Args:
        frames: entries held.
        episode: entries of each episode.
        image_size: height and width of a frame, in pixels.
        rounds: batches that each way samples, by turns; the medians are reported.

    Returns:
        Rows for ``ring`` (ours), ``official``, ``lists`` (without the official one's needless
        copies) and ``copy``, one plain copy of as many frames, below which nothing can get;
        ``gb_of_250k`` is the memory of a replay of 250 000 frames.

    Raises:
        InputError: if the frames do not fit into memory.
    """
    rng = np.random.default_rng(0)
    replay, episodes = filled(frames, episode, image_size, rng)
    held = sum(e.image.nbytes + e.action.nbytes + e.reward.nbytes for e in episodes)
    rows = []
    for batch, length in BATCHES:
        log.info(f"replay: {batch}x{length} frames")
        lists = partial(sample_lists, episodes, batch, length, rng)
        images = np.ones((batch * length, image_size, image_size, 3), np.uint8)
        seconds = interleaved(
            {
                "ring": partial(replay.sample, batch, length, rng),
                "official": partial(lists, official=True),
                "lists": partial(lists, official=False),
                "copy": partial(np.copyto, np.ones_like(images), images),
            },
            rounds,
        )
        rows += [
            {
                "batch": f"{batch}x{length}",
                "from": name,
                "wall_s": wall,
                "cpu_s": cpu,
                "times_official": seconds["official"][1] / cpu,
                "gb_of_250k": FULL / frames * (replay.nbytes if name == "ring" else held) / 1e9,
            }
            for name, (wall, cpu) in seconds.items()
        ]
    return rows


def filled(
    frames: int, length: int, image_size: int, rng: np.random.Generator
) -> tuple[Replay, list[Episode]]:
    """A replay of ``frames`` entries, full of noise, and the same episodes in a list."""
    replay = Replay(frames, image_size, action_dim=4)
    episodes = [_random_episode(length, image_size, rng) for _ in range(frames // length)]
    for episode in episodes:
        replay.add(episode)
    return replay, episodes


def _random_episode(length: int, image_size: int, rng: np.random.Generator) -> Episode:
    return Episode(
        rng.integers(0, 256, (length, image_size, image_size, 3), np.uint8),
        rng.standard_normal((length, 4)).astype(np.float32),
        rng.standard_normal(length).astype(np.float32),
    )
