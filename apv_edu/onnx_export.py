"""A world model for other runtimes: its dream as two ONNX graphs, with real moments to start from.

``step`` moves a belief one step on, ``decode`` draws it. Both take a batch of any size, and neither
holds randomness: the Gumbel noise is an input. ``temperature * noise`` samples the latents at that
temperature, and no noise takes their mode, so one graph serves both.
"""

import base64
import io
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from apv_edu.agent import APVAgent
from apv_edu.agent_files import world_config
from apv_edu.envs import make_env
from apv_edu.envs.tabletop import SPEED, Tabletop
from apv_edu.envs.tabletop_drawing import RADIUS
from apv_edu.errors import InputError
from apv_edu.files import write_atomically
from apv_edu.nets.distributions import entropy, gumbel
from apv_edu.nets.rssm import State
from apv_edu.seeds import stream
from apv_edu.world_model import StackedWorldModel

OPSET = 20
"""Version of the ONNX operators."""
START, TRACE = range(2)  # streams of randomness under one seed


class DreamStep(nn.Module):
    """One imagined step of the upper RSSM, and what is known of it: entropy in nats, reward."""

    def __init__(self, model: StackedWorldModel):
        super().__init__()
        self.rssm, self.head = model.rssm, model.reward

    def forward(
        self,
        deter: Float[Tensor, "batch deter"],
        stoch: Float[Tensor, "batch stoch classes"],
        action: Float[Tensor, "batch action"],
        noise: Float[Tensor, "batch stoch classes"],
    ) -> tuple[Tensor, Tensor, Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """The next memory and latents, the entropy of the prior they came from, the reward."""
        # As RSSM.imagine, but for the one-hot sample: a tracer would fix the batch of that one.
        deter = self.rssm.advance(State(deter, stoch), action)
        logits = self.rssm.prior(deter)
        stoch = F.one_hot((logits + noise).argmax(-1), self.rssm.classes).to(deter.dtype)
        return deter, stoch, entropy(logits), self.head(State(deter, stoch).features)


class DreamFrame(nn.Module):
    """The decoder: the picture of a belief, in [0, 1]."""

    def __init__(self, model: StackedWorldModel):
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self, deter: Float[Tensor, "batch deter"], stoch: Float[Tensor, "batch stoch classes"]
    ) -> Float[Tensor, "batch height width 3"]:
        """Mean pixels, clipped to what can be shown."""
        x = self.decoder.patch(self.decoder.dense(State(deter, stoch).features))
        *middle, last = self.decoder.convs
        for conv in middle:
            x = conv(F.elu(x))
        # The last layer's own way to compute this is quicker in torch, and no tracer follows it.
        weight, bias = last.parameters()
        x = F.conv_transpose2d(F.elu(x), weight, bias, stride=2)
        return (x.permute(0, 2, 3, 1) + 0.5).clamp(0, 1)


def export_dream(
    agent: APVAgent,
    story: dict[str, Any],
    out: Path,
    *,
    starts: int = 6,
    context: int = 6,
    trace: int = 8,
    seed: int = 0,
) -> None:
    """Write ``step.onnx``, ``decode.onnx`` and ``dream.json`` to the folder ``out``.

    ``dream.json`` holds ``starts`` real moments of the world that the agent's ``story`` names: see
    ``real_start``. Its ``trace`` is a short dream as torch computes it, for another runtime to
    repeat: see ``dream_trace``. Arrays are base64 of their bytes, float32 or, for frames, uint8.

    Raises:
        InputError: for a count below 1, without the package onnx, or for a folder that cannot be
            written.
    """
    if min(starts, context, trace) < 1:
        raise InputError(
            f"A dream with starts={starts}, context={context} and trace={trace} is not possible: "
            "give at least 1 of each."
        )
    graphs = dream_graphs(agent.world_model)
    size = agent.config.model
    moments = [real_start(agent, story, context, stream(seed, START, i)) for i in range(starts)]
    about = {
        "task": story["task"],
        "size": size.image_size,
        "stoch": size.stoch,
        "classes": size.classes,
        "actions": agent.action_dim,
        "starts": moments,
        "trace": dream_trace(agent, trace, seed),
    }
    for name, graph in graphs.items():
        write_atomically(out / f"{name}.onnx", graph)
    write_atomically(out / "dream.json", json.dumps(about).encode())


