"""The wheel, away from the checkout: it holds what a notebook needs."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np, torch
import apv_edu, apv_edu.show
from apv_edu.assets import asset_path
from apv_edu.checkpoint import load_video_model

model = load_video_model(asset_path("metaworld_laptop.safetensors"))
clips = np.load(asset_path("metaworld_clips.npz"))["clips"]
frames = model.predict(torch.from_numpy(clips[:2, :5]), 3)
folder = Path(apv_edu.show.__file__).parent
styles = [path.name for path in folder.iterdir() if path.suffix in (".js", ".css")]
shape = list(frames.shape)
print(json.dumps({"file": apv_edu.__file__, "shape": shape, "styles": sorted(styles)}))
"""


def test_the_wheel_holds_the_package_and_its_data(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "apv_edu").rglob("*")
        if path.suffix in {".py", ".json", ".js", ".css"} and "__pycache__" not in path.parts
    }
    assert sources <= names
    assert not [name for name in names if name.startswith(("tests/", "assets/", "notebooks/"))]


def test_outside_a_checkout_assets_are_fetched_once(wheel: Path, tmp_path: Path):
    site, cache, server = tmp_path / "site", tmp_path / "cache", tmp_path / "server"
    zipfile.ZipFile(wheel).extractall(site)
    server.mkdir()
    for name in ("metaworld_laptop.safetensors", "metaworld_clips.npz"):
        (server / name).write_bytes((ROOT / "assets" / name).read_bytes())
    environment = {
        **os.environ,
        "PYTHONPATH": str(site),
        "APV_CACHE": str(cache),
        "APV_ASSETS_URL": server.as_uri(),
        "MPLBACKEND": "agg",
    }

    def run() -> dict:
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return json.loads(done.stdout.splitlines()[-1])

    seen = run()
    assert Path(seen["file"]).is_relative_to(site)
    assert seen["shape"] == [2, 3, 64, 64, 3]
    assert seen["styles"] == ["explore.css", "explore.js"]
    for path in server.iterdir():
        path.unlink()
    assert run() == seen  # from the cache


@pytest.mark.long
def test_a_fresh_environment_needs_only_what_the_wheel_asks_for(wheel: Path, tmp_path: Path):
    home = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    python = home / "bin" / "python"
    pins = tmp_path / "pins.txt"  # this machine's torch, and the tested versions of the rest
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins.write_text("\n".join(line for line in lines if "==" in line))
    arguments = ["install", "--quiet", "--constraint", str(pins), str(wheel)]
    subprocess.run([python, "-m", "pip", *arguments], check=True)
    subprocess.run([python, "-m", "pip", "check"], check=True)
    code = (
        "from apv_edu.envs import make_env; env = make_env('metaworld:reach');"
        "print(env.reset(seed=0)[0]['image'].shape)"
    )
    seen = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    assert seen.stdout.strip().endswith("(64, 64, 3)")
    help_ = subprocess.run(
        [home / "bin" / "apv-edu", "--help"], check=True, capture_output=True, text=True
    )
    assert "pretrain" in help_.stdout
