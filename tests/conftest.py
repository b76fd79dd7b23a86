"""What several tests share: a tiny video model, a run that nobody disturbed, the built wheel."""

import subprocess
import sys
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


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's wheel, built from this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    root = Path(__file__).resolve().parent.parent
    arguments = ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(root)]
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)
    return next(out.glob("apv_edu-*.whl"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
