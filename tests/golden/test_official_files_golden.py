"""The authors' files, imported: the model that they hold computes what the official code does."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from test_observe_golden import forward

from apv_edu.checkpoint import load_video_model
from apv_edu.official import to_official
from apv_edu.official_files import import_official

pytestmark = pytest.mark.golden

FOLDER = Path(os.environ.get("APV_GOLDEN_DIR", Path(__file__).parent)) / "official_ckpt"


@pytest.fixture(scope="module")
def imported(golden, tmp_path_factory):
    """The imported model, read back from the file that import writes."""
    path = tmp_path_factory.mktemp("imported") / "model.safetensors"
    import_official(FOLDER, path, "import", classes=golden("pretrain")["post_logit"].shape[-1])
    return lambda dtype: load_video_model(path).to(dtype)


def test_every_variable_has_its_official_name(imported, variables):
    found = to_official(dict(imported(torch.float32).named_parameters()))
    assert found.keys() == variables.keys()
    for name, wanted in variables.items():
        # The action rows multiply zeros and are left out.
        used = len(wanted) - 50 if name == "rssm/img_in/kernel" else len(wanted)
        np.testing.assert_array_equal(found[name][:used], wanted[:used], err_msg=name)


def test_the_imported_model_computes_the_official_outputs(imported, golden, assert_parity):
    reference = {k: v for k, v in golden("pretrain").items() if k != "carry_is_first"}
    assert {"imagine_deter", "imagine_logit"} <= set(reference)
    assert any(name.startswith("decoder_mean") for name in reference)
    runs = [forward(imported(dtype), golden) for dtype in (torch.float32, torch.float64)]
    assert_parity(reference, *runs)
