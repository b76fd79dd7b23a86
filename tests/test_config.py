import dataclasses

import pytest

from apv_edu.config import PRETRAIN, ModelSize, PretrainConfig, pretrain_config
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
