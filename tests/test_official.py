import json
from pathlib import Path

import numpy as np
import pytest
import torch

from apv_edu.agent_config import HeadSize
from apv_edu.behavior import Behavior
from apv_edu.config import ModelSize
from apv_edu.errors import InputError
from apv_edu.nets.heads import Actor
from apv_edu.official import (
    ACTION_INPUTS,
    load_official,
    official_name,
    official_shapes,
    to_official,
)
from apv_edu.video_model import ActionFreeVideoModel
from apv_edu.world_model import StackedWorldModel

SIZE = ModelSize(depth=2, deter=8, hidden=6, stoch=3, classes=4)


def arrays() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    return to_official(dict(ActionFreeVideoModel(SIZE).named_parameters()))


def test_there_and_back_again():
    variables = arrays()
    torch.manual_seed(1)
    model = ActionFreeVideoModel(SIZE)
    load_official(model, variables)
    again = to_official(dict(model.named_parameters()))
    assert again.keys() == variables.keys()
    assert all(np.array_equal(again[name], variables[name]) for name in variables)


def test_official_layouts():
    shapes = {name: array.shape for name, array in arrays().items()}
    assert shapes["encoder/conv1/kernel"] == (4, 4, 2, 4)  # height, width, in, out
    assert shapes["decoder/conv0/kernel"] == (5, 5, 8, 64)  # height, width, out, in
    assert shapes["decoder/conv3/kernel"] == (6, 6, 3, 2)
    assert shapes["rssm/img_in/kernel"] == (3 * 4 + ACTION_INPUTS, 6)  # in, out
    assert shapes["rssm/gru/norm/gamma"] == shapes["rssm/gru/norm/beta"] == (3 * 8,)


def test_foreign_names_and_arrays_are_refused():
    with pytest.raises(InputError, match=r"'head\.weight' has no official counterpart"):
        official_name("head.weight")
    model, variables = ActionFreeVideoModel(SIZE), arrays()
    kernel = variables.pop("rssm/obs_out/kernel")
    with pytest.raises(InputError, match="rssm/obs_out/kernel is missing"):
        load_official(model, variables)
    with pytest.raises(InputError, match=r"rssm/obs_out/kernel has shape .* same sizes"):
        load_official(model, variables | {"rssm/obs_out/kernel": kernel[1:]})
    with pytest.raises(InputError, match=r"rssm/img_in/kernel has shape .* same sizes"):
        short = variables["rssm/img_in/kernel"][:-1]
        load_official(
            model, variables | {"rssm/obs_out/kernel": kernel, "rssm/img_in/kernel": short}
        )


def test_nothing_is_loaded_unless_everything_fits():
    model, variables = ActionFreeVideoModel(SIZE), arrays()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    del variables["decoder/convin/bias"]
    with pytest.raises(InputError):
        load_official(model, variables)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ("video_rssm.gru.norm.weight", "af_rssm/gru/norm/gamma"),
        ("video_rssm.posterior_hidden.bias", "af_rssm/obs_out/bias"),
        ("rssm.gru_input.weight", "rssm/img_in/kernel"),
        ("reward.layers.1.weight", "reward/dense1/kernel"),
        ("critic.out.bias", "critic/out/out/bias"),
        ("target_critic.layers.0.bias", "target_critic/dense0/bias"),
        ("actor.std.weight", "actor/out/std/kernel"),
    ],
)
def test_names_of_the_agent(parameter, name):
    assert official_name(parameter) == name


@pytest.mark.parametrize(
    "parameter", ["critic.std.weight", "video_encoder.convs.0.weight", "video_rssm.x.weight", "out"]
)
def test_names_that_the_agent_has_not(parameter):
    with pytest.raises(InputError, match="has no official counterpart"):
        official_name(parameter)


def test_an_agent_has_the_official_variables():
    listing = Path(__file__).parent / "golden" / "official_ckpt" / "order.json"
    files = json.loads(listing.read_text())
    agent = next(value for value in files.values() if isinstance(value, dict))
    official = {entry["name"]: tuple(entry["shape"]) for part in agent.values() for entry in part}
    for part in ("encoder", "decoder"):
        entries = files[f"{part}_variables.pkl"]
        official |= {entry["name"]: tuple(entry["shape"]) for entry in entries}
    size, heads = ModelSize(depth=8, deter=64, hidden=64, stoch=8, classes=8), HeadSize(32, 2)
    behavior = official_shapes(Behavior(128, 4, heads))
    target = {name: behavior.pop(name) for name in list(behavior) if name.startswith("target_")}
    assert official_shapes(StackedWorldModel(size, 4, heads)) | behavior == official
    critic = {name: shape for name, shape in behavior.items() if name.startswith("critic/")}
    assert {name.removeprefix("target_"): shape for name, shape in target.items()} == critic


@pytest.mark.parametrize("options", [{}, {"concat_embed": True}, {"stacked": False}], ids=str)
def test_a_world_model_there_and_back_again(options):
    torch.manual_seed(0)
    model, other = (StackedWorldModel(SIZE, 3, HeadSize(5, 3), **options) for _ in range(2))
    variables = to_official(dict(model.named_parameters()))
    kernel = variables["rssm/img_in/kernel"]
    assert kernel.shape == (3 * 4 + ACTION_INPUTS, 6)
    np.testing.assert_array_equal(kernel[: 3 * 4 + 3], model.rssm.gru_input.weight.detach().T)
    assert not kernel[3 * 4 + 3 :].any()
    assert {name: array.shape for name, array in variables.items()} == official_shapes(model)
    load_official(other, variables)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name
    kernel[3 * 4 + 3 :] = 1  # rows of actions that this agent has not
    load_official(other, variables)
    assert torch.equal(other.rssm.gru_input.weight, model.rssm.gru_input.weight)


def test_a_single_module_by_its_name():
    torch.manual_seed(0)
    actor, other = (Actor(6, 2, units=5, layers=2) for _ in range(2))
    variables = to_official(dict(actor.named_parameters()), prefix="actor")
    assert variables["actor/out/std/kernel"].shape == (5, 2)
    load_official(other, variables, prefix="actor")
    assert all(map(torch.equal, actor.parameters(), other.parameters()))
    with pytest.raises(InputError, match=r"'layers\.0\.weight' has no official counterpart"):
        load_official(other, variables)


def test_the_action_input_alone_is_refused():
    parameters = dict(ActionFreeVideoModel(SIZE).named_parameters())
    with pytest.raises(InputError, match=r"pass 'rssm\.prior_logits\.weight' with it"):
        to_official({"rssm.gru_input.weight": parameters["rssm.gru_input.weight"]})
