"""Tiny fine-tuning runs for the tests: settings, a video model to start from, how to run them."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from run_killing import assert_same_file, assert_same_log, assert_same_names

from apv_edu import checkpoint
from apv_edu.agent import APVAgent
from apv_edu.errors import InputError
from apv_edu.finetune import finetune
from apv_edu.finetune_config import FinetuneConfig, WorldConfig, finetune_config
from apv_edu.video_model import ActionFreeVideoModel

TASK, LIMIT = "tabletop:reach", 10
SMOKE = finetune_config("smoke", TASK)
SIZE = replace(SMOKE.agent.model, image_size=32)
CLOCK = ("cpu_seconds", "wall_seconds", "command")
"""What two equal runs may say differently of themselves."""


def quick(variant: str = "apv", **changes: Any) -> FinetuneConfig:
    """Episodes of ten steps, one at random, then updates; a replay that soon forgets."""
    beta = 0.0 if variant == "dreamer" else 1.0
    agent = replace(
        SMOKE.agent,
        variant=variant,
        model=SIZE,
        world_model=replace(SMOKE.agent.world_model, hold=4),
        bonus=replace(SMOKE.agent.bonus, beta=beta),
    )
    settings: dict[str, Any] = {
        "agent": agent,
        "world": WorldConfig(time_limit=LIMIT),
        "steps": 30,
        "prefill": 10,
        "warmup": 1,
        "update_every": 5,
        "sequence_length": 6,
        "replay": 40,
        "log_every": 1,
        "eval_every": 20,
        "checkpoint_every": 10,
    }
    return replace(SMOKE, **(settings | changes))


def video_model(path: Path) -> Path:
    """A file such as pre-training makes, of the sizes of ``quick``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        checkpoint.save_video_model(path, ActionFreeVideoModel(SIZE), {"command": "none"})
    return path


def run(out: Path, config: FinetuneConfig | None = None, **options: Any) -> APVAgent:
    """``finetune`` on one core, quietly."""
    fixed = {"progress": False, "device": "cpu", "threads": 1, "seed": 5}
    return finetune(options.pop("task", TASK), config or quick("dreamer"), out, **(fixed | options))


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs that ended the same: weights, moments, bonus, numbers, episodes."""
    for name in ("agent.safetensors", "checkpoint.safetensors"):
        assert_same_file(one / name, other / name, free=CLOCK)
    assert assert_same_log(one, other)
    assert_same_names(one, other)
    assert_same_names(one / "replay", other / "replay")
    for path in (one / "replay").iterdir():
        assert path.read_bytes() == (other / "replay" / path.name).read_bytes(), path.name


class Silence:
    """A logger that keeps what it is told, and may interrupt at a given step."""

    def __init__(self, stop_at: int | None = None):
        self.numbers: dict[int, dict[str, float]] = {}
        self.resumed: list[int] = []
        self.videos: list[tuple[int, str]] = []
        self.closed, self.stop_at = False, stop_at

    def resume(self, step: int) -> None:
        self.resumed.append(step)

    def scalars(self, step, values) -> None:
        self.numbers.setdefault(step, {}).update(values)
        if step == self.stop_at:
            raise KeyboardInterrupt

    def video(self, step, name, frames) -> None:
        self.videos.append((step, name))

    def close(self) -> None:
        self.closed = True


def refused(call: Callable[[], Any], *words: str) -> None:
    """One sentence that says all of ``words``."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and message.endswith("."), message
    assert not re.search(r"[a-z)]\. [A-Z]", message), message
    for word in words:
        assert word in message, (word, message)


def nothing_in(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())
