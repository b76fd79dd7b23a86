"""One step of pre-training: its batch and noise from (seed, step), the plain way and the fast."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from apv_edu.config import LossConfig, PretrainConfig
from apv_edu.data.video import VideoDataset
from apv_edu.distributed import ALONE, Processes
from apv_edu.fast import GraphedStep, compile_parts
from apv_edu.optimizer import DecoupledAdam
from apv_edu.seeds import stream
from apv_edu.video_model import ActionFreeVideoModel

BATCH, NOISE = range(2)  # streams of randomness under one seed; 2 is validation's


class BatchLoss(nn.Module):
    """The model's loss as a forward pass, which is the part that processes can share."""

    def __init__(self, model: ActionFreeVideoModel):
        super().__init__()
        self.model = model

    def forward(
        self, frames: UInt8[Tensor, "batch time height width 3"], noise: Tensor, config: LossConfig
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """As ``ActionFreeVideoModel.loss``."""
        return self.model.loss(frames, config=config, noise=noise)


@dataclass
class TrainingState:
    """All that a step changes (what a checkpoint holds), and who trains."""

    model: ActionFreeVideoModel
    optimizer: DecoupledAdam
    step: int = 0
    """Gradient steps done."""
    processes: Processes = ALONE
    loss: nn.Module = field(init=False)
    """``BatchLoss``, whose gradients are means over the processes."""

    def __post_init__(self):
        self.loss = self.processes.parallel(BatchLoss(self.model))


def train_step(
    state: TrainingState,
    frames: UInt8[Tensor, "batch time height width 3"],
    config: PretrainConfig,
    noise: Tensor,
    precision: str,
) -> dict[str, Tensor]:
    """One gradient step in place; returns the loss's parts and the gradient norm as scalars.

    Each of ``state.processes`` gives its own rows. Losses are means over rows, so the mean over
    equal shares is that of the joint batch (``free_nats`` above 0 is an exception: each share's
    mean KL has that floor by itself). The mean gradient is what is clipped, in all alike.
    """
    values = _learn(state, frames, config, noise, precision)
    state.step += 1
    return values


def _learn(
    state: TrainingState, frames: Tensor, config: PretrainConfig, noise: Tensor, precision: str
) -> dict[str, Tensor]:
    with torch.autocast(frames.device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss, parts = state.loss(frames, noise, config.loss)
    state.optimizer.zero_grad()
    loss.backward()
    norm = state.optimizer.step()
    return state.processes.mean(parts | {"grad_norm": norm})


def batch_of_step(
    model: ActionFreeVideoModel,
    dataset: VideoDataset,
    config: PretrainConfig,
    seed: int,
    step: int,
    processes: Processes = ALONE,
) -> tuple[UInt8[Tensor, "rows time height width 3"], Float[Tensor, "rows time stoch classes"]]:
    """The frames and the noise of a step, from ``(seed, step)`` alone, on the model's device.

    Frames are in 0..255, the noise is standard Gumbel. Each of several ``processes`` draws the
    same batch and noise and gets its own rows of both; it reads no other's frames.

    Raises:
        InputError: when no training video has ``config.sequence_length`` frames, or the processes
            cannot share the batch equally.
    """
    shape, rows = (config.batch_size, config.sequence_length), processes.share(config.batch_size)
    frames = dataset.sample(*shape, np.random.default_rng((seed, BATCH, step)), rows=rows)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(stream(seed, NOISE, step))
    return torch.from_numpy(frames).to(device), model.noise(*shape, generator)[rows]


def choose_step(
    state: TrainingState, dataset: VideoDataset, config: PretrainConfig, seed: int, precision: str
) -> Callable[[], dict[str, Tensor]]:
    """How the next step is done: plainly, or as ``config.fast`` asks.

    Several processes talk between the kernels of a step, so they only compile its parts.

    Raises:
        InputError: without the C++ compiler that the fast path needs on a CPU.
    """
    model, processes = state.model, state.processes

    def plain() -> dict[str, Tensor]:
        frames, noise = batch_of_step(model, dataset, config, seed, state.step, processes)
        return train_step(state, frames, config, noise, precision)

    if not config.fast:
        return plain
    compile_parts(model, [state.optimizer])
    if processes.size > 1:
        return plain
    shape, generator = (
        (config.batch_size, config.sequence_length),
        torch.Generator(processes.device),
    )

    def learn(frames: Tensor) -> dict[str, Tensor]:
        return _learn(state, frames, config, model.noise(*shape, generator), precision)

    step = GraphedStep(learn, generator)

    def fast() -> dict[str, Tensor]:
        drawn = dataset.sample(*shape, np.random.default_rng((seed, BATCH, state.step)))
        frames = torch.from_numpy(drawn)
        if processes.device.type == "cuda":  # from pinned memory it travels beside the kernels
            frames = frames.pin_memory()
        frames = frames.to(processes.device, non_blocking=True)
        values = step(frames, seed=stream(seed, NOISE, state.step))
        state.step += 1
        return values

    return fast
