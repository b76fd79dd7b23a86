"""The fast path is the plain one, sooner: the same numbers, and no question to the host."""

import shutil
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from finetune_runs import SIZE, assert_same_run, quick, run, video_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from apv_edu import checkpoint, fast
from apv_edu.agent import APVAgent
from apv_edu.config import OptimizerConfig, pretrain_config
from apv_edu.data.replay import Batch
from apv_edu.data.video import VideoDataset, pack_videos
from apv_edu.errors import InputError
from apv_edu.fast import WARMUP, GraphedStep, compile_parts
from apv_edu.optimizer import DecoupledAdam
from apv_edu.pretrain import pretrain
from apv_edu.pretrain_step import TrainingState, train_step
from apv_edu.rounds import choose_update
from apv_edu.video_model import ActionFreeVideoModel

BATCH, LENGTH, ACTIONS = 3, 6, 2


def batch(seed: int = 0, device: str = "cpu") -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (BATCH, LENGTH, 32, 32, 3), generator=generator)
    action = torch.rand(BATCH, LENGTH, ACTIONS, generator=generator) * 2 - 1
    reward = torch.rand(BATCH, LENGTH, generator=generator)
    is_first = (torch.arange(LENGTH) == 0).repeat(BATCH, 1)
    return Batch(*(t.to(device) for t in (image.to(torch.uint8), action, reward, is_first)))


def build(variant: str = "apv", seed: int = 0) -> APVAgent:
    torch.manual_seed(seed)
    return APVAgent(quick(variant).agent, ACTIONS)


def trained(fast: bool, steps: int = 4) -> dict:
    """The training state after some updates."""
    agent = build()
    sizes = {"batch_size": BATCH, "sequence_length": LENGTH}
    update = choose_update(agent, quick("apv", **sizes, fast=fast, precision="fp32"))
    for step in range(steps):
        update(batch(step), step)
    return {name: value.detach().cpu() for name, value in agent.training_state().items()}


def assert_close(ours: dict, theirs: dict, *, rtol: float, atol: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], msg=lambda m, n=name: f"{n}: {m}", rtol=rtol, atol=atol
        )


def test_on_a_cpu_the_same_noise_gives_the_same_run(monkeypatch):
    """Compiled code rounds otherwise; all the rest is equal to the last bit."""
    monkeypatch.setattr("apv_edu.rounds.compile_parts", lambda *_: None)
    assert_close(trained(fast=True), trained(fast=False), rtol=0, atol=0)


@pytest.mark.long
def test_compiled_parts_compute_the_same():
    assert_close(trained(fast=True), trained(fast=False), rtol=1e-4, atol=1e-5)


def trained_with_loops(compiled: bool) -> dict:
    """As ``trained``, with the loops of long runs."""
    agent = build()
    compile_parts(agent, loops=compiled)
    for step in range(4):
        noise = agent.noise(BATCH, LENGTH, torch.Generator().manual_seed(step))
        agent.update(batch(step), noise)
    return {name: value.detach() for name, value in agent.training_state().items()}


