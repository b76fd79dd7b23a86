"""Memory of an update: of pre-training, and of fine-tuning with the batches of the paper."""

from apv_edu.agent import APVAgent
from apv_edu.bench.finetune import ACTION_DIM, CONFIGS, a_batch, book_update
from apv_edu.bench.measure import GIB, SIZES, apart, log, peak_bytes, threads
from apv_edu.bench.pretrain import book_step, random_frames
from apv_edu.video_model import ActionFreeVideoModel

FINETUNING = ((16, 50), (50, 50))
"""Sequences and their length in the paper's settings for dm_control and Meta-World."""


def bench_memory(
    sizes: tuple[str, ...] = ("small", "paper"),
    *,
    pretraining: tuple[tuple[int, int], ...] = ((16, 25),),
    finetuning: tuple[tuple[int, int], ...] = FINETUNING,
    updates: int = 2,
) -> list[dict]:
    """One row a size and batch: GiB resident after the imports, and at most during ``updates``.

    Each is measured in a process of its own, which holds nothing else.
    """
    kinds = {"pretraining": pretraining, "fine-tuning": finetuning}
    rows = []
    for size in sizes:
        for kind, batches in kinds.items():
            for batch, length in batches:
                log.info(f"memory: {kind}, {size} model, {batch}x{length} frames")
                rows.append(apart(_memory, size, kind, batch, length, updates))
    return rows


def _memory(size: str, kind: str, batch: int, length: int, updates: int) -> dict:
    imports = peak_bytes()
    if kind == "pretraining":
        frames = random_frames(SIZES[size], batch, length)
        update = book_step(ActionFreeVideoModel(SIZES[size]), frames)
    else:
        config = CONFIGS[size]
        update = book_update(APVAgent(config, ACTION_DIM), a_batch(config, batch, length))
    with threads(1):
        for _ in range(updates):
            update()
    return {
        "size": size,
        "update": kind,
        "batch": f"{batch}x{length}",
        "imports_gib": imports / GIB,
        "peak_gib": peak_bytes() / GIB,
    }
