"""The pre-training step as an ordinary PyTorch port writes it: the yardstick of the bench.

The same mathematics as ``ActionFreeVideoModel.loss`` with none of its arrangements: distribution
objects, prior, posterior and divergence at every step of the loop, transposed convolutions
throughout, channels first. It copies the model's weights, so that both compute the same loss.
The optimiser is torch's own AdamW, which is not the official Adam of ``apv_edu.optimizer``: the
work is alike, the updates are not.
"""

from collections.abc import Iterable
from copy import deepcopy

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.distributions import Independent, Normal, OneHotCategoricalStraightThrough, kl_divergence

from apv_edu.config import LossConfig, OptimizerConfig
from apv_edu.nets.rssm import RSSM
from apv_edu.nets.vision import Decoder, Encoder
from apv_edu.video_model import ActionFreeVideoModel

Kernels = list[tuple[nn.Parameter, nn.Parameter]]
"""Kernel and bias of each transposed convolution."""


def optimizer_of(
    parameters: Iterable[nn.Parameter], config: OptimizerConfig
) -> tuple[torch.optim.AdamW, float]:
    """AdamW with the official settings, and the largest gradient norm."""
    rate, eps, decay = config.learning_rate, config.eps, config.weight_decay
    return torch.optim.AdamW(parameters, rate, eps=eps, weight_decay=decay), config.clip


def scaled(frames: UInt8[Tensor, "batch time height width 3"], dtype: torch.dtype) -> Tensor:
    """Images in [-0.5, 0.5], channels first: (batch x time, 3, height, width)."""
    return (frames.to(dtype) / 255 - 0.5).permute(0, 1, 4, 2, 3).flatten(0, 1).contiguous()


def encode(encoder: Encoder, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n embed"]:
    """Embeddings, flattened in the official order."""
    for conv in encoder.convs:
        images = F.elu(conv(images))
    return images.permute(0, 2, 3, 1).flatten(1)


def transposed(decoder: Decoder) -> Kernels:
    """Every layer of the decoder as a transposed convolution: the first one's kernel is new."""
    patch = decoder.patch
    first = nn.Parameter(patch.weight.detach().permute(3, 2, 0, 1).contiguous())
    rest = list(decoder.convs.parameters())
    return [(first, patch.bias), *zip(rest[::2], rest[1::2], strict=True)]


def decode(
    decoder: Decoder, kernels: Kernels, features: Float[Tensor, "n features"]
) -> Float[Tensor, "n 3 height width"]:
    """Mean images."""
    x = decoder.dense(features)[:, :, None, None]
    for layer, (kernel, bias) in enumerate(kernels):
        x = F.conv_transpose2d(x if layer == 0 else F.elu(x), kernel, bias, stride=2)
    return x


def latent(rssm: RSSM, logits: Tensor) -> Independent:
    """The distribution of the stochastic state."""
    logits = logits.reshape(*logits.shape[:-1], rssm.stoch, rssm.classes)
    return Independent(OneHotCategoricalStraightThrough(logits=logits), 1)


def draw(distribution: Independent, sample: bool) -> Tensor:
    """A sample or the mode, with the straight-through gradient."""
    if sample:
        return distribution.rsample()
    probs = distribution.base_dist.probs
    return distribution.mode + (probs - probs.detach())


def advance(rssm: RSSM, x: Tensor, h: Tensor) -> Tensor:
    """One step of the memory ``h``; ``x`` is the flat latent, and the action if there is one."""
    x = F.elu(rssm.gru_input(x))
    gates = rssm.gru.norm(rssm.gru.gates(torch.cat([x, h], -1)))
    reset, candidate, update = gates.chunk(3, -1)
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    update = torch.sigmoid(update - 1)
    return update * candidate + (1 - update) * h


def prior_of(rssm: RSSM, deter: Tensor) -> Tensor:
    """Logits that the memory alone predicts."""
    return rssm.prior_logits(F.elu(rssm.prior_hidden(deter)))


def observe(
    rssm: RSSM,
    embed: Float[Tensor, "batch time embed"],
    actions: Float[Tensor, "batch time action"] | None = None,
    is_first: Bool[Tensor, "batch time"] | None = None,
    *,
    sample: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """deter, stoch (batch, time, ...), and the divergences that train posterior and prior."""
    deter, stoch = rssm.initial(len(embed))
    deters, stochs, to_posterior, to_prior = [], [], [], []
    for t in range(embed.shape[1]):
        x = stoch.flatten(1)
        if actions is not None:
            x = torch.cat([x, actions[:, t]], -1)
        if is_first is not None:
            keep = 1 - is_first[:, t, None].to(deter.dtype)
            deter, x = deter * keep, x * keep
        deter = advance(rssm, x, deter)
        prior = prior_of(rssm, deter)
        hidden = F.elu(rssm.posterior_hidden(torch.cat([deter, embed[:, t]], -1)))
        posterior = rssm.posterior_logits(hidden)
        stoch = draw(latent(rssm, posterior), sample)
        stopped = latent(rssm, prior.detach()), latent(rssm, posterior.detach())
        to_posterior.append(kl_divergence(latent(rssm, posterior), stopped[0]))
        to_prior.append(kl_divergence(stopped[1], latent(rssm, prior)))
        deters.append(deter)
        stochs.append(stoch)
    values = deters, stochs, to_posterior, to_prior
    deter, stoch, to_posterior, to_prior = (torch.stack(value, 1) for value in values)
    return deter, stoch, to_posterior, to_prior


def kl_loss(kls: Iterable[Tensor], balance: float, free_nats: float) -> Tensor:
    """The balanced divergence, from that which trains the posterior and that for the prior."""
    to_posterior, to_prior = (kl.mean().clamp_min(free_nats) for kl in kls)
    return (1 - balance) * to_posterior + balance * to_prior


class NaiveStep:
    """A copy of ``model`` and its optimiser, stepped the plain way.

    ``sample=False`` takes the latents' modes instead of samples, so that a test needs no noise.
    """

    def __init__(self, model: ActionFreeVideoModel, *, sample: bool = True):
        self.model = deepcopy(model)
        self.sample = sample
        self.kernels = transposed(self.model.decoder)
        others = [p for p in self.model.parameters() if p is not self.model.decoder.patch.weight]
        self.parameters = [self.kernels[0][0], *others]
        self.optimizer, self.clip = optimizer_of(self.parameters, OptimizerConfig())

    def step(self, frames: UInt8[Tensor, "batch time height width 3"]) -> None:
        """Loss, gradients, update."""
        self.optimizer.zero_grad()
        self.loss(frames, LossConfig()).backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()

    def loss(
        self, frames: UInt8[Tensor, "batch time height width 3"], config: LossConfig
    ) -> Float[Tensor, ""]:
        """The loss of ``ActionFreeVideoModel.loss``."""
        model = self.model
        images = scaled(frames, model.decoder.dense.weight.dtype)
        embed = encode(model.encoder, images).unflatten(0, frames.shape[:2])
        deter, stoch, *kl = observe(model.rssm, embed, sample=self.sample)
        features = torch.cat([stoch.flatten(2), deter], -1)
        mean = decode(model.decoder, self.kernels, features.flatten(0, 1))
        image_loss = -Independent(Normal(mean, 1.0), 3).log_prob(images).mean()
        return image_loss + config.kl_scale * kl_loss(kl, config.kl_balance, config.free_nats)
