"""Seconds of a fine-tuning update, milliseconds of the policy, and the update's memory."""

import multiprocessing
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from apv_edu.agent import APVAgent
from apv_edu.agent_config import PAPER_AGENT, AgentConfig
from apv_edu.bench.naive_agent import NaiveAgentStep
from apv_edu.bench.pretrain import GEMM, SIZES, flops_per_step, interleaved
from apv_edu.data.replay import Batch

CONFIGS = {name: replace(PAPER_AGENT, model=size) for name, size in SIZES.items()}
"""The paper's heads, bonus and horizon on models of both sizes, with no shortcut."""
ROUNDS = {"small": 7, "paper": 3}
CALLS = 20
"""Policy calls that are timed as one."""
ACTION_DIM = 4
GIB = 2**30


def flops_per_update(config: AgentConfig, action_dim: int, batch: int, length: int) -> int:
    """Floating-point operations of one update: two a multiply-add, convolutions and products only.

    Of a stacked agent without ``concat_embed`` that trains its actor through the dynamics and
    imagines from all starts. Backward passes are twice the forward pass where weights and inputs
    want gradients, and once where one of them does. The policy is evaluated once.

    Source: counted from the layers of ``apv_edu``, those of APV's appendix.
    """
    size, heads, bonus, horizon = config.model, config.heads, config.bonus, config.behavior.horizon
    latent, deter, hidden = size.stoch * size.classes, size.deter, size.hidden
    features = latent + deter
    memory = (latent + action_dim) * hidden + (hidden + deter) * 3 * deter
    prior = deter * hidden + hidden * latent
    posterior = (deter + features) * hidden + hidden * latent
    first = features * heads.units
    layers = first + (heads.layers - 1) * heads.units**2
    mlp, actor = layers + heads.units, layers + 2 * heads.units * action_dim

    moments = batch * (length - bonus.window + 1)
    world = batch * length * 3 * (memory + prior + posterior) + moments * 3 * mlp
    search = batch * length * features * bonus.dim + moments * bonus.queue * bonus.dim
    acting = horizon * (3 * actor - first + 2 * (memory + prior))
    judging = (horizon + 1) * 2 * 2 * mlp + horizon * (3 * mlp - first)
    behavior = batch * length * (acting + judging)
    return flops_per_step(size, batch, length) + 2 * (world + search + behavior)


def a_batch(config: AgentConfig, batch: int, length: int) -> Batch:
    """Random experience."""
    side = config.model.image_size
    is_first = torch.zeros(batch, length, dtype=torch.bool)
    is_first[:, 0] = True
    return Batch(
        torch.randint(0, 256, (batch, length, side, side, 3), dtype=torch.uint8),
        torch.rand(batch, length, ACTION_DIM) * 2 - 1,
        torch.rand(batch, length),
        is_first,
    )


def fast_update(agent: APVAgent, batch: Batch) -> Callable[[], object]:
    """The update of the book, with its noise drawn."""
    generator = torch.Generator().manual_seed(0)
    size, length = batch.reward.shape
    return lambda: agent.update(batch, agent.noise(size, length, generator))


def bench_finetune(
    sizes: tuple[str, ...] = ("small",),
    *,
    batch: int = 16,
    length: int = 50,
    rounds: int | None = None,
) -> list[dict]:
    """One row a size and update: wall and CPU seconds, GFLOP/s, share of the sgemm peak.

    Beside the book's update two naive ones, whose bonus broadcasts or multiplies matrices. All
    at one thread. Rates and ratios are of CPU seconds, in which a busy neighbour does not count;
    the peak is the median of 2048x2048x2048 products taken between the updates.
    """
    return [row for size in sizes for row in _bench_update(size, batch, length, rounds)]


def _bench_update(name: str, batch: int, length: int, rounds: int | None) -> list[dict]:
    config = CONFIGS[name]
    experience, agent = a_batch(config, batch, length), APVAgent(config, ACTION_DIM)
    broadcast, matmul = (NaiveAgentStep(agent, search=way) for way in ("broadcast", "matmul"))
    left, right = torch.randn(2, GEMM, GEMM)
    tasks = {
        "sgemm": lambda: left @ right,
        "apv_edu": fast_update(agent, experience),
        "naive": lambda: broadcast.step(experience),
        "naive, matmul bonus": lambda: matmul.step(experience),
    }
    seconds = _at_one_thread(lambda: interleaved(tasks, rounds or ROUNDS[name]))
    peak = 2 * GEMM**3 / seconds.pop("sgemm")[1] / 1e9
    work = flops_per_update(config, ACTION_DIM, batch, length) / 1e9
    return [
        {
            "size": name,
            "update": which,
            "wall_s": wall,
            "cpu_s": cpu,
            "times_naive": seconds["naive"][1] / cpu,
            "times_matmul": seconds["naive, matmul bonus"][1] / cpu,
            "gflops": work / cpu,
            "sgemm_gflops": peak,
            "share_of_peak": work / cpu / peak,
        }
        for which, (wall, cpu) in seconds.items()
    ]


def bench_policy(sizes: tuple[str, ...] = ("small", "paper"), *, rounds: int = 15) -> list[dict]:
    """One row a size: wall and CPU milliseconds of a sampled action for one world, one thread.

    One size after another: taken in turns, the larger would push the smaller out of the caches,
    which nothing does where one agent acts.
    """
    seconds: dict[str, tuple[float, float]] = {}
    for size in sizes:
        acting = {size: _acting(CONFIGS[size])}
        seconds |= _at_one_thread(partial(interleaved, acting, rounds))
    return [
        {"size": size, "wall_ms": wall / CALLS * 1e3, "cpu_ms": cpu / CALLS * 1e3}
        for size, (wall, cpu) in seconds.items()
    ]


def _acting(config: AgentConfig) -> Callable[[], object]:
    agent, generator = APVAgent(config, ACTION_DIM), torch.Generator().manual_seed(0)
    frame, is_first = a_batch(config, 1, 1).image[0], torch.tensor([False])

    def act() -> None:
        state = agent.initial(1)
        for _ in range(CALLS):
            _, state = agent.act(frame, state, is_first, explore=True, generator=generator)

    return act


def bench_memory(
    sizes: tuple[str, ...] = ("small", "paper"), *, batch: int = 16, length: int = 50
) -> list[dict]:
    """One row a size: GiB resident after the imports, and at most during two updates.

    Each is measured in a process of its own, which holds nothing else.
    """
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.starmap(_memory, [(size, CONFIGS[size], batch, length) for size in sizes], 1)


def _memory(name: str, config: AgentConfig, batch: int, length: int) -> dict:
    torch.set_num_threads(1)
    imports = _peak_bytes()
    update = fast_update(APVAgent(config, ACTION_DIM), a_batch(config, batch, length))
    for _ in range(2):
        update()
    return {"size": name, "imports_gib": imports / GIB, "peak_gib": _peak_bytes() / GIB}


def _peak_bytes() -> int:
    """The most memory that this process has ever held."""
    status = Path("/proc/self/status")
    if status.exists():
        # A child inherits the parent's ru_maxrss on Linux, but not this figure.
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _at_one_thread(measure: Callable[[], dict]) -> dict:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure()
    finally:
        torch.set_num_threads(threads)
