"""Seconds of a pre-training step, beside a naive step and the machine's matrix-product peak."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from apv_edu.bench.naive import NaiveStep
from apv_edu.config import PRETRAIN, LossConfig, ModelSize, OptimizerConfig
from apv_edu.nets.vision import DECODER_KERNELS
from apv_edu.optimizer import DecoupledAdam
from apv_edu.video_model import ActionFreeVideoModel

SIZES = {"small": ModelSize(), "paper": PRETRAIN["paper"].model}
ROUNDS = {"small": 15, "paper": 5}
GEMM = 2048


def flops_per_step(size: ModelSize, batch: int, length: int) -> int:
    """Floating-point operations of one update: two a multiply-add, convolutions and products only.

    ``size`` has an image size of 32 or 64; ``batch`` sequences of ``length`` frames. The backward
    pass is twice the forward pass, less the gradient of the frames.

    Source: counted from the layers of ``apv_edu.nets``, those of APV's appendix.
    """
    pixels, channels, encoder = size.image_size, 3, []
    for layer in range(len(DECODER_KERNELS[size.image_size])):
        pixels, wider = (pixels - 4) // 2 + 1, size.depth * 2**layer
        encoder.append(pixels**2 * 4**2 * channels * wider)
        channels = wider
    embed = pixels**2 * channels

    latent, deter, hidden = size.stoch * size.classes, size.deter, size.hidden
    prior = deter * hidden + hidden * latent
    posterior = (deter + embed) * hidden + hidden * latent
    rssm = latent * hidden + (hidden + deter) * 3 * deter + prior + posterior

    decoder, pixels, channels = (latent + deter) * embed, 1, embed
    widths = [*(size.depth * 2**layer for layer in reversed(range(len(encoder) - 1))), 3]
    for kernel, width in zip(DECODER_KERNELS[size.image_size], widths, strict=True):
        decoder += pixels**2 * kernel**2 * channels * width
        pixels, channels = (pixels - 1) * 2 + kernel, width
    return 2 * batch * length * (3 * (sum(encoder) + rssm + decoder) - encoder[0])


def fast_step(model: ActionFreeVideoModel, batch: int, length: int) -> Callable[[Tensor], None]:
    """The step of the book: loss with drawn noise, gradients, update."""
    optimizer = DecoupledAdam(model.parameters(), OptimizerConfig())
    generator = torch.Generator().manual_seed(0)

    def step(frames: Tensor) -> None:
        noise = model.noise(batch, length, generator)
        loss, _ = model.loss(frames, config=LossConfig(), noise=noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def interleaved(
    tasks: dict[str, Callable[[], object]], rounds: int
) -> dict[str, tuple[float, float]]:
    """Median wall and process CPU seconds of each task, taken in turns after one warm-up each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        for name, task in tasks.items():
            wall, cpu = time.perf_counter(), time.process_time()
            task()
            if turn > 0:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (median(wall for wall, _ in pairs), median(cpu for _, cpu in pairs))
        for name, pairs in times.items()
    }


def bench_pretrain(
    sizes: tuple[str, ...] = ("small", "paper"),
    *,
    batch: int = 16,
    length: int = 25,
    rounds: int | None = None,
) -> list[dict]:
    """One row a size and step: wall and CPU seconds, GFLOP/s, share of the sgemm peak.

    All at one thread. Rates and ratios are of CPU seconds, in which a busy neighbour does not
    count; the peak is the median of 2048x2048x2048 products taken between the steps.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            row
            for size in sizes
            for row in _bench_size(size, batch, length, rounds or ROUNDS[size])
        ]
    finally:
        torch.set_num_threads(threads)


def _bench_size(name: str, batch: int, length: int, rounds: int) -> list[dict]:
    size = SIZES[name]
    shape = (batch, length, size.image_size, size.image_size, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8)
    model = ActionFreeVideoModel(size)
    naive = NaiveStep(model)
    step = fast_step(model, batch, length)
    left, right = torch.randn(2, GEMM, GEMM)
    seconds = interleaved(
        {
            "sgemm": lambda: left @ right,
            "apv_edu": lambda: step(frames),
            "naive": lambda: naive.step(frames),
        },
        rounds,
    )
    peak = 2 * GEMM**3 / seconds["sgemm"][1] / 1e9
    work = flops_per_step(size, batch, length) / 1e9
    return [
        {
            "size": name,
            "step": which,
            "wall_s": seconds[which][0],
            "cpu_s": seconds[which][1],
            "times_naive": seconds["naive"][1] / seconds[which][1],
            "gflops": work / seconds[which][1],
            "sgemm_gflops": peak,
            "share_of_peak": work / seconds[which][1] / peak,
        }
        for which in ("apv_edu", "naive")
    ]
