"""How seconds grow: with the batch, the length, the model, the videos, the worlds, the threads."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from apv_edu.agent import APVAgent
from apv_edu.bench.data import BATCH, sparse_dataset
from apv_edu.bench.finetune import ACTION_DIM, CONFIGS, a_batch, book_update, flops_per_update
from apv_edu.bench.measure import SIZES, interleaved, log, threads
from apv_edu.bench.pretrain import book_step, flops_per_step, random_frames
from apv_edu.data.video import VideoDataset
from apv_edu.envs import make_env
from apv_edu.envs.vector import Worlds
from apv_edu.video_model import ActionFreeVideoModel

MODELS = ("smoke", "small", "colab", "paper")
SCENES = ("tabletop:reach", "metaworld:reach", "dmc:quadruped-walk")


def bench_scaling(
    sizes: tuple[str, ...] = ("small",),
    *,
    models: tuple[str, ...] = MODELS,
    batches: tuple[int, ...] = (4, 8, 16, 32, 64),
    lengths: tuple[int, ...] = (10, 25, 50, 100),
    videos: tuple[int, ...] = (50, 500, 5000),
    worlds: tuple[int, ...] = (1, 2, 4),
    scenes: tuple[str, ...] = SCENES,
    counts: tuple[int, ...] = (1, 2),
    steps: int = 200,
    rounds: int = 3,
) -> list[dict]:
    """One row a thing measured and a value of what it grows with.

    ``wall_s`` and ``cpu_s`` (of this process alone) are medians of one update, one sampled batch,
    or one step of all worlds; ``gflops`` is a rate of CPU seconds, None where nothing is counted;
    ``per_s`` is frames of a batch, or world steps, a wall second.

    Args:
        sizes: models whose batch, length and threads vary.
        models: sizes of a model, at 16x25 frames.
        batches: sequences of 25 frames.
        lengths: frames of 16 sequences.
        videos: of 30 frames, in a dataset in memory that 16x25 frames are sampled from.
        worlds: how many at once; more than one live in a process each.
        scenes: the names of these worlds.
        counts: threads of torch.
        steps: of the worlds.
        rounds: of everything else.
    """
    rows = []
    with threads(1):
        for size in sizes:
            for batch in batches:
                rows += _updates("batch", batch, size, batch, 25, rounds)
            for length in lengths:
                rows += _updates("length", length, size, 16, length, rounds)
        for model in models:
            rows += _updates("model", model, model, 16, 25, rounds, finetuning=False)
    for size in sizes:
        for count in counts:
            with threads(count):
                rows += _updates("threads", count, size, 16, 25, rounds)
    rows += [_sampling(count, 20 * rounds) for count in videos]
    return rows + [_worlds(scene, count, steps) for scene in scenes for count in worlds]


def _updates(
    against: str,
    value: int | str,
    size: str,
    batch: int,
    length: int,
    rounds: int,
    *,
    finetuning: bool = True,
) -> Iterator[dict]:
    log.info(f"scaling: {against} {value}, {size} model")
    frames = random_frames(SIZES[size], batch, length)
    step = book_step(ActionFreeVideoModel(SIZES[size]), frames)
    work = flops_per_step(SIZES[size], batch, length)
    yield _row(against, value, size, "pretraining", step, rounds, batch * length, work)
    if finetuning:
        config = CONFIGS[size]
        update = book_update(APVAgent(config, ACTION_DIM), a_batch(config, batch, length))
        work = flops_per_update(config, ACTION_DIM, batch, length)
        yield _row(against, value, size, "fine-tuning", update, rounds, batch * length, work)


def _sampling(videos: int, rounds: int) -> dict:
    log.info(f"scaling: {videos} videos")
    with TemporaryDirectory() as folder:
        dataset = VideoDataset.open(sparse_dataset(Path(folder), videos=videos, frames=30))
        np.asarray(dataset.frames).reshape(-1)[::4096].sum()  # every page is in memory then
        sample = partial(dataset.sample, *BATCH, np.random.default_rng(0))
        return _row("videos", videos, "", "sampled batch", sample, rounds, BATCH[0] * BATCH[1])


def _row(
    against: str,
    value: int | str,
    size: str,
    what: str,
    task: Callable[[], object],
    rounds: int,
    units: int,
    work: int | None = None,
) -> dict:
    ((wall, cpu),) = interleaved({what: task}, rounds).values()
    return {
        "against": against,
        "value": value,
        "size": size,
        "what": what,
        "wall_s": wall,
        "cpu_s": cpu,
        "gflops": None if work is None else work / cpu / 1e9,
        "per_s": units / wall,
    }


def _worlds(scene: str, count: int, steps: int) -> dict:
    log.info(f"scaling: {count} of {scene}")
    worlds = Worlds(partial(make_env, scene, time_limit=10 * steps), count)
    actions = np.random.default_rng(0).uniform(-1, 1, (count, worlds.action_dim))
    try:
        worlds.reset(range(count))
        step = partial(worlds.step, actions.astype(np.float32))
        return _row("worlds", count, scene, "step", step, steps, count)
    finally:
        worlds.close()
