"""Seconds of a fine-tuning update and milliseconds of the policy."""

from collections.abc import Callable
from dataclasses import replace

import torch

from apv_edu.agent import APVAgent
from apv_edu.agent_config import PAPER_AGENT, AgentConfig, BehaviorConfig, BonusConfig, HeadSize
from apv_edu.bench.measure import SIZES, against_peak, compiled, interleaved, log, threads
from apv_edu.bench.naive_agent import NaiveAgentStep
from apv_edu.bench.pretrain import flops_per_step
from apv_edu.data.replay import Batch

CONFIGS = {name: replace(PAPER_AGENT, model=size) for name, size in SIZES.items()}
"""The paper's heads, bonus and horizon on models of all sizes, with no shortcut (but in smoke)."""
CONFIGS["smoke"] = replace(
    CONFIGS["smoke"],
    heads=HeadSize(units=16, layers=2),
    bonus=BonusConfig(queue=64, dim=8, neighbours=4),
    behavior=BehaviorConfig(horizon=4),
)
ROUNDS = {"smoke": 7, "small": 7, "colab": 3, "paper": 3}
"""Turns of a fine-tuning update, by the model's size."""
CALLS = 20
"""Policy calls that are timed as one."""
ACTION_DIM = 4


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


def book_update(agent: APVAgent, batch: Batch) -> Callable[[], object]:
    """The update of the book, with its noise drawn."""
    generator = torch.Generator().manual_seed(0)
    size, length = batch.reward.shape
    return lambda: agent.update(batch, agent.noise(size, length, generator))


def bench_finetune(
    sizes: tuple[str, ...] = ("small", "paper"),
    *,
    batch: int = 16,
    length: int = 50,
    rounds: int | None = None,
) -> list[dict]:
    """One row a size and update: wall and CPU seconds, GFLOP/s, share of the sgemm peak.

    The book's update, the same with its parts compiled (``fast``, whose compiling is not in the
    median but in ``compile_s``), and two naive ones, whose bonus broadcasts or multiplies
    matrices; all on one thread, by turns. Rates and ratios are of CPU seconds. Without a C++
    compiler there is no row ``fast``.
    """
    return [row for size in sizes for row in _rows(size, batch, length, rounds or ROUNDS[size])]


def _rows(name: str, batch: int, length: int, rounds: int) -> list[dict]:
    log.info(f"finetune: {name} model, {batch}x{length} frames")
    config = CONFIGS[name]
    experience, agent = a_batch(config, batch, length), APVAgent(config, ACTION_DIM)
    broadcast, matmul = (NaiveAgentStep(agent, search=way) for way in ("broadcast", "matmul"))
    updates: dict[str, Callable[[], object]] = {
        "apv_edu": book_update(agent, experience),
        "naive": lambda: broadcast.step(experience),
        "naive, matmul bonus": lambda: matmul.step(experience),
    }
    quick = APVAgent(config, ACTION_DIM)
    updates["fast"] = book_update(quick, experience)
    compile_s = compiled(quick, updates["fast"])
    if compile_s is None:
        del updates["fast"]
    work = flops_per_update(config, ACTION_DIM, batch, length)
    measured = against_peak(updates, rounds, work)
    return [
        {
            "size": name,
            "update": which,
            **row,
            "times_naive": measured["naive"]["cpu_s"] / row["cpu_s"],
            "times_matmul": measured["naive, matmul bonus"]["cpu_s"] / row["cpu_s"],
            "compile_s": compile_s if which == "fast" else 0.0,
        }
        for which, row in measured.items()
    ]


def bench_policy(sizes: tuple[str, ...] = ("small", "paper"), *, rounds: int = 15) -> list[dict]:
    """One row a size: wall and CPU milliseconds of a sampled action for one world, one thread.

    One size after another: taken in turns, the larger would push the smaller out of the caches,
    which nothing does where one agent acts.
    """
    rows = []
    for size in sizes:
        log.info(f"policy: {size} model")
        with threads(1):
            ((wall, cpu),) = interleaved({size: _acting(CONFIGS[size])}, rounds).values()
        rows.append({"size": size, "wall_ms": wall / CALLS * 1e3, "cpu_ms": cpu / CALLS * 1e3})
    return rows


def _acting(config: AgentConfig) -> Callable[[], object]:
    agent, generator = APVAgent(config, ACTION_DIM), torch.Generator().manual_seed(0)
    frame, is_first = a_batch(config, 1, 1).image[0], torch.tensor([False])

    def act() -> None:
        state = agent.initial(1)
        for _ in range(CALLS):
            _, state = agent.act(frame, state, is_first, explore=True, generator=generator)

    return act
