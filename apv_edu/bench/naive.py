"""The pre-training step as an ordinary PyTorch port writes it: the yardstick of the bench.

The same mathematics as ``ActionFreeVideoModel.loss`` with none of its arrangements: distribution
objects, prior and posterior heads and embeddings taken step by step, transposed convolutions
throughout, channels first. It shares the model's weights, so that both compute the same loss.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.distributions import Independent, Normal, OneHotCategoricalStraightThrough, kl_divergence

from apv_edu.config import LossConfig
from apv_edu.nets.rssm import RSSM
from apv_edu.video_model import ActionFreeVideoModel


class ModeStraightThrough(OneHotCategoricalStraightThrough):
    """Draws its mode, so that a test needs no noise."""

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """The mode, with the straight-through gradient."""
        return self.mode + (self.probs - self.probs.detach())


class NaiveStep:
    """Loss of a batch of videos, the plain way; ``sample=False`` takes modes."""

    def __init__(self, model: ActionFreeVideoModel, *, sample: bool = True):
        self.model = model
        self.distribution = OneHotCategoricalStraightThrough if sample else ModeStraightThrough
        patch = model.decoder.patch
        with torch.no_grad():
            kernel = patch.weight.permute(3, 2, 0, 1).contiguous()
        self.first_kernel = torch.nn.Parameter(kernel)

    def parameters(self) -> list[torch.nn.Parameter]:
        """The model's parameters, the first transposed convolution's in the usual layout."""
        patch = self.model.decoder.patch.weight
        return [self.first_kernel, *(p for p in self.model.parameters() if p is not patch)]

    def latent(self, logits: Tensor) -> Independent:
        """The distribution of the stochastic state."""
        size = self.model.size
        logits = logits.reshape(*logits.shape[:-1], size.stoch, size.classes)
        return Independent(self.distribution(logits=logits), 1)

    def encode(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n embed"]:
        """Embeddings, flattened in the official order."""
        for conv in self.model.encoder.convs:
            images = F.elu(conv(images))
        return images.permute(0, 2, 3, 1).flatten(1)

    def decode(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n 3 height width"]:
        """Mean images."""
        decoder = self.model.decoder
        x = decoder.dense(features)[:, :, None, None]
        x = F.conv_transpose2d(x, self.first_kernel, decoder.patch.bias, stride=2)
        for conv in decoder.convs:
            x = conv(F.elu(x))
        return x

    def gru(self, rssm: RSSM, x: Tensor, h: Tensor) -> Tensor:
        """One step of the LayerNorm GRU."""
        gates = rssm.gru.norm(rssm.gru.gates(torch.cat([x, h], -1)))
        reset, candidate, update = gates.chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return update * candidate + (1 - update) * h

    def loss(
        self, frames: UInt8[Tensor, "batch time height width 3"], config: LossConfig
    ) -> Float[Tensor, ""]:
        """The loss of ``ActionFreeVideoModel.loss``."""
        rssm = self.model.rssm
        batch, length = frames.shape[:2]
        images = (frames.float() / 255 - 0.5).permute(0, 1, 4, 2, 3).flatten(0, 1).contiguous()
        embed = self.encode(images).reshape(batch, length, -1)
        deter, stoch = rssm.initial(batch)
        features, to_posterior, to_prior = [], [], []
        for t in range(length):
            deter = self.gru(rssm, F.elu(rssm.gru_input(stoch.flatten(1))), deter)
            prior = rssm.prior_logits(F.elu(rssm.prior_hidden(deter)))
            x = F.elu(rssm.posterior_hidden(torch.cat([deter, embed[:, t]], -1)))
            posterior = rssm.posterior_logits(x)
            stoch = self.latent(posterior).rsample()
            stopped = self.latent(prior.detach()), self.latent(posterior.detach())
            to_posterior.append(kl_divergence(self.latent(posterior), stopped[0]))
            to_prior.append(kl_divergence(stopped[1], self.latent(prior)))
            features.append(torch.cat([stoch.flatten(1), deter], -1))
        mean = self.decode(torch.stack(features, 1).flatten(0, 1))
        image_loss = -Independent(Normal(mean, 1.0), 3).log_prob(images).mean()
        parts = (torch.stack(kl).mean().clamp_min(config.free_nats) for kl in (to_posterior, to_prior))
        posterior_kl, prior_kl = parts
        kl_loss = (1 - config.kl_balance) * posterior_kl + config.kl_balance * prior_kl
        return image_loss + config.kl_scale * kl_loss
