"""The stacked world model: actions on top of a video model that never saw any."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from apv_edu.agent_config import HeadSize, WorldModelConfig
from apv_edu.config import ModelSize
from apv_edu.nets.distributions import (
    LOG_SQRT_2PI,
    balanced_kl,
    entropy,
    gumbel,
    unit_normal_nll,
)
from apv_edu.nets.heads import MLP
from apv_edu.nets.rssm import RSSM, Rollout, State
from apv_edu.nets.vision import Decoder, Encoder, scale_pixels
from apv_edu.video_model import ActionFreeVideoModel

Bonus = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Video features in; raw and normalised bonus of their first steps out."""


class LatentNoise(NamedTuple):
    """Gumbel noise of both RSSMs' samples; a model that is not stacked uses the second only."""

    video: Float[Tensor, "batch time stoch classes"]
    stacked: Float[Tensor, "batch time stoch classes"]


class Beliefs(NamedTuple):
    """What both RSSMs know at one moment; ``video`` is None where there is a single RSSM."""

    video: State | None
    stacked: State


class Observation(NamedTuple):
    """What both RSSMs made of a sequence; with a single RSSM both are the same."""

    video: Rollout
    stacked: Rollout

    def beliefs(self, time: int = -1) -> Beliefs:
        """The states at one step, the last by default."""
        single = self.video is self.stacked
        return Beliefs(None if single else self.video.state(time), self.stacked.state(time))


