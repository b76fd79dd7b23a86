"""Files of trained agents: what acting and dreaming need, with the settings to build it again."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from apv_edu import checkpoint
from apv_edu.agent import APVAgent
from apv_edu.agent_config import (
    AgentConfig,
    BehaviorConfig,
    BonusConfig,
    HeadSize,
    WorldModelConfig,
)
from apv_edu.config import ModelSize, OptimizerConfig
from apv_edu.errors import InputError
from apv_edu.finetune_config import WorldConfig

BONUS = "bonus."


def save_agent(
    path: Path | str,
    agent: APVAgent,
    metadata: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Save world model, actor and critics for inference; ``torch.float16`` halves the file.

    ``metadata`` must name the ``task`` and its ``world`` settings. The bonus and the optimisers
    stay out: they serve training only.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    tensors = {
        name: weight.to(dtype)
        for name, weight in agent.state_dict().items()
        if not name.startswith(BONUS)
    }
    story = {"kind": "agent", "config": asdict(agent.config), "action_dim": agent.action_dim}
    checkpoint.save(path, tensors, {**metadata, **story})


def load_agent(path: Path | str) -> tuple[APVAgent, dict[str, Any]]:
    """A saved agent in fp32 on the CPU, and its metadata; bonus and optimisers are fresh.

    Raises:
        InputError: when the file is missing, damaged, or holds no agent.
    """
    path = Path(path)
    wanted = "pass the agent.safetensors of a fine-tuning run"
    if path.is_dir():
        what = "a dataset of videos" if (path / "manifest.json").exists() else "a folder"
        raise InputError(f"{path} is {what}, not an agent: {wanted}.")
    tensors, metadata = checkpoint.load(path)
    if metadata.get("kind") != "agent":
        raise InputError(f"{path} is a {metadata.get('kind', 'file')!r}, not an agent: {wanted}.")
    agent = APVAgent(agent_config(metadata["config"]), metadata["action_dim"])
    fresh = {name: value for name, value in agent.state_dict().items() if name.startswith(BONUS)}
    checkpoint.load_weights(agent, tensors | fresh, path)
    return agent.eval(), metadata


def agent_config(stored: dict[str, Any]) -> AgentConfig:
    """The settings that ``dataclasses.asdict`` made a nested dict of."""
    behavior, world_model = dict(stored["behavior"]), dict(stored["world_model"])
    for part, name in ((behavior, "actor"), (behavior, "critic"), (world_model, "optimizer")):
        part[name] = OptimizerConfig(**part[name])
    return AgentConfig(
        variant=stored["variant"],
        model=ModelSize(**stored["model"]),
        heads=HeadSize(**stored["heads"]),
        world_model=WorldModelConfig(**world_model),
        bonus=BonusConfig(**stored["bonus"]),
        behavior=BehaviorConfig(**behavior),
    )


def world_config(metadata: dict[str, Any]) -> WorldConfig:
    """The settings of the world that a saved agent lives in."""
    return WorldConfig(**metadata["world"])
