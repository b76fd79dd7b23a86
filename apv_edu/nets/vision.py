"""Frames to vectors and back: the convolutional encoder and decoder."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from apv_edu.errors import InputError
from apv_edu.nets.layers import ImageTranspose, PixelToPatch, glorot

# Kernels of the transposed convolutions that grow 1x1 to the image size, one a layer; the encoder
# has as many layers. ModelSize lets no other size through.
DECODER_KERNELS = {64: (5, 5, 6, 6), 32: (5, 6, 6)}


def scale_pixels(
    frames: UInt8[Tensor, "*batch side side 3"], side: int, dtype: torch.dtype
) -> Float[Tensor, "*batch side side 3"]:
    """Pixels 0..255 as numbers in [-0.5, 0.5] of ``dtype``.

    Raises:
        InputError: for frames of another kind, or not ``side`` pixels high and wide.
    """
    if frames.dtype != torch.uint8 or frames.shape[-3:] != (side, side, 3):
        kind = f"{str(frames.dtype).removeprefix('torch.')} {tuple(frames.shape)}"
        raise InputError(
            f"The model takes uint8 frames (..., {side}, {side}, 3), not {kind}: "
            "convert them and resize them first."
        )
    return frames.to(dtype).div_(255).sub_(0.5)


class Encoder(nn.Module):
    """Convolutions of kernel 4 and stride 2, doubling their channels, with ELU.

    Source: APV appendix; official file ``common/nets.py``, class ``Encoder``.
    """

    def __init__(self, image_size: int, depth: int):
        super().__init__()
        layers = len(DECODER_KERNELS[image_size])
        channels = [3, *(depth * 2**layer for layer in range(layers))]
        self.convs = nn.ModuleList(
            glorot(nn.Conv2d(a, b, kernel_size=4, stride=2)) for a, b in pairwise(channels)
        )
        self.embed_dim = 2 * 2 * channels[-1]  # both image sizes shrink to 2x2
        # The images' memory order, or each call would reorder the kernels: an action feels it.
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(
        self, images: Float[Tensor, "*batch height width 3"]
    ) -> Float[Tensor, "*batch embed"]:
        """Embeddings of images in [-0.5, 0.5], flattened in the order height, width, channel."""
        # Only the order of the axes changes: the memory stays as it is, "channels last".
        x = images.flatten(0, -4).permute(0, 3, 1, 2)
        for conv in self.convs:
            x = F.elu(conv(x), inplace=True)
        return rearrange(x, "n c h w -> n (h w c)").unflatten(0, images.shape[:-3])


class Decoder(nn.Module):
    """Transposed convolutions of stride 2 from one pixel to a whole image.

    Source: APV appendix; official file ``common/nets.py``, class ``Decoder``.
    """

    def __init__(self, features: int, image_size: int, depth: int):
        super().__init__()
        first, *middle, last = DECODER_KERNELS[image_size]
        channels = [depth * 2**layer for layer in reversed(range(len(middle) + 1))]
        width = 8 * channels[0]
        self.dense = glorot(nn.Linear(features, width))
        self.patch = PixelToPatch(width, channels[0], first)
        self.convs = nn.ModuleList(
            glorot(nn.ConvTranspose2d(a, b, kernel, stride=2))
            for (a, b), kernel in zip(pairwise(channels), middle, strict=True)
        )
        self.convs.append(ImageTranspose(channels[-1], 3, last))

    def forward(
        self, features: Float[Tensor, "*batch features"]
    ) -> Float[Tensor, "*batch height width 3"]:
        """Mean images, in the scale of the encoder's input ([-0.5, 0.5])."""
        x = self.patch(self.dense(features.flatten(0, -2)))
        for conv in self.convs:
            x = conv(F.elu(x, inplace=True))
        return x.permute(0, 2, 3, 1).unflatten(0, features.shape[:-1])
