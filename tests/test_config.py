import dataclasses

import pytest

from apv_edu.config import (
    PRETRAIN,
    LossConfig,
    ModelSize,
    OptimizerConfig,
    PretrainConfig,
    check_seed,
    pretrain_config,
)
from apv_edu.errors import InputError


@pytest.mark.parametrize("preset", PRETRAIN)
def test_a_preset_takes_changes_and_leaves_the_rest(preset: str):
    changed = pretrain_config(preset, steps=3)
    assert changed.steps == 3
    assert dataclasses.replace(changed, steps=PRETRAIN[preset].steps) == PRETRAIN[preset]


def test_presets_grow():
    assert PRETRAIN["paper"].model == ModelSize(64, 48, 1024, 1024, 32, 32)
    depths = [PRETRAIN[name].model.depth for name in ("smoke", "laptop", "colab", "paper")]
    assert depths == sorted(set(depths))


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(InputError, match=r"'huge'.*smoke, laptop, colab, paper"):
        pretrain_config("huge")


@pytest.mark.parametrize("make", [lambda: ModelSize(depth=0), lambda: PretrainConfig(steps=-1)])
def test_counts_below_one_are_refused(make):
    with pytest.raises(InputError, match=r"(depth=0|steps=-1) is too small"):
        make()


@pytest.mark.parametrize("image_size", [48, 16, 128])
def test_image_sizes_that_fit_no_model_are_refused(image_size: int):
    with pytest.raises(InputError, match=rf"image_size={image_size} .* choose 32 or 64 pixels"):
        ModelSize(image_size=image_size)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (OptimizerConfig, "learning_rate", -1e-3),
        (OptimizerConfig, "learning_rate", float("inf")),
        (OptimizerConfig, "weight_decay", -1.0),
        (OptimizerConfig, "eps", 0.0),
        (OptimizerConfig, "clip", 0.0),
        (OptimizerConfig, "clip", float("nan")),
        (LossConfig, "kl_scale", -0.1),
        (LossConfig, "free_nats", float("nan")),
        (LossConfig, "kl_balance", -0.1),
        (LossConfig, "kl_balance", 1.1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(kind: type, name: str, value: float):
    with pytest.raises(InputError, match=rf"{name}={value} is out of range: give a finite number"):
        kind(**{name: value})


def test_the_ends_of_the_ranges_are_allowed():
    OptimizerConfig(learning_rate=0.0, weight_decay=0.0)
    assert LossConfig(kl_scale=0.0, free_nats=0.0, kl_balance=1.0).kl_balance == 1
    assert LossConfig(kl_balance=0.0).kl_balance == 0


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_that_no_generator_takes_are_refused(seed: int):
    with pytest.raises(InputError, match=rf"seed={seed} is out of range"):
        check_seed(seed)
