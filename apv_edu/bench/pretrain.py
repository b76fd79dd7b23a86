"""Seconds of a pre-training step, beside a naive step and the machine's matrix-product peak."""

from collections.abc import Callable

import torch
from torch import Tensor

from apv_edu.bench.measure import ROUNDS, SIZES, against_peak, compiled, log
from apv_edu.bench.naive import NaiveStep
from apv_edu.config import LossConfig, ModelSize, OptimizerConfig
from apv_edu.nets.vision import DECODER_KERNELS
from apv_edu.optimizer import DecoupledAdam
from apv_edu.video_model import ActionFreeVideoModel


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


def random_frames(size: ModelSize, batch: int, length: int) -> Tensor:
    """Videos of noise, which cost as much as any others."""
    shape = (batch, length, size.image_size, size.image_size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def book_step(model: ActionFreeVideoModel, frames: Tensor) -> Callable[[], None]:
    """The step of the book on ``frames``: loss with drawn noise, gradients, update."""
    optimizer = DecoupledAdam(model.parameters(), OptimizerConfig())
    generator = torch.Generator().manual_seed(0)
    batch, length = frames.shape[:2]

    def step() -> None:
        noise = model.noise(batch, length, generator)
        loss, _ = model.loss(frames, config=LossConfig(), noise=noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def bench_pretrain(
    sizes: tuple[str, ...] = ("small", "paper"),
    *,
    batch: int = 16,
    length: int = 25,
    rounds: int | None = None,
) -> list[dict]:
    """One row a size and step: wall and CPU seconds, GFLOP/s, share of the sgemm peak.

    The book's step, the same with its parts compiled (``fast``, whose compiling is not in the
    median but in ``compile_s``), and a naive one; all on one thread, by turns. Rates and ratios
    are of CPU seconds. Without a C++ compiler there is no row ``fast``.
    """
    return [row for size in sizes for row in _rows(size, batch, length, rounds or ROUNDS[size])]


def _rows(name: str, batch: int, length: int, rounds: int) -> list[dict]:
    log.info(f"pretrain: {name} model, {batch}x{length} frames")
    size = SIZES[name]
    frames, model = random_frames(size, batch, length), ActionFreeVideoModel(size)
    naive = NaiveStep(model)
    steps = {"apv_edu": book_step(model, frames), "naive": lambda: naive.step(frames)}
    quick = ActionFreeVideoModel(size)
    steps["fast"] = book_step(quick, frames)
    compile_s = compiled(quick, steps["fast"])
    if compile_s is None:
        del steps["fast"]
    measured = against_peak(steps, rounds, flops_per_step(size, batch, length))
    return [
        {
            "size": name,
            "step": which,
            **row,
            "times_naive": measured["naive"]["cpu_s"] / row["cpu_s"],
            "compile_s": compile_s if which == "fast" else 0.0,
        }
        for which, row in measured.items()
    ]
