"""The settings of a fine-tuning run, and its presets for each suite of worlds."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from apv_edu.agent_config import (
    PAPER_AGENT,
    PAPER_DMC_AGENT,
    AgentConfig,
    BehaviorConfig,
    BonusConfig,
    HeadSize,
    WorldModelConfig,
)
from apv_edu.config import PRETRAIN, ModelSize, OptimizerConfig, check_counts
from apv_edu.errors import InputError


@dataclass(frozen=True)
class WorldConfig:
    """How a world is observed and timed; None leaves the world's own default."""

    action_repeat: int = 1
    """Simulator steps that each action lasts."""
    time_limit: int | None = None
    """Simulator steps of an episode."""
    rendering: Literal["fast", "exact"] = "fast"
    """fast leaves out shadows, reflections, and detail finer than a pixel."""
    orientation: str | None = None
    """Of Meta-World: upright, or official."""
    look: str | None = None
    """Of the tabletop: a look's name, or random."""
    distractors: int | None = None
    """Of the tabletop: shapes painted on the table."""
    tolerance: float | None = None
    """Of the tabletop: how near the goal counts as on it; 0.35 makes reach easy."""

    def __post_init__(self):
        check_counts(self, zero=("distractors",))

    def options(self) -> dict[str, Any]:
        """What to hand to ``make_env``."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning run. Steps are the agent's: each lasts ``world.action_repeat`` of the world.

    Source of the paper's settings: official config ``metaworld`` and ``dmc_vision``.
    """

    agent: AgentConfig = field(default_factory=AgentConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    steps: int = 10_000
    """Steps in all, those of ``prefill`` included."""
    envs: int = 1
    """Worlds at once; more than one live in processes of their own."""
    prefill: int = 1000
    """Steps of the random policy before learning starts."""
    warmup: int = 100
    """Updates between the prefill and the first step of the agent's own."""
    update_every: int = 5
    """Steps for each update after that."""
    batch_size: int = 16
    """Sequences an update."""
    sequence_length: int = 50
    """Steps a sequence."""
    replay: int = 100_000
    """Frames that the replay holds."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto is bf16 on a GPU that has it, else fp32."""
    fast: bool = False
    """For long runs: compiled parts, and on a GPU each update as one CUDA graph."""
    log_every: int = 50
    """Updates between rows of training numbers."""
    eval_every: int = 2000
    """Steps between evaluations."""
    eval_episodes: int = 10
    """Episodes of an evaluation."""
    checkpoint_every: int = 1000
    """Steps between checkpoints, up to the end of the episode."""

    def __post_init__(self):
        check_counts(self, zero=("prefill", "warmup"))

    def updates_due(self, step: int) -> int:
        """Updates that belong to the first ``step`` steps."""
        past = step - self.prefill
        return 0 if past < 0 else self.warmup + past // self.update_every


_FAST = OptimizerConfig(learning_rate=1e-3)
_SMALL_BEHAVIOR = BehaviorConfig(
    horizon=8,
    starts=96,
    discount=0.95,
    entropy=3e-2,
    actor=_FAST,
    critic=_FAST,
    target_every=1,
    target_rate=0.02,
)
SMOKE = FinetuneConfig(
    agent=AgentConfig(
        model=PRETRAIN["smoke"].model,
        heads=HeadSize(units=16, layers=1),
        bonus=BonusConfig(queue=64, dim=8, neighbours=4),
        behavior=BehaviorConfig(horizon=3, starts=8),
    ),
    world=WorldConfig(time_limit=20),
    steps=80,
    prefill=40,
    warmup=2,
    batch_size=2,
    sequence_length=10,
    replay=500,
    log_every=2,
    eval_every=40,
    eval_episodes=1,
    checkpoint_every=40,
)
LAPTOP = {
    # 32x32 frames and a small model: minutes on one core.
    "tabletop": FinetuneConfig(
        agent=AgentConfig(
            model=ModelSize(image_size=32, depth=16, deter=128, hidden=128),
            world_model=WorldModelConfig(
                concat_embed=True,
                image_scale=4.0,
                reward_scale=10.0,
                kl_scale=0.1,
                optimizer=_FAST,
            ),
            bonus=BonusConfig(beta=0.1),
            behavior=_SMALL_BEHAVIOR,
        ),
        steps=25_000,
        prefill=2000,
        warmup=300,
        update_every=3,
        sequence_length=10,
        eval_every=3000,
        eval_episodes=20,
    ),
    "metaworld": FinetuneConfig(
        agent=AgentConfig(
            world_model=WorldModelConfig(
                concat_embed=True,
                reward_scale=10.0,
                reward_factor=0.1,
                kl_scale=0.1,
                optimizer=replace(_FAST, learning_rate=6e-4),
            ),
            bonus=BonusConfig(beta=0.1),
            behavior=replace(
                _SMALL_BEHAVIOR,
                horizon=10,
                starts=128,
                discount=0.97,
                actor=replace(_FAST, learning_rate=5e-4),
                critic=replace(_FAST, learning_rate=5e-4),
            ),
        ),
        world=WorldConfig(action_repeat=2, time_limit=300),
        steps=9000,
        prefill=1500,
        warmup=300,
        update_every=5,
        batch_size=12,
        sequence_length=10,
        eval_every=1500,
    ),
    "dmc": FinetuneConfig(
        agent=AgentConfig(
            variant="dreamer",
            model=ModelSize(image_size=32, depth=16, deter=200, hidden=200),
            world_model=WorldModelConfig(
                concat_embed=True,
                image_scale=4.0,
                reward_scale=10.0,
                kl_scale=0.1,
                optimizer=_FAST,
            ),
            bonus=BonusConfig(beta=0.0),
            behavior=replace(
                _SMALL_BEHAVIOR,
                horizon=12,
                starts=160,
                discount=0.98,
                entropy=3e-3,
                actor=replace(_FAST, learning_rate=5e-4),
                critic=replace(_FAST, learning_rate=5e-4),
            ),
        ),
        world=WorldConfig(action_repeat=4),
        steps=32_000,
        warmup=200,
        update_every=3,
        batch_size=16,
        sequence_length=16,
        eval_every=2500,
        eval_episodes=3,
    ),
}


def _colab(laptop: FinetuneConfig) -> FinetuneConfig:
    """The medium model on one GPU, with the paper's behaviour."""
    agent = replace(
        laptop.agent,
        model=PRETRAIN["colab"].model,
        heads=HeadSize(units=400, layers=4),
        behavior=BehaviorConfig(),
    )
    return replace(
        laptop, agent=agent, steps=100_000, batch_size=16, sequence_length=50, prefill=2000
    )


PAPER = {
    "metaworld": FinetuneConfig(
        agent=PAPER_AGENT,
        world=WorldConfig(rendering="exact", orientation="official"),
        steps=250_000,
        prefill=5000,
        batch_size=50,
        replay=250_000,
        eval_every=10_000,
        checkpoint_every=10_000,
    ),
    "dmc": FinetuneConfig(
        agent=PAPER_DMC_AGENT,
        world=WorldConfig(action_repeat=2, rendering="exact"),
        steps=500_000,
        replay=250_000,
        eval_every=10_000,
        eval_episodes=1,
        checkpoint_every=10_000,
    ),
}
# The paper knows no tabletop: there its Meta-World settings apply, on short episodes.
PAPER["tabletop"] = replace(PAPER["metaworld"], world=WorldConfig())
PRESETS: dict[str, dict[str, FinetuneConfig]] = {
    "smoke": {suite: SMOKE for suite in LAPTOP},
    "laptop": LAPTOP,
    "colab": {suite: _colab(config) for suite, config in LAPTOP.items()},
    "paper": PAPER,
}


def finetune_config(preset: str, suite: str, **changes: Any) -> FinetuneConfig:
    """The fine-tuning settings of ``preset`` for a suite, or the suite of a task's name.

    Raises:
        InputError: for an unknown preset or suite, or a setting out of its range.
    """
    if preset not in PRESETS:
        raise InputError(f"Unknown preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    suites = PRESETS[preset]
    suite = suite.partition(":")[0]
    if suite not in suites:
        raise InputError(f"Unknown suite {suite!r}: choose one of {', '.join(suites)}.")
    return replace(suites[suite], **changes)
