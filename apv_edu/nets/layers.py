"""Small layers with the official initialisation: the GRU and a first transposed convolution."""

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def glorot(layer: Layer) -> Layer:
    """Initialise ``layer`` as Keras does (Glorot uniform kernel, zero bias) and return it."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class LayerNormGRU(nn.Module):
    """A GRU cell with one LayerNorm over its three gates together.

    Two more differences from ``nn.GRUCell``: the reset gate multiplies the candidate after its
    matmul, and the update gate starts almost closed (bias -1), so that memory is kept at first.
    The norm and the carried state stay in the parameters' precision under autocast.

    Source: official file ``common/nets.py``, class ``GRUCell``.
    """

    EPS = 1e-3
    """Of the norm."""

    def __init__(self, inputs: int, units: int, update_bias: float = -1.0):
        super().__init__()
        self.update_bias = update_bias
        self.gates = glorot(nn.Linear(inputs + units, 3 * units))
        self.norm = nn.LayerNorm(3 * units, eps=self.EPS)

    def forward(
        self, x: Float[Tensor, "batch inputs"], h: Float[Tensor, "batch units"]
    ) -> Float[Tensor, "batch units"]:
        """The next state, from input ``x`` and state ``h``."""
        gates = self.norm(self.gates(torch.cat([x, h], -1)).to(h.dtype))
        return self.move(gates, h, self.update_bias)

    @staticmethod
    def move(
        gates: Float[Tensor, "batch gates"], h: Float[Tensor, "batch units"], update_bias: float
    ) -> Float[Tensor, "batch units"]:
        """The next state, from the three normalised gates: reset, candidate, update."""
        reset, candidate, update = gates.chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(h, candidate, torch.sigmoid(update + update_bias))


class PixelToPatch(nn.Module):
    """A transposed convolution of a 1x1 image, which is a matrix product, written as one.

    Every input pixel paints one kernel; with a single pixel nothing overlaps, so the output is
    the kernel's weighted sum: about twice as fast for a whole decoder on a CPU.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(kernel, kernel, outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        bound = math.sqrt(6 / ((inputs + outputs) * kernel**2))
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs k k"]:
        """The patch, in channels-last memory order."""
        patch = F.linear(x, self.weight.flatten(0, 2)).unflatten(-1, (self.kernel, self.kernel, -1))
        return (patch + self.bias).permute(0, 3, 1, 2)


class ImageTranspose(nn.Module):
    """A stride 2 transposed convolution with an even kernel, quick where few channels come out.

    Each 2x2 block of output pixels looks at the same few input pixels. So the block's pixels can
    be the channels of one ordinary convolution and then be shuffled into place: for an image's 3
    channels this is twice as fast on a CPU as the direct way, of which the gradient is kept.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)

    def forward(
        self, x: Float[Tensor, "batch inputs height width"]
    ) -> Float[Tensor, "batch outputs height_out width_out"]:
        """Images of twice the height and width, plus the kernel's size - 2."""
        # Under autocast the layer before sets the precision; the gradient needs one for all.
        return _ImageTranspose.apply(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class _ImageTranspose(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        # Pixel (p, q) of a block sees the kernel's taps (2a + p, 2b + q), in reverse order.
        kernel = rearrange(weight, "i o (a p) (b q) -> (o p q) i a b", p=2, q=2).flip(2, 3)
        padding = weight.shape[-1] // 2 - 1
        blocks = F.conv2d(x, kernel, bias.repeat_interleave(4), padding=padding)
        return F.pixel_shuffle(blocks, 2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore
        x, weight = ctx.saved_tensors
        grad_x = F.conv2d(grad, weight, stride=2)
        grad_weight = conv2d_weight(grad, list(weight.shape), x, stride=2)
        return grad_x, grad_weight, grad.sum((0, 2, 3))