def dream_graphs(model: StackedWorldModel) -> dict[str, bytes]:
    """The ONNX files of ``DreamStep`` and ``DreamFrame``, by name: ``step`` and ``decode``.

    Raises:
        InputError: without the package onnx.
    """
    belief = model.rssm.initial(2)
    action, noise = torch.zeros(2, model.rssm.action_dim), torch.zeros_like(belief.stoch)
    names = ["deter", "stoch", "action", "noise"]
    results = ["next_deter", "next_stoch", "entropy", "reward"]
    return {
        "step": _to_onnx(DreamStep(model), (*belief, action, noise), names, results),
        "decode": _to_onnx(DreamFrame(model), tuple(belief), names[:2], ["frame"]),
    }


def _to_onnx(
    module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], results: list[str]
) -> bytes:
    """``module`` as an ONNX file in which every input and result has a batch of any size."""
    if find_spec("onnx") is None:
        raise InputError("Exporting needs the package onnx: run `pip install onnx` first.")
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # The newer exporter needs one more package and writes the same graph.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module.eval(),
            inputs,
            file,  # pyright: ignore[reportArgumentType] - the older exporter takes it
            input_names=names,
            output_names=results,
            dynamic_axes={name: {0: "batch"} for name in names + results},
            opset_version=OPSET,
            dynamo=False,
        )
    return file.getvalue()


@torch.no_grad()
def real_start(agent: APVAgent, story: dict[str, Any], context: int, seed: int) -> dict[str, Any]:
    """``context`` frames of the agent's world under random actions, and the belief after them.

    Beside the ``frames`` there is what the decoder made of each while the model watched (``seen``,
    latents at their mode) and the entropy of each prior in nats. On the tabletop ``truth`` says
    where the gripper is and how it goes on, so that a dream can be held against the world.
    """
    options = world_config(story).options()
    env = make_env(story["task"], image_size=agent.config.model.image_size, **options)
    env.action_space.seed(seed % 2**32)
    frames = [env.reset(seed=seed % 2**32)[0]["image"]]
    actions = [np.zeros(agent.action_dim, np.float32)]
    for _ in range(context - 1):
        actions.append(env.action_space.sample())
        frames.append(env.step(actions[-1])[0]["image"])
    model = agent.world_model
    is_first = torch.zeros(1, context, dtype=torch.bool)
    is_first[:, 0] = True
    images = torch.from_numpy(np.stack(frames))[None]
    watched = model.observe(images, torch.from_numpy(np.stack(actions))[None], is_first=is_first)
    seen = DreamFrame(model)(watched.stacked.deter[0], watched.stacked.stoch[0])
    deter, stoch = watched.stacked.state()
    start = {
        "frames": _base64(images),
        "seen": _base64((seen * 255).round().byte()),
        "entropy": entropy(watched.stacked.prior)[0].tolist(),
        "deter": _base64(deter),
        "stoch": _base64(stoch),
    }
    world = env.unwrapped
    if isinstance(world, Tabletop) and world.task == "reach":  # nothing else holds the gripper
        way = SPEED * options.get("action_repeat", 1)
        start["truth"] = {"at": world.gripper.tolist(), "speed": way, "wall": 1 - RADIUS}
    env.close()
    return start


@torch.no_grad()
def dream_trace(agent: APVAgent, steps: int, seed: int) -> dict[str, Any]:
    """A dream of ``steps`` steps from a belief of zeros, in torch: inputs, and what comes of them.

    Random ``action`` and ``noise`` of every step; ``entropy`` and ``reward`` of every step; the
    ``frame`` and the memory ``deter`` at the end, as float32.
    """
    model, size = agent.world_model, agent.config.model
    generator = torch.Generator().manual_seed(stream(seed, TRACE))
    action = torch.rand(steps, 1, agent.action_dim, generator=generator) * 2 - 1
    noise = gumbel(steps, 1, size.stoch, size.classes, generator=generator)
    one_step, belief = DreamStep(model), tuple(model.rssm.initial(1))
    told: list[tuple[float, float]] = []
    for a, n in zip(action, noise, strict=True):
        *belief, uncertainty, reward = one_step(*belief, a, n)
        told.append((uncertainty.item(), reward.item()))
    return {
        "action": _base64(action),
        "noise": _base64(noise),
        "entropy": [uncertainty for uncertainty, _ in told],
        "reward": [reward for _, reward in told],
        "deter": _base64(belief[0]),
        "frame": _base64(DreamFrame(model)(*belief)),
    }


def _base64(array: Tensor) -> str:
    return base64.b64encode(array.contiguous().numpy().tobytes()).decode()
