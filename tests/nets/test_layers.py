import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from apv_edu.nets.layers import ImageTranspose, LayerNormGRU, PixelToPatch, glorot


def gru_by_hand(x, h, weight, bias, gamma, beta):
    """One step as the official code defines it, in NumPy."""
    y = np.concatenate([x, h], -1) @ weight.T + bias
    mean = y.mean(-1, keepdims=True)
    variance = ((y - mean) ** 2).mean(-1, keepdims=True)
    y = (y - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    reset, candidate, update = np.split(y, 3, -1)
    sigmoid = lambda a: 1 / (1 + np.exp(-a))
    candidate = np.tanh(sigmoid(reset) * candidate)
    update = sigmoid(update - 1)
    return update * candidate + (1 - update) * h


@pytest.mark.parametrize("scale", [1.0, 0.02])  # at the small one the norm's eps counts
def test_gru_step_by_hand_in_float64(scale):
    torch.manual_seed(0)
    cell = LayerNormGRU(5, 4).double()
    for p in cell.parameters():
        nn.init.normal_(p)
    with torch.no_grad():
        cell.gates.weight.mul_(scale)
        cell.gates.bias.mul_(scale)
    x, h = torch.randn(3, 5).double(), torch.randn(3, 4).double()
    parts = (cell.gates.weight, cell.gates.bias, cell.norm.weight, cell.norm.bias)
    expected = gru_by_hand(x.numpy(), h.numpy(), *(p.detach().numpy() for p in parts))
    np.testing.assert_allclose(cell(x, h).detach().numpy(), expected, rtol=1e-12, atol=1e-14)


def test_gru_keeps_its_memory_at_first():
    torch.manual_seed(0)
    cell = LayerNormGRU(8, 64)
    h = torch.randn(16, 64)
    assert (cell(torch.zeros(16, 8), h) - h).abs().mean() < 0.5 * h.abs().mean()
    assert not cell.norm.bias.any() and (cell.norm.weight == 1).all()


def test_gru_state_stays_in_full_precision_under_autocast():
    cell = LayerNormGRU(8, 6)
    x, h = torch.randn(2, 8), torch.randn(2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        low = cell(x, h)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, cell(x, h), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("layer", "fans"),
    [
        (nn.Linear(40, 60), 100),
        (nn.Conv2d(16, 32, 4), 48 * 16),
        (nn.ConvTranspose2d(32, 16, 5), 48 * 25),
    ],
)
def test_initialisation_is_glorot_uniform_with_zero_bias(layer, fans):
    assert_glorot(glorot(layer), fans)


@pytest.mark.parametrize(
    ("layer", "fans"), [(PixelToPatch(32, 16, 5), 48 * 25), (ImageTranspose(16, 3, 6), 19 * 36)]
)
def test_own_layers_start_glorot_uniform_too(layer, fans):
    assert_glorot(layer, fans)


def assert_glorot(layer, fans):
    bound = math.sqrt(6 / fans)
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not layer.bias.any()


def randomized(layer):
    for p in layer.parameters():
        nn.init.normal_(p)
    return layer.double()


def test_patch_is_a_transposed_convolution_of_one_pixel():
    torch.manual_seed(0)
    layer, x = randomized(PixelToPatch(7, 4, 5)), torch.randn(3, 7).double()
    kernel = rearrange(layer.weight, "h w o i -> i o h w")
    expected = F.conv_transpose2d(x[:, :, None, None], kernel, layer.bias, stride=2)
    torch.testing.assert_close(layer(x), expected)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel", [4, 6])
def test_image_transpose_is_a_transposed_convolution(kernel):
    torch.manual_seed(0)
    layer = randomized(ImageTranspose(4, 3, kernel))
    x = torch.randn(2, 4, 5, 7).double().requires_grad_()
    inputs = (x, layer.weight, layer.bias)
    ours, expected = layer(x), F.conv_transpose2d(*inputs, stride=2)
    torch.testing.assert_close(ours, expected)
    weight = torch.randn_like(ours)
    gradients = torch.autograd.grad((ours * weight).sum(), inputs)
    for got, want in zip(
        gradients, torch.autograd.grad((expected * weight).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(got, want)
