import numpy as np
import pytest
import torch

from apv_edu.config import ModelSize
from apv_edu.errors import InputError
from apv_edu.official import ACTION_INPUTS, load_official, official_name, to_official
from apv_edu.video_model import ActionFreeVideoModel

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
