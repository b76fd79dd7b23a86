"""Adam as the official TensorFlow code runs it, which is not quite ``torch.optim.AdamW``."""

# torch's multi-tensor operations, on which its own optimisers stand, bear a private name.
# pyright: reportPrivateImportUsage=false

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from apv_edu.config import OptimizerConfig
from apv_edu.errors import InputError

BETA1, BETA2 = 0.9, 0.999


class DecoupledAdam:
    """Adam after global-norm clipping, with weight decay outside the learning rate.

    One step: (1) gradients are scaled down so that their joint norm is at most ``clip``;
    (2) every parameter is multiplied by 1 - ``weight_decay``, also while the learning rate is 0;
    (3) p -= lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps). In PyTorch's Adam the bias
    correction reaches inside: its eps counts for less at first.

    The step count is a tensor beside the weights, so that on a GPU a step asks nothing of the host
    and a CUDA graph can hold it.

    Source: official file ``common/tfutils.py``, class ``Optimizer``; Keras 2.6 ``Adam``.
    """

    def __init__(self, params: Iterable[nn.Parameter], config: OptimizerConfig):
        self.params: list[Tensor] = list(params)
        self.config = config
        place = self.params[0].device if self.params else None
        self.steps = torch.zeros((), dtype=torch.float64, device=place)
        self.m = [torch.zeros_like(p) for p in self.params]
        self.v = [torch.zeros_like(p) for p in self.params]

    def apply(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the moments as ``nn.Module`` changes weights that go elsewhere."""
        self.m, self.v = [change(m) for m in self.m], [change(v) for v in self.v]
        self.steps = self.steps.to(self.m[0].device)

    def compile(self) -> None:
        """Let ``torch.compile`` write the step of a GPU: a few passes through memory, not ten."""
        self._in_many = torch.compile(self._in_many, dynamic=False)

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float | None = None) -> Tensor:
        """Update every parameter and return the gradient norm before clipping (a scalar).

        Parameters without a gradient count as having a zero gradient. ``learning_rate``
        replaces the configured one for this step.
        """
        lr = self.config.learning_rate if learning_rate is None else learning_rate
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        torch._foreach_mul_(self.params, 1 - self.config.weight_decay)
        self.steps.add_(1)
        one_pass = self.params[0].device.type == "cpu"
        (self._in_one_pass if one_pass else self._in_many)(grads, norm, lr)
        return norm

    def _in_one_pass(self, grads: list[Tensor], norm: Tensor, lr: float) -> None:
        """On a CPU memory is the limit: torch's kernel goes through it once.

        Its eps counts inside the bias correction, so it gets another one at each step. Gradients
        must lie in memory in the order of their weights, as autograd leaves them.
        """
        if norm > self.config.clip:
            grads = list(torch._foreach_mul(grads, self.config.clip / norm))
        steps = [self.steps.to(self.m[0].dtype)] * len(grads)
        torch._fused_adamw_(
            self.params,
            grads,
            self.m,
            self.v,
            [],
            steps,
            lr=lr,
            beta1=BETA1,
            beta2=BETA2,
            weight_decay=0.0,
            eps=self.config.eps / math.sqrt(1 - BETA2 ** float(self.steps)),
            amsgrad=False,
            maximize=False,
        )

    def _in_many(self, grads: list[Tensor], norm: Tensor, lr: float) -> None:
        """On a GPU a question to the host is worse: all that changes is a tensor."""
        clipped = torch._foreach_mul(grads, self.config.clip / norm.clamp_min(self.config.clip))
        torch._foreach_lerp_(self.m, clipped, 1 - BETA1)
        torch._foreach_mul_(self.v, BETA2)
        torch._foreach_addcmul_(self.v, clipped, clipped, 1 - BETA2)
        rate = lr * (1 - BETA2**self.steps).sqrt() / (1 - BETA1**self.steps)
        rate = rate.to(self.v[0].dtype)  # of another type it would take a kernel a parameter
        denominator = torch._foreach_sqrt(self.v)
        torch._foreach_add_(denominator, self.config.eps)
        torch._foreach_div_(denominator, rate)  # infinite, and the step zero, where the rate is 0
        torch._foreach_addcdiv_(self.params, self.m, denominator, -1)

    def state_dict(self) -> dict[str, Tensor]:
        """The step count and both moments as named tensors (shared, not copied)."""
        state = {"steps": self.steps}
        for name, moments in (("m", self.m), ("v", self.v)):
            state |= {f"{name}.{index}": moment for index, moment in enumerate(moments)}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue exactly where ``state_dict`` was taken.

        Raises:
            InputError: if the state belongs to other parameters.
        """
        mine = self.state_dict()
        for name, tensor in mine.items():
            if name not in state or state[name].shape != tensor.shape:
                raise InputError(
                    f"The optimizer state does not fit at {name!r}: load it into an optimizer of "
                    "the same model."
                )
        for name, tensor in mine.items():
            tensor.copy_(state[name])
