"""The shipped models do what the book says of them."""

import numpy as np
import pytest

from apv_edu import metrics
from apv_edu.assets import asset_path, read_table
from apv_edu.checkpoint import load, load_video_model

WORLDS = ("metaworld", "tabletop")
BASELINES = ("last frame", "mean of context")


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_table_keeps_the_promises(world: str):
    rows = metrics.read_rows(asset_path(f"{world}_open_loop.csv"))
    mse = {(row.method, row.horizon): row.mse for row in rows}
    assert {row.horizon for row in rows} == set(range(1, 16))
    assert all(row.clips >= 100 for row in rows)
    for baseline in BASELINES:
        assert all(mse["model", h] < mse[baseline, h] for h in range(3, 16)), baseline
    changed = {method: row["changed_mse"] for method, row in metrics.summary(rows, 3).items()}
    assert changed["model"] <= 0.7 * changed["last frame"]
    assert changed["model"] < changed["mean of context"]


def test_the_model_predicts_the_shipped_clips_as_the_table_says(world: str):
    model = load_video_model(asset_path(f"{world}_laptop.safetensors"))
    clips = np.load(asset_path(f"{world}_clips.npz"))["clips"]
    assert clips.shape == (12, 20, 64, 64, 3) and clips.dtype == np.uint8
    rows = metrics.open_loop_table(model, clips, seed=1)
    changed = {method: row["changed_mse"] for method, row in metrics.summary(rows, 3).items()}
    assert changed["model"] <= 0.8 * changed["last frame"]  # few clips, another sample
    table = metrics.summary(metrics.read_rows(asset_path(f"{world}_open_loop.csv")), 3)
    assert 0.5 < changed["model"] / table["model"]["changed_mse"] < 2


def test_models_are_small_and_tell_how_they_were_made(world: str):
    name = f"{world}_laptop.safetensors"
    path = asset_path(name)
    story = load(path)[1]
    assert path.stat().st_size <= 12_000_000
    assert story["command"] == read_table()[name]["command"]
    assert story["command"].startswith("apv-edu pretrain ") and story["seed"] == 0


def test_the_papers_tasks_are_in_no_clip_or_video_set():
    command = asset_path("metaworld_laptop.safetensors").parent / "README.md"
    from apv_edu.data.collect import PAPER_METAWORLD_TASKS

    if command.exists():  # in a checkout
        words = command.read_text("utf-8").replace("\\\n", " ").split("--out")[0].split()
        assert set(PAPER_METAWORLD_TASKS) <= set(words)
