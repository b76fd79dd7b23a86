"""What tests of fine-tuning share: a tiny video model, and a run that nobody disturbed."""

from pathlib import Path

import pytest
import torch
from finetune_runs import run, video_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from scratch that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out)
    return out


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
