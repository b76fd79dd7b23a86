"""The fast path of long runs: compiled parts, and on a GPU a whole update as one CUDA graph.

The plain step is the one to read and the one that counts: tests hold this one against it.
"""

import shutil
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from apv_edu import fast_scan
from apv_edu.behavior import Behavior
from apv_edu.errors import InputError
from apv_edu.nets.rssm import RSSM
from apv_edu.nets.vision import Decoder, Encoder
from apv_edu.optimizer import DecoupledAdam

Step = Callable[..., dict[str, Tensor]]
WARMUP = 3
"""Plain steps before a recording, in which libraries choose their algorithms and compile."""


def compile_parts(
    model: nn.Module, optimizers: Iterable[DecoupledAdam] = (), *, loops: bool | None = None
) -> None:
    """Let ``torch.compile`` write training code, and take the loops of ``apv_edu.fast_scan``.

    In place: the weights keep their names. Only calls that want gradients run other code; acting
    and validation, with their other shapes, would each compile anew. Encoder and decoder are
    compiled everywhere. The first step takes a minute or more.

    Args:
        model: or an agent.
        optimizers: on a GPU their steps are compiled as well.
        loops: whether to compile a step of the loops, too; None is on a GPU only, where a loop of
            small kernels costs more than its arithmetic.

    Raises:
        InputError: without a C++ compiler, which the code for a CPU needs.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    if on_cpu and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        raise InputError(
            "The fast path needs a C++ compiler and none is installed: install g++, or train "
            "without it."
        )
    if not on_cpu:
        for optimizer in optimizers:
            optimizer.compile()
    see, dream = fast_scan.see, fast_scan.dream
    if not on_cpu if loops is None else loops:
        see, dream = _compiled(see), _compiled(dream)
    for part in model.modules():
        if isinstance(part, (Encoder, Decoder)):
            part.forward = _when_learning(_compiled(part.forward), part.forward)
        elif isinstance(part, RSSM):
            quick = partial(fast_scan.observe, part, step=see)
            part.observe = _when_learning(quick, part.observe)
        elif isinstance(part, Behavior):
            quick = partial(fast_scan.imagine, part.actor, step=dream)
            part.imagine = _when_learning(quick, part.imagine)


def _compiled(plain: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(plain, dynamic=False)


def _when_learning(quick: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    def choose(*inputs: Any, **options: Any) -> Any:
        return (quick if torch.is_grad_enabled() else plain)(*inputs, **options)

    return choose


class GraphedStep:
    """A step of thousands of kernels that are recorded once, then replayed by a single launch.

    ``step(*tensors)`` has inputs of fixed shapes, draws its noise from ``generator`` alone, changes
    weights and moments in place, and asks the host nothing. The first calls run plainly, and each
    is a step like any other; on a CPU all do, since there is nothing to record.

    Source: the CUDA graphs of PyTorch's documentation, "Whole-network capture".
    """

    def __init__(self, step: Step, generator: torch.Generator):
        self.step, self.generator = step, generator
        self._forget(None)

    def _forget(self, variant: Hashable) -> None:
        self._variant, self._calls = variant, 0
        self._graph = self._stream = None
        self._inputs: tuple[Tensor, ...] = ()
        self._metrics: dict[str, Tensor] = {}

    def __call__(self, *inputs: Tensor, seed: int, variant: Hashable = None) -> dict[str, Tensor]:
        """One step with the noise of ``seed``; the metrics last until the next call.

        A new ``variant``, whatever the step reads besides tensors, is recorded anew.
        """
        self.generator.manual_seed(seed)
        if self.generator.device.type != "cuda":
            return self.step(*inputs)
        if variant != self._variant:
            self._forget(variant)
        self._calls += 1
        if self._calls <= WARMUP:
            return self._aside(inputs)
        if self._graph is None:
            self._record(inputs)
        assert self._graph is not None
        for fixed, given in zip(self._inputs, inputs, strict=True):
            fixed.copy_(given, non_blocking=True)
        self._graph.replay()
        return self._metrics

    def _aside(self, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """A plain step on the stream of the recording, as autograd wants it."""
        self._stream = self._stream or torch.cuda.Stream(self.generator.device)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            metrics = self.step(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return metrics

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        """Write down the kernels of a step without running them."""
        self._inputs = tuple(tensor.clone() for tensor in inputs)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph, stream=self._stream):
            self._metrics = self.step(*self._inputs)
        self._graph = graph