class StackedWorldModel(nn.Module):
    """Encoder and action-free RSSM; on their features an RSSM with actions; decoder; reward head.

    With ``stacked=False`` a single RSSM takes embeddings and actions at once, as in DreamerV2:
    the model to compare with, and the one for naive fine-tuning. Heads read the upper features.

    Source: APV section 3.2; official file ``agent.py`` of ``apv_finetuning``, ``WorldModel``.
    """

    def __init__(
        self,
        size: ModelSize,
        action_dim: int,
        heads: HeadSize,
        *,
        stacked: bool = True,
        concat_embed: bool = False,
    ):
        super().__init__()
        self.size, self.concat_embed = size, stacked and concat_embed
        self.encoder = Encoder(size.image_size, size.depth)
        embed = self.encoder.embed_dim
        features = size.stoch * size.classes + size.deter
        sizes = (size.deter, size.hidden, size.stoch, size.classes)
        self.video_rssm = RSSM(embed, *sizes) if stacked else None
        seen = features + (embed if concat_embed else 0) if stacked else embed
        self.rssm = RSSM(seen, *sizes, action_dim=action_dim)
        self.decoder = Decoder(features, size.image_size, size.depth)
        self.reward = MLP(features, heads.units, heads.layers)

    @torch.no_grad()
    def load_video_model(self, video: ActionFreeVideoModel) -> None:
        """Take over the weights of a pre-trained video model; the rest stays fresh.

        Without stacking they go into the one RSSM there is; its inputs for actions stay fresh.
        """
        self.encoder.load_state_dict(video.encoder.state_dict())
        self.decoder.load_state_dict(video.decoder.state_dict())
        if self.video_rssm is not None:
            self.video_rssm.load_state_dict(video.rssm.state_dict())
            return
        weights = video.rssm.state_dict()
        columns = self.rssm.gru_input.weight.clone()
        known = weights["gru_input.weight"]
        columns[:, : known.shape[1]] = known
        self.rssm.load_state_dict(weights | {"gru_input.weight": columns})

    def parts(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters of the video model below (encoder, RSSM), and of all that is above it."""
        below = [self.encoder] if self.video_rssm is None else [self.encoder, self.video_rssm]
        above = [self.rssm, self.decoder, self.reward]
        one, two = ([p for part in parts for p in part.parameters()] for parts in (below, above))
        return one, two

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
    ) -> LatentNoise:
        """Gumbel noise for ``length`` samples of ``batch`` sequences in both RSSMs."""
        device = self.rssm.gru_input.weight.device
        shape = (2, batch, length, self.size.stoch, self.size.classes)
        return LatentNoise(*gumbel(*shape, generator=generator, device=device).to(device))

    def initial(self, batch: int) -> Beliefs:
        """Before the first frame."""
        below = None if self.video_rssm is None else self.video_rssm.initial(batch)
        return Beliefs(below, self.rssm.initial(batch))

    def observe(
        self,
        frames: UInt8[Tensor, "batch time height width 3"],
        actions: Float[Tensor, "batch time action"],
        beliefs: Beliefs | None = None,
        *,
        is_first: Bool[Tensor, "batch time"] | None = None,
        noise: LatentNoise | None = None,
    ) -> Observation:
        """Watch frames, knowing which action led to each.

        Args:
            frames: in 0..255.
            actions: ``actions[:, t]`` led to frame t.
            beliefs: where to start; None is the beginning.
            is_first: where an episode starts, so that the past is forgotten.
            noise: Gumbel noise for samples; None takes the modes.

        Raises:
            InputError: for frames of another kind or size than the model's.

        Source: APV section 3.2; official file ``agent.py``, ``WorldModel.loss``.
        """
        return self._observe(self.scale(frames), actions, beliefs, is_first, noise)

    def _observe(
        self,
        images: Float[Tensor, "batch time height width 3"],
        actions: Float[Tensor, "batch time action"],
        beliefs: Beliefs | None,
        is_first: Bool[Tensor, "batch time"] | None,
        noise: LatentNoise | None,
    ) -> Observation:
        below, above = beliefs or (None, None)
        below_noise, above_noise = noise or (None, None)
        seen = self.encoder(images)
        video = None
        if self.video_rssm is not None:
            video = self.video_rssm.observe(seen, below, is_first=is_first, noise=below_noise)
            seen = torch.cat([seen, video.features], -1) if self.concat_embed else video.features
        stacked = self.rssm.observe(
            seen, above, actions=actions, is_first=is_first, noise=above_noise
        )
        return Observation(stacked if video is None else video, stacked)

    def follow(
        self,
        frames: UInt8[Tensor, "batch height width 3"],
        action: Float[Tensor, "batch action"],
        beliefs: Beliefs,
        *,
        is_first: Bool[Tensor, " batch"] | None = None,
        noise: LatentNoise | None = None,
    ) -> Beliefs:
        """One step of ``observe``, for acting: ``noise`` is that of a single step.

        Raises:
            InputError: for frames of another kind or size than the model's.

        Source: official file ``agent.py``, ``Agent.policy``.
        """
        below_noise, above_noise = (None, None) if noise is None else (n[:, 0] for n in noise)
        seen = self.encoder(self.scale(frames))
        below = None
        if self.video_rssm is not None and beliefs.video is not None:
            below = self.video_rssm.follow(
                beliefs.video, seen, is_first=is_first, noise=below_noise
            )
            seen = torch.cat([seen, below.features], -1) if self.concat_embed else below.features
        above = self.rssm.follow(
            beliefs.stacked, seen, action=action, is_first=is_first, noise=above_noise
        )
        return Beliefs(below, above)

    def decode(
        self, features: Float[Tensor, "batch time features"]
    ) -> Float[Tensor, "batch time height width 3"]:
        """Mean frames in [-0.5, 0.5] scale, from features of the upper RSSM."""
        return self.decoder(features).to(features.dtype)

    def loss(
        self,
        frames: UInt8[Tensor, "batch time height width 3"],
        actions: Float[Tensor, "batch time action"],
        rewards: Float[Tensor, "batch time"],
        *,
        config: WorldModelConfig,
        is_first: Bool[Tensor, "batch time"] | None = None,
        noise: LatentNoise | None = None,
        bonus: Bonus | None = None,
        beta: float = 1.0,
    ) -> tuple[Float[Tensor, ""], Observation, dict[str, Tensor]]:
        """The training loss in nats a frame, what was observed, and the loss's parts.

        Image and reward likelihoods and the KL of both RSSMs, weighted as ``config`` says. With a
        ``bonus`` the reward head learns reward + ``beta`` x bonus, at the steps that have one.

        Raises:
            InputError: for frames of another kind or size than the model's.

        Source: APV section 3.2; official file ``agent.py``, ``WorldModel.loss``.
        """
        images = self.scale(frames)
        seen = self._observe(images, actions, None, is_first, noise)
        features = seen.stacked.features
        target, bonus_metrics = rewards, {}
        if bonus is not None:
            raw, normed = bonus(seen.video.features.detach())
            target = rewards[:, : normed.shape[1]] + beta * normed
            bonus_metrics = {
                "intr_mean": raw.mean(),
                "intr_std": raw.std(correction=0),
                "intr_normed_mean": normed.mean(),
                "intr_normed_std": normed.std(correction=0),
            }
        predicted = self.reward(features[:, : target.shape[1]])
        image_loss = unit_normal_nll(images, self.decode(features))
        reward_loss = 0.5 * (predicted - target).square().mean() + LOG_SQRT_2PI

        def divergence(rollout: Rollout) -> tuple[Tensor, Tensor]:
            return balanced_kl(
                rollout.posterior,
                rollout.prior,
                balance=config.kl_balance,
                free_nats=config.free_nats,
            )

        kl_loss, kl = divergence(seen.stacked)
        loss = (
            config.image_scale * image_loss
            + config.reward_scale * reward_loss
            + config.kl_scale * kl_loss
        )
        metrics = {"kl_loss": kl_loss, "model_kl": kl.mean()}
        if self.video_rssm is not None:
            with torch.set_grad_enabled(config.video_kl_scale > 0):
                below_loss, below_kl = divergence(seen.video)
            if config.video_kl_scale > 0:
                loss = loss + config.video_kl_scale * below_loss
            metrics |= {"af_kl_loss": below_loss, "af_model_kl": below_kl.mean()}
        with torch.no_grad():
            metrics |= {
                "image_loss": image_loss,
                "reward_loss": reward_loss,
                "prior_ent": entropy(seen.stacked.prior).mean(),
                "post_ent": entropy(seen.stacked.posterior).mean(),
                "model_loss": loss,
            } | bonus_metrics
        return loss, seen, {name: value.detach() for name, value in metrics.items()}
