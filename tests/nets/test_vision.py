import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apv_edu.nets.vision import Decoder, Encoder


def layers(module):
    """Weight and bias of each convolution."""
    parameters = list(module.convs.parameters())
    return list(zip(parameters[::2], parameters[1::2], strict=True))


@settings(deadline=None, max_examples=12)
@given(
    st.sampled_from([32, 64]),
    st.integers(1, 3),
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.integers(1, 9),
)
def test_shapes(image_size, depth, batch, features):
    encoder, decoder = Encoder(image_size, depth), Decoder(features, image_size, depth)
    images = torch.zeros(*batch, image_size, image_size, 3)
    assert encoder(images).shape == (*batch, encoder.embed_dim)
    assert decoder(torch.zeros(*batch, features)).shape == images.shape


@pytest.mark.parametrize(("image_size", "count"), [(64, 4), (32, 3)])
def test_paper_proportions(image_size, count):
    encoder, decoder = Encoder(image_size, 48), Decoder(10, image_size, 48)
    depths = [48 * 2**layer for layer in range(count)]
    assert [bias.numel() for _, bias in layers(encoder)] == depths
    assert encoder.embed_dim == decoder.dense.out_features == 4 * depths[-1]
    kernels = [decoder.patch.kernel, *(weight.shape[-1] for weight, _ in layers(decoder))]
    assert kernels == {64: [5, 5, 6, 6], 32: [5, 6, 6]}[image_size]
    outputs = [decoder.patch.bias.numel(), *(bias.numel() for _, bias in layers(decoder))]
    assert outputs == [*reversed(depths[:-1]), 3]


def elu(x):
    return np.where(x > 0, x, np.expm1(x))


def convolve(x, weight, bias):
    """Stride 2, no padding, in NumPy; x is height, width, channel."""
    k = weight.shape[-1]
    size = (x.shape[0] - k) // 2 + 1
    out = np.empty((size, size, len(bias)))
    for row in range(size):
        for column in range(size):
            window = x[2 * row : 2 * row + k, 2 * column : 2 * column + k]
            out[row, column] = np.einsum("hwi,oihw->o", window, weight) + bias
    return out


def test_encoder_by_hand_in_float64():
    torch.manual_seed(0)
    encoder = Encoder(32, 2).double()
    x = torch.rand(32, 32, 3).double() - 0.5
    expected = x.numpy()
    for weight, bias in layers(encoder):
        torch.nn.init.normal_(bias)
        expected = elu(convolve(expected, weight.detach().numpy(), bias.detach().numpy()))
    # The order is height, width, channel: as NumPy's own.
    np.testing.assert_allclose(encoder(x[None])[0].detach().numpy(), expected.ravel(), rtol=1e-10)


def test_channels_stay_last_in_memory():
    encoder = Encoder(64, 4)
    seen: list[torch.Tensor] = []
    for conv in encoder.convs:
        conv.register_forward_hook(lambda *call: seen.append(call[-1]))
    encoder(torch.zeros(2, 64, 64, 3))
    assert len(seen) == 4
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in seen)
