from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from apv_edu.agent import APVAgent
from apv_edu.agent_config import (
    PAPER_AGENT,
    AgentConfig,
    BehaviorConfig,
    BonusConfig,
    HeadSize,
    WorldModelConfig,
)
from apv_edu.bench import finetune as bench
from apv_edu.bench import measure
from apv_edu.bench.naive_agent import NaiveAgentStep, PlainTruncatedNormal
from apv_edu.config import ModelSize, OptimizerConfig
from apv_edu.nets.truncated_normal import TruncatedNormal

STILL = OptimizerConfig(learning_rate=0.0, weight_decay=0.0)
TINY = AgentConfig(
    model=ModelSize(image_size=32, depth=2, deter=12, hidden=8, stoch=3, classes=4),
    heads=HeadSize(units=8, layers=2),
    bonus=BonusConfig(queue=40, dim=8, neighbours=4),
    behavior=BehaviorConfig(horizon=5, entropy=0.1),
)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def double():
    """Everything in float64, in which a matrix product's small distances can be trusted too."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def still(config: AgentConfig, **world_model) -> AgentConfig:
    """Without learning, so that torch's AdamW and the official Adam cannot drift apart."""
    return replace(
        config,
        world_model=WorldModelConfig(optimizer=STILL, **world_model),
        behavior=replace(config.behavior, actor=STILL, critic=STILL),
    )


@pytest.mark.parametrize("search", ["broadcast", "matmul"])
@pytest.mark.parametrize("options", [{}, {"concat_embed": True, "free_nats": 0.05}])
def test_a_naive_update_has_the_same_losses_bonus_and_gradients(double, search, options):
    agent = APVAgent(still(TINY, **options), 4)
    with torch.no_grad():  # unlike at the start, the target critic is not the critic
        for weight in agent.behavior.target_critic.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    naive = NaiveAgentStep(agent, search=search, sample=False)
    agent.updates = 1  # so that the target stays
    for _ in range(3):  # the queue of 40 overflows in the third update
        batch = bench.a_batch(TINY, 3, 9)
        batch.is_first[1, 4] = True
        ours, plain = agent.update(batch), naive.step(batch)
        assert set(plain) == {
            *("model_loss", "intr_mean", "actor_loss", "critic_loss"),
            *(f"{part}_grad_norm" for part in ("enc_model", "model", "actor", "critic")),
        }
        for name, value in plain.items():
            torch.testing.assert_close(value, ours[name].to(value.dtype), rtol=1e-5, atol=0)


def test_a_sampled_naive_update_learns():
    agent = APVAgent(TINY, 4)
    naive = NaiveAgentStep(agent)
    naive.step(bench.a_batch(TINY, 3, 9))
    pairs = zip(naive.behavior.actor.parameters(), agent.behavior.actor.parameters(), strict=True)
    assert all(not torch.equal(new, old) for new, old in pairs)


def test_the_plain_truncated_normal_is_ours():
    loc = torch.linspace(-0.9, 0.9, 7, dtype=torch.float64).requires_grad_()
    scale = torch.linspace(0.2, 2.0, 7, dtype=torch.float64).requires_grad_()
    plain, ours = PlainTruncatedNormal(loc, scale), TruncatedNormal(loc, scale)
    torch.testing.assert_close(plain.entropy().sum(), ours.entropy())
    torch.manual_seed(1)
    sampled = plain.rsample()
    torch.manual_seed(1)
    expected = ours.sample(torch.rand(7, dtype=torch.float64))
    torch.testing.assert_close(sampled, expected)
    slopes = torch.autograd.grad(sampled.sum(), [loc, scale])
    torch.testing.assert_close(slopes, torch.autograd.grad(expected.sum(), [loc, scale]))


def test_flop_count_agrees_with_torch_on_an_update():
    model = ModelSize(image_size=32, depth=4, deter=24, hidden=16, stoch=4, classes=5)
    config = replace(TINY, model=model, heads=HeadSize(units=24, layers=3))
    agent, batch = APVAgent(config, 3), bench.a_batch(config, 3, 24)
    batch = batch._replace(action=batch.action[..., :3])
    noise = agent.noise(3, 24, torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        agent.update(batch, noise)
    # The decoder's last layer runs as a convolution of 16x16 padded pixels instead of 14x14; and
    # torch leaves out a few gradients, of the scan's first step and of the action-free prior.
    padding = 2 * 3 * 24 * (16**2 - 14**2) * 6**2 * 3 * model.depth
    counted = bench.flops_per_update(config, 3, 3, 24)
    assert counted == pytest.approx(counter.get_total_flops() - padding, rel=5e-3)


@pytest.mark.parametrize(("batch", "work"), [(16, 1270e9), (50, 3967e9)])
def test_paper_size_work_is_as_published(batch, work):
    counted = bench.flops_per_update(bench.CONFIGS["paper"], 4, batch, 50)
    assert counted == pytest.approx(work, rel=0.015)


def test_rows(monkeypatch):
    monkeypatch.setattr(measure, "GEMM", 256)
    monkeypatch.setattr(bench, "compiled", lambda model, step: 7.5)
    threads = torch.get_num_threads()
    rows = bench.bench_finetune(("smoke", "smoke"), batch=2, length=8, rounds=1)
    names = ("apv_edu", "naive", "naive, matmul bonus", "fast")
    assert [row["update"] for row in rows] == [*names, *names]
    ours, broadcast, matmul, fast = rows[:4]
    assert fast["compile_s"] == 7.5 and ours["compile_s"] == 0
    work = bench.flops_per_update(bench.CONFIGS["smoke"], bench.ACTION_DIM, 2, 8) / 1e9
    for row in rows[:4]:
        assert row["size"] == "smoke" and row["wall_s"] > 0 and row["cpu_s"] > 0
        assert row["times_naive"] == pytest.approx(broadcast["cpu_s"] / row["cpu_s"])
        assert row["times_matmul"] == pytest.approx(matmul["cpu_s"] / row["cpu_s"])
        assert row["gflops"] * row["cpu_s"] == pytest.approx(work)
        assert row["share_of_peak"] == pytest.approx(row["gflops"] / row["sgemm_gflops"])
    assert torch.get_num_threads() == threads


def test_the_fast_update_has_an_agent_of_its_own(monkeypatch):
    """Compiled code must not creep into the update that it is compared with."""
    compiled, learned = [], []
    update = APVAgent.update
    monkeypatch.setattr(measure, "GEMM", 256)
    monkeypatch.setattr(bench, "compiled", lambda model, step: compiled.append(model) or 1.0)
    monkeypatch.setattr(
        APVAgent, "update", lambda self, *rest: learned.append(self) or update(self, *rest)
    )
    bench.bench_finetune(("smoke",), batch=2, length=8, rounds=1)
    assert len({id(agent) for agent in learned}) == 2
    assert [agent is compiled[0] for agent in learned] == [False, True] * 2


def test_policy_rows():
    rows = bench.bench_policy(("smoke", "smoke"), rounds=1)
    assert [row["size"] for row in rows] == ["smoke", "smoke"]
    assert all(row["cpu_ms"] > 0 and row["wall_ms"] > 0 for row in rows)


def test_only_the_smallest_config_is_not_the_papers():
    for name in ("small", "colab", "paper"):
        assert replace(bench.CONFIGS[name], model=PAPER_AGENT.model) == PAPER_AGENT
    assert bench.CONFIGS["paper"] == PAPER_AGENT
