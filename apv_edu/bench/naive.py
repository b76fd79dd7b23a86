"""The pre-training step as an ordinary PyTorch port writes it: the yardstick of the bench.

The same mathematics as ``ActionFreeVideoModel.loss`` with none of its arrangements: distribution
objects, prior, posterior and divergence at every step of the loop, transposed convolutions
throughout, channels first. It copies the model's weights, so that both compute the same loss.
The optimiser is torch's own AdamW, which is not the official Adam of ``apv_edu.optimizer``: the
work is alike, the updates are not.
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.distributions import Independent, Normal, OneHotCategoricalStraightThrough, kl_divergence

from apv_edu.config import LossConfig, OptimizerConfig
from apv_edu.nets.rssm import RSSM
from apv_edu.video_model import ActionFreeVideoModel


class NaiveStep:
    """A copy of ``model`` and its optimiser, stepped the plain way.

    ``sample=False`` takes the latents' modes instead of samples, so that a test needs no noise.
    """

    def __init__(self, model: ActionFreeVideoModel, *, sample: bool = True):
        self.model = deepcopy(model)
        self.sample = sample
        patch = self.model.decoder.patch
        first = nn.Parameter(patch.weight.detach().permute(3, 2, 0, 1).contiguous())
        rest = list(self.model.decoder.convs.parameters())
        self.transposed = [(first, patch.bias), *zip(rest[::2], rest[1::2], strict=True)]
        others = [p for p in self.model.parameters() if p is not patch.weight]
        self.parameters = [first, *others]
        config = OptimizerConfig()
        self.clip = config.clip
        self.optimizer = torch.optim.AdamW(
            self.parameters, config.learning_rate, eps=config.eps, weight_decay=config.weight_decay
        )

    def step(self, frames: UInt8[Tensor, "batch time height width 3"]) -> None:
        """Loss, gradients, update."""
        self.optimizer.zero_grad()
        self.loss(frames, LossConfig()).backward()
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()

    def latent(self, logits: Tensor) -> Independent:
        """The distribution of the stochastic state."""
        size = self.model.size
        logits = logits.reshape(*logits.shape[:-1], size.stoch, size.classes)
        return Independent(OneHotCategoricalStraightThrough(logits=logits), 1)

    def draw(self, latent: Independent) -> Tensor:
        """A sample or the mode, with the straight-through gradient."""
        if self.sample:
            return latent.rsample()
        probs = latent.base_dist.probs
        return latent.mode + (probs - probs.detach())

    def encode(self, images: Float[Tensor, "n 3 height width"]) -> Float[Tensor, "n embed"]:
        """Embeddings, flattened in the official order."""
        for conv in self.model.encoder.convs:
            images = F.elu(conv(images))
        return images.permute(0, 2, 3, 1).flatten(1)

    def decode(self, features: Float[Tensor, "n features"]) -> Float[Tensor, "n 3 height width"]:
        """Mean images."""
        x = self.model.decoder.dense(features)[:, :, None, None]
        for layer, (kernel, bias) in enumerate(self.transposed):
            x = F.conv_transpose2d(x if layer == 0 else F.elu(x), kernel, bias, stride=2)
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
            stoch = self.draw(self.latent(posterior))
            stopped = self.latent(prior.detach()), self.latent(posterior.detach())
            to_posterior.append(kl_divergence(self.latent(posterior), stopped[0]))
            to_prior.append(kl_divergence(stopped[1], self.latent(prior)))
            features.append(torch.cat([stoch.flatten(1), deter], -1))
        mean = self.decode(torch.stack(features, 1).flatten(0, 1))
        image_loss = -Independent(Normal(mean, 1.0), 3).log_prob(images).mean()
        posterior_kl = torch.stack(to_posterior).mean().clamp_min(config.free_nats)
        prior_kl = torch.stack(to_prior).mean().clamp_min(config.free_nats)
        kl_loss = (1 - config.kl_balance) * posterior_kl + config.kl_balance * prior_kl
        return image_loss + config.kl_scale * kl_loss