def test_the_loops_of_long_runs_learn_the_same(monkeypatch):
    """Gradients are summed in another order."""
    monkeypatch.setattr(torch, "compile", lambda plain, dynamic: plain)
    assert_close(trained_with_loops(False), trained(fast=False), rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_compiled_loops_learn_the_same():
    torch.compiler.reset()
    assert_close(trained_with_loops(True), trained(fast=False), rtol=1e-3, atol=1e-5)


@pytest.mark.long
@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("rate", [None, 0.0])
def test_a_compiled_optimizer_steps_the_same(rate):
    torch.compiler.reset()
    plain, quick = (build() for _ in range(2))
    for agent in (plain, quick):
        optimizer = DecoupledAdam(agent.parameters(), OptimizerConfig(clip=1.0))
        if agent is quick:
            optimizer._in_one_pass = torch.compile(optimizer._in_many, dynamic=False)
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            for p in optimizer.params:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step(rate)
    for ours, theirs in zip(quick.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_only_training_calls_compiled_code(monkeypatch):
    calls = []

    def compile(plain, dynamic):
        assert dynamic is False
        return lambda *inputs: calls.append(plain.__self__) or plain(*inputs)

    monkeypatch.setattr(torch, "compile", compile)
    agent = build()
    names = set(agent.state_dict())
    compile_parts(agent)
    assert set(agent.state_dict()) == names
    model = agent.world_model
    with torch.no_grad():
        model.observe(batch().image, batch().action)
    assert not calls
    agent.update(batch(), agent.noise(BATCH, LENGTH, torch.Generator()))
    assert set(calls) == {model.encoder, model.decoder}


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler and none is installed: install"):
        compile_parts(build())


def test_a_fast_run_ends_as_a_plain_one_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr("apv_edu.rounds.compile_parts", lambda *_: None)
    video = video_model(tmp_path / "model.safetensors")
    plain, fast = (replace(quick("apv"), fast=value) for value in (False, True))
    one = run(tmp_path / "plain", plain, video_model=video)
    run(tmp_path / "fast", replace(fast, steps=20), video_model=video)
    other = run(tmp_path / "fast", fast, video_model=video)
    assert_close(one.training_state(), other.training_state(), rtol=0, atol=0)
    with pytest.raises(InputError, match="fast"):
        run(tmp_path / "fast", plain, video_model=video)
    run(tmp_path / "whole", fast, video_model=video)
    assert_same_run(tmp_path / "whole", tmp_path / "fast")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> VideoDataset:
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for index in range(4):
        video = rng.integers(0, 256, (12, 32, 32, 3), np.uint8)
        np.savez(folder / f"noise-{index}-12.npz", image=video)
    return pack_videos(
        folder, folder / "data", image_size=32, min_length=10, validation_fraction=0.5,
        progress=False,
    )  # fmt: skip


def pretrained(dataset: VideoDataset, out: Path, fast: bool, device: str = "cpu") -> dict:
    """The weights and moments at the end, by way of a stop in the middle."""
    sizes = {"model": SIZE, "horizon": 2, "validation_videos": 2, "fast": fast}
    for steps in (6, 12):
        config = pretrain_config("smoke", **sizes, steps=steps)
        pretrain(dataset, config, out, device=device, threads=1, progress=False)
    return checkpoint.load(out / "checkpoint.safetensors")[0]


def test_fast_pretraining_on_a_cpu_is_the_plain_one(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("apv_edu.pretrain_step.compile_parts", lambda *_: None)
    one, other = (pretrained(dataset, tmp_path / str(fast), fast) for fast in (False, True))
    assert_close(one, other, rtol=0, atol=0)


@pytest.mark.long
def test_compiled_pretraining_computes_the_same(dataset, tmp_path):
    one, other = (pretrained(dataset, tmp_path / str(fast), fast) for fast in (False, True))
    assert_close(one, other, rtol=1e-3, atol=1e-5)


class Questions(TorchDispatchMode):
    """Counts operations for which the host would wait for a GPU, or that a recording refuses."""

    asking = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "equal", "unique")

    def __init__(self):
        super().__init__()
        self.asked = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in self.asking):
            self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The optimiser's steps as a GPU does them."""
    monkeypatch.setattr(DecoupledAdam, "_in_one_pass", DecoupledAdam._in_many)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("actor_gradient", ["dynamics", "reinforce", "both"])
@pytest.mark.parametrize("variant", ["apv", "dreamer", "frozen"])
def test_learning_asks_the_host_nothing(variant, actor_gradient):
    agent = build(variant)
    behavior = replace(agent.config.behavior, actor_gradient=actor_gradient, mix=0.1)
    agent.config = replace(agent.config, behavior=behavior)
    generator = torch.Generator().manual_seed(0)
    with Questions() as questions:
        agent.learn(batch(), agent.noise(BATCH, LENGTH, generator))
    # The bonus looks whether its queue is long enough; not so during a recording.
    allowed = [] if agent.bonus is None else ["aten._local_scalar_dense.default"]
    assert questions.asked == allowed


@pytest.mark.usefixtures("as_on_a_gpu")
def test_pretraining_asks_the_host_nothing():
    model = ActionFreeVideoModel(SIZE)
    state = TrainingState(model, DecoupledAdam(model.parameters(), OptimizerConfig()))
    with Questions() as questions:
        noise = model.noise(BATCH, LENGTH, torch.Generator().manual_seed(0))
        train_step(state, batch().image, pretrain_config("smoke"), noise, "bf16")
    assert not questions.asked


def test_questions_are_heard():
    with Questions() as questions:
        torch.ones(2).sum().item()
        torch.tensor(1.0)
    assert len(questions.asked) == 2


class FakeGraph:
    """A CUDA graph whose replay is a call of what the test says."""

    replays = 0

    def register_generator_state(self, generator):
        self.generator = generator

    def replay(self):
        self.replays += 1


def test_recording_by_hand(monkeypatch):
    """Warm-up, one recording, replays from fixed buffers, and a new recording for a new variant."""
    graphs, recording, seeds, seen = [], [], [], []

    def new_graph():
        graphs.append(FakeGraph())
        return graphs[-1]

    @contextmanager
    def record(graph, stream):
        assert stream is not None
        recording.append(graph)
        yield
        recording.pop()

    stream = SimpleNamespace(wait_stream=lambda other: None)
    cuda = SimpleNamespace(
        CUDAGraph=new_graph,
        graph=record,
        Stream=lambda device: stream,
        stream=lambda stream: nullcontext(),
        current_stream=lambda: stream,
    )
    monkeypatch.setattr(fast.torch, "cuda", cuda)
    generator = SimpleNamespace(device=torch.device("cuda"), manual_seed=seeds.append)

    def step(x):
        seen.append((x, bool(recording)))
        return {"sum": x.sum()}

    graphed = GraphedStep(step, generator)  # pyright: ignore
    for i in range(WARMUP + 3):
        graphed(torch.full((2,), float(i)), seed=10 + i)
    assert [recorded for _, recorded in seen] == [False] * WARMUP + [True]
    assert seeds == list(range(10, 16))
    fixed = seen[-1][0]
    assert fixed.tolist() == [WARMUP + 2] * 2  # the buffers hold the last call's inputs
    assert len(graphs) == 1 and graphs[0].replays == 3 and graphs[0].generator is generator
    graphed(torch.zeros(2), seed=0, variant="other")
    assert seen[-1][1] is False and len(graphs) == 1
    for i in range(WARMUP):
        graphed(torch.zeros(2), seed=i, variant="other")
    assert len(graphs) == 2 and graphs[1].replays == 1 and graphs[0].replays == 3


def test_bf16_rounds_products_and_nothing_else():
    """Heads, bonus and losses come in full precision, near those of a plain update."""
    metrics = {}
    for precision in ("fp32", "bf16"):
        agent = build()
        noise = agent.noise(BATCH, LENGTH, torch.Generator().manual_seed(0))
        metrics[precision] = agent.update(batch(), noise, precision)
        assert {p.dtype for p in agent.parameters()} == {torch.float32}
    assert all(value.dtype.itemsize >= 4 for value in metrics["bf16"].values())
    for name, exact in metrics["fp32"].items():
        torch.testing.assert_close(metrics["bf16"][name], exact, rtol=0.1, atol=0.02)
    assert any(metrics["bf16"][name] != exact for name, exact in metrics["fp32"].items())


def test_moments_go_where_the_weights_go():
    agent = build().double()
    for optimizer in agent.optimizers.values():
        assert {m.dtype for m in (*optimizer.m, *optimizer.v)} == {torch.float64}
        assert optimizer.steps.dtype == torch.float64
    agent.to("meta")
    assert all(m.is_meta for optimizer in agent.optimizers.values() for m in optimizer.m)
    assert isinstance(agent, nn.Module)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "compiled", "rtol"),
    [("fp32", False, 1e-4), ("bf16", False, 2e-2), ("fp32", True, 1e-3), ("bf16", True, 5e-2)],
)
def test_the_graph_step_is_the_eager_step(precision, compiled, rtol):
    """Both draw on the GPU, from the same seeds; one graph holds the whole update."""
    states = []
    for graphed in (False, True):
        agent = build().cuda()
        if graphed and compiled:
            torch.compiler.reset()
            compile_parts(agent, agent.optimizers.values())
        generator = torch.Generator("cuda")

        def learn(*tensors, agent=agent, generator=generator):
            noise = agent.noise(BATCH, LENGTH, generator)
            return agent.learn(Batch(*tensors), noise, precision)

        step = GraphedStep(learn, generator)
        for i in range(3 * WARMUP + 4):  # held for 4 updates, so the graph is recorded twice
            inputs = batch(i, "cuda")
            if graphed:
                recorded = step._graph is not None and step._variant == agent.held
                torch.cuda.set_sync_debug_mode("error" if recorded else "default")
                try:
                    step(*inputs, seed=i, variant=agent.held)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            else:
                generator.manual_seed(i)
                learn(*inputs)
            agent.count_update()
        states.append({k: v.cpu() for k, v in agent.training_state().items()})
    assert_close(*states, rtol=rtol, atol=rtol)


@pytest.mark.gpu
def test_a_whole_fast_run_on_a_gpu(tmp_path):
    video = video_model(tmp_path / "model.safetensors")
    config = replace(quick("apv"), fast=True, update_every=1)
    agent = run(tmp_path / "run", config, video_model=video, device="cuda")
    assert agent.updates > 2 * WARMUP
    assert all(bool(p.isfinite().all()) for p in agent.parameters())


@pytest.mark.gpu
def test_fast_pretraining_on_a_gpu_learns_what_plain_pretraining_learns(dataset, tmp_path):
    """Other noise (drawn there), the same course: weights stay near each other."""
    one, other = (pretrained(dataset, tmp_path / str(f), f, "cuda") for f in (False, True))
    assert one["optimizer.steps"] == other["optimizer.steps"] == 12
    assert_close(
        {k: v for k, v in one.items() if k.startswith("model.")},
        {k: v for k, v in other.items() if k.startswith("model.")},
        rtol=0,
        atol=2 * 12 * OptimizerConfig().learning_rate,
    )
