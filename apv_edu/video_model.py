"""The action-free latent video prediction model: what pre-training trains."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from apv_edu.config import LossConfig, ModelSize
from apv_edu.nets.distributions import balanced_kl, entropy, gumbel, unit_normal_nll
from apv_edu.nets.rssm import RSSM, Rollout, State
from apv_edu.nets.vision import Decoder, Encoder, scale_pixels


class ActionFreeVideoModel(nn.Module):
    """Encoder, RSSM without actions, decoder: videos in, a latent state and predictions out.

    Weights start from torch's global random state, as those of every torch module.

    Source: APV section 3.1; official file ``agent.py`` of ``apv_pretraining``, ``WorldModel``.
    """

    def __init__(self, size: ModelSize):
        super().__init__()
        self.size = size
        self.encoder = Encoder(size.image_size, size.depth)
        self.rssm = RSSM(
            self.encoder.embed_dim, size.deter, size.hidden, size.stoch, size.classes, action_dim=0
        )
        features = size.stoch * size.classes + size.deter
        self.decoder = Decoder(features, size.image_size, size.depth)

    def scale(
        self, frames: UInt8[Tensor, "*batch height width 3"]
    ) -> Float[Tensor, "*batch height width 3"]:
        """Pixels 0..255 as numbers in [-0.5, 0.5], in the parameters' precision.

        Raises:
            InputError: for frames of another kind or size than the model's.
        """
        return scale_pixels(frames, self.size.image_size, self.rssm.gru_input.weight.dtype)

    def noise(
        self, batch: int, length: int, generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch time stoch classes"]:
        """Gumbel noise for ``length`` samples of ``batch`` sequences, from ``generator``."""
        device = self.rssm.gru_input.weight.device
        shape = (batch, length, self.size.stoch, self.size.classes)
        return gumbel(*shape, generator=generator, device=device).to(device)

    def embed(
        self, frames: UInt8[Tensor, "batch time height width 3"]
    ) -> Float[Tensor, "batch time embed"]:
        """One vector a frame, from frames in 0..255.

        Raises:
            InputError: for frames of another kind or size than the model's.
        """
        return self.encoder(self.scale(frames))

    def observe(
        self,
        frames: UInt8[Tensor, "batch time height width 3"],
        state: State | None = None,
        is_first: Bool[Tensor, "batch time"] | None = None,
        noise: Float[Tensor, "batch time stoch classes"] | None = None,
    ) -> Rollout:
        """Watch a video: posterior states (and priors) at every frame.

        Args:
            frames: in 0..255.
            state: where to start; None is the initial state of zeros.
            is_first: where a new video begins, so that the state starts anew; None is nowhere.
            noise: Gumbel noise for samples; None takes the modes.

        Raises:
            InputError: for frames of another kind or size than the model's.

        Source: APV section 3.1; official file ``common/nets.py``, ``EnsembleRSSM.observe``.
        """
        return self.rssm.observe(self.embed(frames), state, is_first=is_first, noise=noise)

    def imagine(
        self,
        state: State,
        steps: int,
        noise: Float[Tensor, "batch time stoch classes"] | None = None,
    ) -> Rollout:
        """Continue for ``steps`` frames from ``state`` without seeing any; no ``noise``, modes.

        Source: APV section 3.1; official file ``common/nets.py``, ``EnsembleRSSM.imagine``.
        """
        return self.rssm.imagine(state, steps, noise=noise)

    def decode(
        self, features: Float[Tensor, "batch time features"]
    ) -> Float[Tensor, "batch time height width 3"]:
        """Mean frames in [-0.5, 0.5] scale; the observation model is Normal(mean, 1)."""
        return self.decoder(features).to(features.dtype)

    def loss(
        self,
        frames: UInt8[Tensor, "batch time height width 3"],
        *,
        config: LossConfig,
        noise: Float[Tensor, "batch time stoch classes"] | None = None,
        is_first: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The training loss in nats a frame, and its parts as detached scalars.

        ``image_loss`` + ``config.kl_scale`` x ``kl_loss``; the metrics bear the official names.
        """
        target = self.scale(frames)
        rollout = self.rssm.observe(self.encoder(target), is_first=is_first, noise=noise)
        image_loss = unit_normal_nll(target, self.decode(rollout.features))
        kl_loss, kl_value = balanced_kl(
            rollout.posterior,
            rollout.prior,
            balance=config.kl_balance,
            free_nats=config.free_nats,
        )
        loss = image_loss + config.kl_scale * kl_loss
        with torch.no_grad():
            metrics = {
                "model_loss": loss.detach(),
                "image_loss": image_loss.detach(),
                "kl_loss": kl_loss.detach(),
                "model_kl": kl_value.mean(),
                "prior_ent": entropy(rollout.prior).mean(),
                "post_ent": entropy(rollout.posterior).mean(),
            }
        return loss, metrics

    @torch.no_grad()
    def predict(
        self,
        context: UInt8[Tensor, "batch context height width 3"],
        horizon: int,
        noise: Float[Tensor, "batch time stoch classes"] | None = None,
    ) -> Float[Tensor, "batch horizon height width 3"]:
        """Open-loop prediction: watch ``context``, then imagine ``horizon`` frames, in [0, 1].

        ``noise`` covers the context and the horizon, in this order; None takes the modes.

        Raises:
            InputError: for frames of another kind or size than the model's.

        Source: APV section 3.1; as DreamerV2's ``WorldModel.video_pred``.
        """
        length = context.shape[1]
        seen, unseen = (None, None) if noise is None else (noise[:, :length], noise[:, length:])
        state = self.observe(context, noise=seen).state()
        return (self.decode(self.imagine(state, horizon, unseen).features) + 0.5).clamp_(0, 1)
