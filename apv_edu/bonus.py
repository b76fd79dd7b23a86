"""The intrinsic bonus: how far the video model's features are from what was seen lately."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apv_edu.agent_config import BonusConfig
from apv_edu.errors import InputError


class VideoBonus(nn.Module):
    """Distance of a video's moments to their nearest neighbours in a queue of recent moments.

    A moment is the mean of ``window`` successive feature vectors under a fixed random projection.
    The queue, the projection and the running magnitude are buffers: a checkpoint holds them.
    Memory and time grow linearly with the queue.

    Source: APV section 3.3; official file ``agent.py``, ``WorldModel.loss``.
    """

    queue: Float[Tensor, "queue dim"]
    """Remembered moments, newest first; only the first ``filled`` count."""
    projection: Float[Tensor, "features dim"]
    """Fixed, entries Normal(0, 1/dim^2)."""
    filled: Tensor
    magnitude: Float[Tensor, ""]
    """Running mean of the bonus's size, in float64."""

    def __init__(
        self, features: int, config: BonusConfig, generator: torch.Generator | None = None
    ):
        super().__init__()
        self.config = config
        matrix = torch.randn(features, config.dim, generator=generator) / config.dim
        self.register_buffer("projection", matrix)
        self.register_buffer("queue", torch.zeros(config.queue, config.dim))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))
        self.register_buffer("magnitude", torch.ones((), dtype=torch.float64))

    def moments(
        self, features: Float[Tensor, "batch time features"]
    ) -> Float[Tensor, "batch steps dim"]:
        """Projected means over windows: ``window`` - 1 fewer steps than there are features.

        Raises:
            InputError: for sequences shorter than the window.
        """
        window, length = self.config.window, features.shape[1]
        if length < window:
            raise InputError(
                f"The bonus looks at {window} frames and the sequences have {length}: give longer "
                "sequences, a smaller bonus.window, or bonus.beta=0."
            )
        # The projection is linear, so it may come first, where vectors become shorter.
        projected = features @ self.projection
        return projected.unfold(1, window, 1).mean(-1)

    @torch.no_grad()
    @torch.autocast("cuda", enabled=False)
    @torch.autocast("cpu", enabled=False)
    def forward(
        self, features: Float[Tensor, "batch time features"]
    ) -> tuple[Float[Tensor, "batch steps"], Float[Tensor, "batch steps"]]:
        """Raw and normalised bonus of the first time - window + 1 steps; remembers them.

        The moments enter the queue before the search, so each is its own nearest neighbour, at
        distance 0: the official order.

        Raises:
            InputError: for sequences shorter than the window.
        """
        moments = self.moments(features)
        flat = moments.flatten(0, 1)
        self.remember(flat)
        raw = self.distance(flat).unflatten(0, moments.shape[:2])
        momentum = self.config.momentum
        self.magnitude.mul_(momentum).add_((1 - momentum) * raw.abs().mean().double())
        return raw, raw / (self.magnitude.to(raw.dtype) + 1e-8)

    def remember(self, moments: Float[Tensor, "count dim"]) -> None:
        """Push ``moments`` to the queue's front, in their order; the oldest fall out."""
        size = self.config.queue
        self.queue.copy_(torch.cat([moments, self.queue])[:size])
        self.filled.add_(len(moments)).clamp_(max=size)

    def distance(self, moments: Float[Tensor, "count dim"]) -> Float[Tensor, " count"]:
        """Mean distance of each moment to its nearest neighbours in the queue.

        Raises:
            InputError: when the queue holds fewer moments than neighbours are asked for.
        """
        wanted = self.config.neighbours
        # A CUDA graph cannot ask the counter; the calls before its recording did.
        recording = moments.is_cuda and torch.cuda.is_current_stream_capturing()
        held = wanted if recording else int(self.filled)
        if held < wanted:
            raise InputError(
                f"The bonus averages {wanted} neighbours and has seen only {held} moments: give "
                "larger batches or a smaller bonus.neighbours."
            )
        # Matrix products find the neighbours in linear memory but blur distances that are small
        # beside the vectors. So vectors are centred, and the few that were found measured again.
        # Places that are still empty hold zeros and are never near.
        centre = self.queue.sum(0) / self.filled
        distances = torch.cdist(moments - centre, self.queue - centre)
        empty = torch.arange(len(self.queue), device=distances.device) >= self.filled
        distances.masked_fill_(empty, math.inf)
        index = distances.topk(wanted, largest=False).indices
        return (self.queue[index] - moments[:, None]).norm(dim=-1).mean(-1)
