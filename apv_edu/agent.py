"""The agent: a world model, a bonus and a behaviour, how they act and how they learn together."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from apv_edu.agent_config import VARIANTS, AgentConfig
from apv_edu.behavior import Behavior, ImaginationNoise, imagination_noise
from apv_edu.bonus import VideoBonus
from apv_edu.data.replay import Batch
from apv_edu.nets.rssm import State
from apv_edu.optimizer import DecoupledAdam
from apv_edu.video_model import ActionFreeVideoModel
from apv_edu.world_model import Beliefs, LatentNoise, StackedWorldModel


class PolicyState(NamedTuple):
    """What the agent carries from one step of its world to the next."""

    beliefs: Beliefs
    action: Float[Tensor, "batch action"]


class UpdateNoise(NamedTuple):
    """All randomness of one update."""

    latents: LatentNoise
    imagination: ImaginationNoise
    starts: Tensor | None
    """Which posteriors of the flattened batch imagination starts from; None is all, in order."""


class APVAgent(nn.Module):
    """Acts on frames, learns from batches of experience.

    Weights start from torch's global random state; those of a pre-trained ``video`` model are
    taken over where the variant asks for them.

    Source: APV section 3; official file ``agent.py`` of ``apv_finetuning``, ``Agent``.
    """

    def __init__(
        self, config: AgentConfig, action_dim: int, video: ActionFreeVideoModel | None = None
    ):
        super().__init__()
        variant = VARIANTS[config.variant]
        self.config, self.action_dim, self.updates = config, action_dim, 0
        self.world_model = StackedWorldModel(
            config.model,
            action_dim,
            config.heads,
            stacked=variant.stacked,
            concat_embed=config.world_model.concat_embed,
        )
        if video is not None:
            self.world_model.load_video_model(video)
        self.behavior = Behavior(config.features, action_dim, config.heads)
        self.bonus = VideoBonus(config.features, config.bonus) if config.bonus.beta > 0 else None
        below, above = self.world_model.parts()
        if variant.frozen:
            for parameter in below:
                parameter.requires_grad_(False)
        settings = config.world_model.optimizer
        self.optimizers = {
            "model": DecoupledAdam(above, settings),
            "actor": DecoupledAdam(self.behavior.actor.parameters(), config.behavior.actor),
            "critic": DecoupledAdam(self.behavior.critic.parameters(), config.behavior.critic),
        }
        if not variant.frozen:
            self.optimizers["enc_model"] = DecoupledAdam(below, settings)

    def initial(self, batch: int) -> PolicyState:
        """The state before the first frame of ``batch`` worlds."""
        weight = self.world_model.rssm.gru_input.weight
        return PolicyState(
            self.world_model.initial(batch), weight.new_zeros(batch, self.action_dim)
        )

    @torch.inference_mode()
    def act(
        self,
        frames: UInt8[Tensor, "batch height width 3"],
        state: PolicyState,
        is_first: Bool[Tensor, " batch"],
        *,
        explore: bool,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "batch action"], PolicyState]:
        """The next action of each world and the state to pass on.

        Args:
            frames: what each world shows, in 0..255.
            state: from ``initial``, or from the call before.
            is_first: where an episode has just begun.
            explore: sample the action; otherwise it is the policy's mode.
            generator: of the noise of latents and actions; None takes all modes.

        Raises:
            InputError: for frames of another size than the model's.

        Source: official file ``agent.py``, ``Agent.policy``.
        """
        noise = None if generator is None else self.world_model.noise(len(frames), 1, generator)
        beliefs = self.world_model.follow(
            frames, state.action, state.beliefs, is_first=is_first, noise=noise
        )
        policy = self.behavior.actor(beliefs.stacked.features)
        if explore and generator is not None:
            uniform = torch.rand(policy.loc.shape, generator=generator, device=generator.device)
            action = policy.sample(uniform.to(policy.loc.device))
        else:
            action = policy.sample()
        return action, PolicyState(beliefs, action)

    def noise(self, batch: int, length: int, generator: torch.Generator) -> UpdateNoise:
        """All the noise of an update on ``batch`` sequences of ``length`` steps."""
        behavior = self.config.behavior
        latents = self.world_model.noise(batch, length, generator)
        starts, count = None, batch * length
        if behavior.starts is not None and behavior.starts < count:
            count = behavior.starts
            order = torch.randperm(batch * length, generator=generator, device=generator.device)
            starts = order[:count]
        imagination = imagination_noise(
            self.world_model.rssm, count, behavior.horizon, generator=generator
        )
        return UpdateNoise(latents, imagination, starts)

    def update(
        self, batch: Batch, noise: UpdateNoise | None = None, precision: str = "fp32"
    ) -> dict[str, Tensor]:
        """Learn from a batch: the world model from what happened, then the behaviour in dreams.

        Without ``noise`` every sample is its mode. With the ``precision`` bf16 the large products
        are rounded; states, logits, heads' outputs, bonus and losses stay in the weights' own.
        The metrics bear the official names.

        Raises:
            InputError: for frames of another size than the model's, or too short sequences.

        Source: official file ``agent.py``, ``Agent.train``.
        """
        metrics = self.learn(batch, noise, precision)
        self.count_update()
        return metrics

    def learn(
        self, batch: Batch, noise: UpdateNoise | None = None, precision: str = "fp32"
    ) -> dict[str, Tensor]:
        """The part of ``update`` that a CUDA graph can hold: it asks the host nothing."""
        config = self.config.world_model
        with _rounded(batch.image.device, precision):
            loss, seen, metrics = self.world_model.loss(
                batch.image,
                batch.action,
                batch.reward * config.reward_factor,
                config=config,
                is_first=batch.is_first,
                noise=noise and noise.latents,
                bonus=self.bonus,
                beta=self.config.bonus.beta,
            )
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for name in ("enc_model", "model"):
            if optimizer := self.optimizers.get(name):
                rate = 0.0 if self.held and name == "enc_model" else None
                metrics[f"{name}_grad_norm"] = optimizer.step(rate)
        return metrics | self._improve(seen.stacked.deter, seen.stacked.stoch, noise, precision)

    @property
    def held(self) -> bool:
        """Whether the pre-trained part still waits for the rest to settle."""
        config = self.config
        return VARIANTS[config.variant].pretrained and self.updates < config.world_model.hold

    def count_update(self) -> None:
        """The other part: one more update is done, after which the target critic may move."""
        config = self.config.behavior
        if self.updates % config.target_every == 0:
            self.behavior.update_target(config.target_rate)
        self.updates += 1

    def _improve(
        self, deter: Tensor, stoch: Tensor, noise: UpdateNoise | None, precision: str = "fp32"
    ) -> dict[str, Tensor]:
        """One update of actor and critic, from imagination that starts at the given posteriors."""
        config, behavior, model = self.config.behavior, self.behavior, self.world_model
        start = State(deter.detach().flatten(0, 1), stoch.detach().flatten(0, 1))
        if noise is not None and noise.starts is not None:
            start = State(start.deter[noise.starts], start.stoch[noise.starts])
        with _rounded(deter.device, precision):
            trajectory = behavior.imagine(
                model.rssm, start, config.horizon, noise and noise.imagination
            )
            reward = model.reward(trajectory.features)
            *losses, metrics = behavior.losses(trajectory, reward, config)
        # Gradients of the world model's weights are not wanted here, so none are computed.
        for name, loss in zip(("actor", "critic"), losses, strict=True):
            loss.backward(inputs=self.optimizers[name].params)
            metrics[f"{name}_grad_norm"] = self.optimizers[name].step()
        return metrics

    def _apply(self, fn, recurse=True):
        """Wherever the weights go (``to``, ``double``), the optimisers' moments go with them."""
        super()._apply(fn, recurse)
        for optimizer in self.optimizers.values():
            optimizer.apply(fn)
        return self

    def training_state(self) -> dict[str, Tensor]:
        """All that learning changes, as named tensors: weights, bonus, moments, update count."""
        tensors = {f"agent.{name}": value for name, value in self.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            tensors |= {f"{name}.{key}": value for key, value in optimizer.state_dict().items()}
        return tensors | {"updates": torch.tensor(self.updates)}

    def load_training_state(self, tensors: dict[str, Tensor]) -> None:
        """Continue exactly where ``training_state`` was taken.

        Raises:
            InputError: if an optimiser's part belongs to other parameters.
        """
        self.load_state_dict(dict(_under("agent", tensors)))
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(dict(_under(name, tensors)))
        self.updates = int(tensors["updates"])


def _rounded(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _under(prefix: str, tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == prefix:
            yield rest, tensor
