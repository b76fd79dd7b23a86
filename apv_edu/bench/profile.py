"""Where the time of an update goes: products, convolutions, or all that is small."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

from apv_edu.agent import APVAgent
from apv_edu.bench.finetune import ACTION_DIM, CONFIGS, a_batch, book_update
from apv_edu.bench.measure import SIZES, log, threads
from apv_edu.bench.pretrain import book_step, random_frames
from apv_edu.video_model import ActionFreeVideoModel

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
KINDS = {
    "convolutions": ("conv",),
    "optimiser": ("fused_adam", "foreach"),
    "noise": ("uniform", "argmax"),
    "activations": ("elu", "sigmoid", "tanh", "softmax", "ndtr"),
    "copies and sums": ("copy", "cat", "add", "sum", "clone", "fill", "zero", "lerp"),
}
"""Words in the names of operations, of which the first that fits decides; see ``kind_of``."""


def kind_of(operation: str) -> str:
    """The kind of an operation that the profiler names, such as ``aten::addmm``."""
    name = operation.removeprefix("aten::")
    if name in PRODUCTS:
        return "products"
    kinds = (kind for kind, words in KINDS.items() if any(word in name for word in words))
    return next(kinds, "everything else")


def bench_profile(
    sizes: tuple[str, ...] = ("small", "paper"),
    *,
    batch: int = 16,
    pretrain_length: int = 25,
    finetune_length: int = 50,
) -> list[dict]:
    """One row a size, update and kind of operation: its CPU seconds and share of one update.

    From PyTorch's profiler, which itself costs some time at each operation, on one thread.
    """
    rows = []
    for size in sizes:
        log.info(f"profile: {size} model")
        frames = random_frames(SIZES[size], batch, pretrain_length)
        config = CONFIGS[size]
        experience = a_batch(config, batch, finetune_length)
        updates = {
            "pre-training": book_step(ActionFreeVideoModel(SIZES[size]), frames),
            "fine-tuning": book_update(APVAgent(config, ACTION_DIM), experience),
        }
        for name, update in updates.items():
            seconds = _seconds(update)
            whole = sum(seconds.values())
            rows += [
                {"size": size, "update": name, "kind": kind, "cpu_s": cpu, "share": cpu / whole}
                for kind, cpu in seconds.items()
            ]
    return rows


def _seconds(update: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of one update by kind; the first update is not counted."""
    with threads(1):
        update()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            update()
    seconds = dict.fromkeys(["products", *KINDS, "everything else"], 0.0)
    for event in profiler.key_averages():
        seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
    return seconds
