"""The settings of an agent: its world model, bonus and behaviour, and the named variants."""

from dataclasses import dataclass, field, replace
from typing import Literal

from apv_edu.config import ModelSize, OptimizerConfig, check_counts, check_range
from apv_edu.errors import InputError

VariantName = Literal["apv", "dreamer", "naive", "frozen", "stacked"]


@dataclass(frozen=True)
class Variant:
    """One way to use, or not to use, a pre-trained video model."""

    stacked: bool
    """Two RSSMs, the action-conditional one on top; else a single one that is given actions."""
    pretrained: bool
    """Encoder, decoder and the video model's RSSM start from a pre-trained file."""
    frozen: bool = False
    """Encoder and action-free RSSM never change."""


VARIANTS: dict[str, Variant] = {
    "apv": Variant(stacked=True, pretrained=True),
    "dreamer": Variant(stacked=False, pretrained=False),
    "naive": Variant(stacked=False, pretrained=True),
    "frozen": Variant(stacked=True, pretrained=True, frozen=True),
    "stacked": Variant(stacked=True, pretrained=False),
}
"""APV; DreamerV2 from scratch; the pre-trained RSSM itself given actions; APV with a video model
that stays as it is; and the stacked model without pre-training.

:meta hide-value:
"""


@dataclass(frozen=True)
class HeadSize:
    """Hidden layers of reward head, actor and critic."""

    units: int = 128
    """Width of a hidden layer."""
    layers: int = 2
    """Hidden layers."""

    def __post_init__(self):
        check_counts(self)


@dataclass(frozen=True)
class WorldModelConfig:
    """Loss and optimiser of the world model (method settings: official config ``metaworld``)."""

    concat_embed: bool = False
    """The stacked RSSM sees the encoder's embedding beside the video features."""
    image_scale: float = 1.0
    """Weight of the image's likelihood."""
    reward_scale: float = 1.0
    """Weight of the reward's likelihood."""
    kl_scale: float = 1.0
    """Weight of the stacked RSSM's KL."""
    video_kl_scale: float = 0.0
    """Weight of the action-free RSSM's KL; at 0 its prior gets no gradient."""
    kl_balance: float = 0.8
    """Share of the KL gradient that moves the prior towards the posterior."""
    free_nats: float = 0.0
    """KL below which the KL has no gradient."""
    reward_factor: float = 1.0
    """The task's rewards are multiplied by this before they are learned."""
    hold: int = 100
    """First updates after loading in which encoder and video RSSM have learning rate 0."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self):
        check_range(
            self, "image_scale", "reward_scale", "kl_scale", "video_kl_scale", "free_nats", "hold"
        )
        check_range(self, "kl_balance", most=1)
        check_range(self, "reward_factor", above=True)


@dataclass(frozen=True)
class BonusConfig:
    """The intrinsic bonus (official config ``metaworld``)."""

    beta: float = 1.0
    """Weight of the bonus beside the task's reward; 0 leaves it out."""
    window: int = 5
    """Frames that a query looks at (tau)."""
    queue: int = 4096
    """Remembered queries."""
    dim: int = 128
    """Width of a query after the random projection."""
    neighbours: int = 16
    """Nearest neighbours whose distances are averaged (k)."""
    momentum: float = 0.99
    """Of the running magnitude by which the bonus is divided."""

    def __post_init__(self):
        check_counts(self)
        check_range(self, "beta")
        check_range(self, "momentum", most=1)
        if self.neighbours > self.queue:
            raise InputError(
                f"neighbours={self.neighbours} is more than queue={self.queue} holds: "
                "give fewer neighbours or a longer queue."
            )


@dataclass(frozen=True)
class BehaviorConfig:
    """Learning in imagination (official config ``metaworld``)."""

    horizon: int = 15
    """Imagined steps."""
    starts: int | None = None
    """Imagined trajectories an update, from posteriors drawn at random; None is all of them."""
    discount: float = 0.99
    """Worth of a reward one step later."""
    lam: float = 0.95
    """Mix of one-step (0) and full (1) returns: the lambda of the lambda-return."""
    actor_gradient: Literal["dynamics", "reinforce", "both"] = "dynamics"
    """Through the imagined dynamics, by the score function, or a mix of both."""
    mix: float = 0.1
    """Share of the dynamics gradient in ``both``."""
    entropy: float = 1e-4
    """Weight of the policy's entropy in nats."""
    target_every: int = 100
    """Updates between copies of the critic into its target."""
    target_rate: float = 1.0
    """Share of the critic that such a copy takes."""
    actor: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=8e-5))
    critic: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=8e-5))

    def __post_init__(self):
        check_counts(self)
        check_range(self, "discount", "lam", "mix", "target_rate", most=1)
        check_range(self, "entropy")


@dataclass(frozen=True)
class AgentConfig:
    """Everything about an agent but its world's actions."""

    variant: VariantName = "apv"
    """apv, dreamer (from scratch), naive, frozen, or stacked (without pre-training)."""
    model: ModelSize = field(default_factory=ModelSize)
    heads: HeadSize = field(default_factory=HeadSize)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    bonus: BonusConfig = field(default_factory=BonusConfig)
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)

    def __post_init__(self):
        if self.variant not in VARIANTS:
            names = ", ".join(VARIANTS)
            raise InputError(f"Unknown variant {self.variant!r}: choose one of {names}.")

    @property
    def features(self) -> int:
        """Width of a feature vector: stochastic state and memory."""
        return self.model.stoch * self.model.classes + self.model.deter


PAPER_AGENT = AgentConfig(
    model=ModelSize(depth=48, deter=1024, hidden=1024, stoch=32, classes=32),
    heads=HeadSize(units=400, layers=4),
)
"""The paper's agent on Meta-World (official config ``metaworld``).

:meta hide-value:
"""
PAPER_DMC_AGENT = replace(
    PAPER_AGENT,
    world_model=WorldModelConfig(concat_embed=True, free_nats=1.0, hold=0),
    bonus=BonusConfig(beta=0.1),
)
"""The paper's agent on the DeepMind Control Suite (official config ``dmc_vision``).

:meta hide-value:
"""
