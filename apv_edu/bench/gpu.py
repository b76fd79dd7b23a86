"""Milliseconds of an update on a GPU: naive, careful, and as one CUDA graph of compiled parts."""

from collections.abc import Callable

import torch

from apv_edu.agent import APVAgent
from apv_edu.bench.finetune import ACTION_DIM, CONFIGS, a_batch, flops_per_update
from apv_edu.bench.measure import GIB, interleaved, log
from apv_edu.bench.naive import NaiveStep
from apv_edu.bench.naive_agent import NaiveAgentStep
from apv_edu.bench.pretrain import flops_per_step, random_frames
from apv_edu.config import OptimizerConfig, PretrainConfig
from apv_edu.data.replay import Batch
from apv_edu.device import choose_device, choose_precision
from apv_edu.errors import InputError
from apv_edu.fast import WARMUP, GraphedStep, compile_parts
from apv_edu.optimizer import DecoupledAdam
from apv_edu.pretrain_step import TrainingState, train_step
from apv_edu.video_model import ActionFreeVideoModel

SHAPES = (("pre-training", 16, 25), ("fine-tuning", 16, 50), ("fine-tuning", 50, 50))
"""Kinds of update with the paper's batches: sequences, and frames of each."""
UPDATES = {"pre-training": 600_000, "fine-tuning": 50_000}
"""Of one whole run in the paper: of pre-training, and of 250 000 steps of Meta-World."""
PRODUCT = 8192
"""Edge of the square matrices whose product tells the peak of the arithmetic."""
Update = Callable[[], object]


def bench_gpu(
    sizes: tuple[str, ...] = ("paper",),
    *,
    shapes: tuple[tuple[str, int, int], ...] = SHAPES,
    device: str = "cuda",
    rounds: int = 15,
    product: int = PRODUCT,
) -> list[dict]:
    """One row a size, shape and way: wall milliseconds, TFLOP/s, hours of the updates of a run.

    ``arithmetic`` is the time of the counted operations at the measured rate of large products.
    Batches are on the GPU already, as the replay has them. ``device="cpu"`` is for tests.

    Raises:
        InputError: where there is no such device.
    """
    place = where(device, "gpu")
    peak = _peak(place, product, rounds)
    return [
        row
        for size in sizes
        for kind, batch, length in shapes
        for row in _rows(size, kind, batch, length, place, rounds, peak)
    ]


def named(device: torch.device) -> dict[str, str]:
    """What the figures depend on: the card and the version of torch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": name, "torch": torch.__version__}


def where(device: str, bench: str) -> torch.device:
    """The device to measure.

    Raises:
        InputError: where there is no such device.
    """
    try:
        return choose_device(device)
    except InputError as error:
        raise InputError(
            f"{bench} measures a CUDA GPU and there is none here: leave it out."
        ) from error


def _peak(device: torch.device, edge: int, rounds: int) -> float:
    """Operations a second in products of square bf16 matrices."""
    left, right = torch.randn(2, edge, edge, device=device, dtype=torch.bfloat16)
    task = waiting(lambda: left @ right, device)
    return 2 * edge**3 / interleaved({"product": task}, rounds)["product"][0]


def _rows(
    size: str, kind: str, batch: int, length: int, device: torch.device, rounds: int, peak: float
) -> list[dict]:
    log.info(f"gpu: {kind}, {size} model, {batch}x{length} frames")
    updates, work = ways_of(kind, size, batch, length, device)
    tasks = {name: waiting(update, device) for name, update in updates.items()}
    seconds = {name: wall for name, (wall, _) in interleaved(tasks, rounds).items()}
    log.info(", ".join(f"{name} {1e3 * wall:.1f} ms" for name, wall in seconds.items()))
    seconds["arithmetic"] = work / peak
    on_gpu = device.type == "cuda"
    return [
        {
            "size": size,
            "update": kind,
            "batch": f"{batch}x{length}",
            "way": way,
            **named(device),
            "wall_ms": 1e3 * wall,
            "tflops": work / wall / 1e12,
            "times_naive": seconds["naive eager"] / wall,
            "times_careful": seconds["careful eager"] / wall,
            "run_h": UPDATES[kind] * wall / 3600,
            "peak_gib": torch.cuda.max_memory_allocated(device) / GIB if on_gpu else None,
        }
        for way, wall in seconds.items()
    ]


def ways_of(
    kind: str, size: str, batch: int, length: int, device: torch.device
) -> tuple[dict[str, Update], int]:
    """The ways of one update, by name, and the operations that it takes.

    That of ``graph`` is compiled, and records itself at its next call.
    """
    torch.compiler.reset()  # after a few models torch would give up and run them uncompiled
    make = _pretraining if kind == "pre-training" else _finetuning
    updates, work = make(size, batch, length, device)
    for _ in range(WARMUP):
        updates["graph"]()
    return updates, work


def _pretraining(
    size: str, batch: int, length: int, device: torch.device
) -> tuple[dict[str, Update], int]:
    config = PretrainConfig(model=CONFIGS[size].model)
    precision = choose_precision("auto", device)
    frames = random_frames(config.model, batch, length).to(device)

    def new() -> TrainingState:
        model = ActionFreeVideoModel(config.model).to(device)
        return TrainingState(model, DecoupledAdam(model.parameters(), OptimizerConfig()))

    def learn(state: TrainingState, generator: torch.Generator) -> GraphedStep:
        def step(frames: torch.Tensor) -> dict[str, torch.Tensor]:
            noise = state.model.noise(batch, length, generator)
            return train_step(state, frames, config, noise, precision)

        return GraphedStep(step, generator)

    naive, careful, fast = NaiveStep(new().model), new(), new()
    compile_parts(fast.model, [fast.optimizer])
    eager, graphed = (learn(state, torch.Generator(device)) for state in (careful, fast))
    updates: dict[str, Update] = {
        "naive eager": lambda: naive.step(frames),
        "careful eager": lambda: eager.step(frames),
        "graph": lambda: graphed(frames, seed=0),
    }
    return updates, flops_per_step(config.model, batch, length)


def _finetuning(
    size: str, batch: int, length: int, device: torch.device
) -> tuple[dict[str, Update], int]:
    config, precision = CONFIGS[size], choose_precision("auto", device)
    experience = Batch(*(tensor.to(device) for tensor in a_batch(config, batch, length)))

    def learn(agent: APVAgent, generator: torch.Generator) -> GraphedStep:
        def step(*tensors: torch.Tensor) -> dict[str, torch.Tensor]:
            noise = agent.noise(batch, length, generator)
            return agent.learn(Batch(*tensors), noise, precision)

        return GraphedStep(step, generator)

    careful, fast = (APVAgent(config, ACTION_DIM).to(device) for _ in range(2))
    # Broadcasting would fill the memory at the larger batch.
    naive = NaiveAgentStep(careful, search="matmul")
    compile_parts(fast, fast.optimizers.values())
    eager, graphed = (learn(agent, torch.Generator(device)) for agent in (careful, fast))
    updates: dict[str, Update] = {
        "naive eager": lambda: naive.step(experience),
        "careful eager": lambda: eager.step(*experience),
        "graph": lambda: graphed(*experience, seed=0),
    }
    return updates, flops_per_update(config, ACTION_DIM, batch, length)


def waiting(update: Update, device: torch.device) -> Update:
    """``update``, done when the GPU is."""

    def task() -> None:
        update()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return task
