"""Every size and setting, in frozen dataclasses, and the four presets: the home of defaults."""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from apv_edu.errors import InputError

PresetName = Literal["smoke", "laptop", "colab", "paper"]
IMAGE_SIZES = (32, 64)
"""Of these the encoder makes 2x2, and the decoder makes these of one pixel."""


def check_counts(settings: Any, *, zero: Container[str] = ()) -> None:
    """Every whole number in ``settings`` is at least 1, or 0 for those named in ``zero``.

    Raises:
        InputError: when one is not.
    """
    for name in (f.name for f in fields(settings)):
        value, least = getattr(settings, name), 0 if name in zero else 1
        if type(value) is int and value < least:
            raise InputError(
                f"{name}={value} is too small: give a whole number of at least {least}."
            )


def check_range(settings: Any, *names: str, most: float = math.inf, above: bool = False) -> None:
    """The named settings are finite, not negative (or 0, if ``above``), and at most ``most``.

    Raises:
        InputError: when one is not.
    """
    for name in names:
        value = getattr(settings, name)
        if not (math.isfinite(value) and 0 <= value <= most) or (above and value == 0):
            wanted = "above 0" if above else "of at least 0"
            wanted += f" and at most {most:g}" if math.isfinite(most) else ""
            raise InputError(f"{name}={value} is out of range: give a finite number {wanted}.")


def updated(settings: Any, changes: Mapping[str, Any], place: str) -> Any:
    """A copy of the dataclass ``settings`` with ``changes``, nested as the settings are.

    Args:
        settings: a frozen dataclass, with others within.
        changes: new values by name; a whole number will do for a real one.
        place: where the changes were written, for errors.

    Raises:
        InputError: for an unknown name, or a value of another kind or out of its range.
    """
    new = {}
    for name, value in changes.items():
        known = [f.name for f in fields(settings)]
        if name not in known:
            raise InputError(f"{place}.{name} is no setting: choose of {', '.join(known)}.")
        old = getattr(settings, name)
        if is_dataclass(old) != isinstance(value, Mapping):
            raise InputError(f"{place}.{name} = {value!r} is no value for it: see --help.")
        if is_dataclass(old):
            value = updated(old, value, f"{place}.{name}")
        elif type(old) is float and type(value) is int:
            value = float(value)
        elif old is not None and type(value) is not type(old):
            kind = type(old).__name__
            raise InputError(f"{place}.{name} = {value!r} is of the wrong kind: give a {kind}.")
        new[name] = value
    return replace(settings, **new)


def check_seed(seed: int) -> None:
    """A seed is a whole number that every source of randomness takes.

    Raises:
        InputError: when it is negative or has more than 64 bits.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed={seed} is out of range: give a whole number from 0 to 2**64 - 1.")


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a latent video model. The defaults are the laptop's."""

    image_size: int = 64
    """Height and width of a frame in pixels: 64 as in the paper, or 32."""
    depth: int = 16
    """Channels of the first encoder convolution; each further layer doubles them."""
    deter: int = 256
    """Width of the deterministic state h, the GRU's memory."""
    hidden: int = 256
    """Width of the hidden layers around the GRU."""
    stoch: int = 16
    """Number of categorical latent variables in the stochastic state s."""
    classes: int = 16
    """Classes of each categorical latent variable."""

    def __post_init__(self):
        check_counts(self)
        if self.image_size not in IMAGE_SIZES:
            sizes = " or ".join(map(str, IMAGE_SIZES))
            raise InputError(f"image_size={self.image_size} fits no model: choose {sizes} pixels.")


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam as the official code runs it (see apv_edu.optimizer)."""

    learning_rate: float = 3e-4
    """Size of a step."""
    eps: float = 1e-5
    """Added to the root of the second moment, outside the bias correction."""
    clip: float = 100.0
    """Largest global gradient norm."""
    weight_decay: float = 1e-6
    """Decoupled, and not multiplied by the learning rate."""

    def __post_init__(self):
        check_range(self, "learning_rate", "weight_decay")
        check_range(self, "eps", "clip", above=True)


@dataclass(frozen=True)
class LossConfig:
    """The action-free loss: image negative log-likelihood plus kl_scale times the balanced KL."""

    kl_scale: float = 0.1
    """Weight of the KL beside the image's likelihood."""
    kl_balance: float = 0.8
    """Share of the KL gradient that moves the prior towards the posterior."""
    free_nats: float = 0.0
    """KL below which the KL has no gradient."""

    def __post_init__(self):
        check_range(self, "kl_scale", "free_nats")
        check_range(self, "kl_balance", most=1)


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run (method settings: official config ``metaworld_pretrain``)."""

    model: ModelSize = field(default_factory=ModelSize)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    steps: int = 6000
    """Gradient steps."""
    batch_size: int = 16
    """Sequences a step."""
    sequence_length: int = 25
    """Frames a sequence."""
    log_every: int = 20
    """Steps between rows of training numbers."""
    validate_every: int = 500
    """Steps between validations."""
    checkpoint_every: int = 500
    """Steps between checkpoints: the most that a kill can cost."""
    validation_videos: int = 64
    """Held-out clips used at each validation."""
    context: int = 5
    """Frames shown before an open-loop prediction."""
    horizon: int = 15
    """Frames predicted after them."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto is bf16 on a GPU that has it, else fp32."""
    fast: bool = False
    """For long runs: compiled parts, and on a GPU each step as one CUDA graph."""

    def __post_init__(self):
        check_counts(self)


PRETRAIN: dict[str, PretrainConfig] = {
    "smoke": PretrainConfig(
        model=ModelSize(depth=4, deter=32, hidden=32, stoch=4, classes=4),
        steps=8,
        batch_size=4,
        sequence_length=10,
        log_every=2,
        validate_every=4,
        checkpoint_every=4,
        validation_videos=4,
    ),
    # Ten times fewer steps than a long run ask for a higher learning rate than the paper's.
    "laptop": PretrainConfig(optimizer=OptimizerConfig(learning_rate=1e-3)),
    "colab": PretrainConfig(
        model=ModelSize(depth=32, deter=512, hidden=512, stoch=32, classes=32), steps=50_000
    ),
    "paper": PretrainConfig(
        model=ModelSize(depth=48, deter=1024, hidden=1024, stoch=32, classes=32), steps=600_000
    ),
}


def pretrain_config(preset: str, **changes: Any) -> PretrainConfig:
    """The pre-training settings of ``preset`` with some fields replaced.

    Raises:
        InputError: for an unknown preset, or a setting out of its range.
    """
    if preset not in PRETRAIN:
        raise InputError(f"Unknown preset {preset!r}: choose one of {', '.join(PRETRAIN)}.")
    return replace(PRETRAIN[preset], **changes)
