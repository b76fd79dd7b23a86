"""Several processes that train one model together, as ``torchrun`` starts them.

Each process takes its share of every batch; ``DistributedDataParallel`` averages the gradients.
A process that was not started by ``torchrun`` is a company of one and talks to nobody.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from apv_edu.device import choose_device
from apv_edu.errors import InputError

PATIENCE = timedelta(days=1)
"""How long the others wait while the first packs or validates; torchrun sees to a dead one."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Processes:
    """The processes that train together, seen from one of them."""

    rank: int = 0
    """The number of this one."""
    size: int = 1
    """How many there are."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)
    """Where this one computes."""

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and talks to the reader."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """The rows of a batch of ``batch`` rows that are this process's: as many as any other's.

        Raises:
            InputError: when the batch cannot be shared equally.
        """
        if batch % self.size:
            raise InputError(
                f"batch_size={batch} cannot be shared equally by {self.size} processes: "
                f"give a multiple of {self.size}, or start another number of processes."
            )
        rows = batch // self.size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def parallel(self, module: nn.Module) -> nn.Module:
        """``module`` such that a backward pass leaves the mean gradient in every process.

        The first process's weights are copied to all.
        """
        if self.size == 1:
            return module
        return DistributedDataParallel(module)

    def mean(self, scalars: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean of each scalar over the processes; not finite when it is not so in one."""
        if self.size == 1:
            return scalars
        means = torch.stack(list(scalars.values()))
        dist.all_reduce(means)
        return dict(zip(scalars, means / self.size, strict=True))

    def broadcast(self, tensors: dict[str, Tensor]) -> None:
        """Overwrite ``tensors`` in every process with those of the first."""
        if self.size > 1:
            for tensor in tensors.values():
                dist.broadcast(tensor, src=0)

    @contextmanager
    def agree(self) -> Iterator[None]:
        """Around what may fail in one process alone; the end waits until all have got there.

        Raises:
            InputError: in every process, when the block raised one in any.
        """
        error = None
        try:
            yield
        except InputError as mine:
            error = mine
        if self.size > 1:
            sentences: list[str | None] = [None] * self.size
            dist.all_gather_object(sentences, error and str(error))
            if error is None and any(sentences):
                error = InputError(next(filter(None, sentences)))
        if error is not None:
            raise error

    def first_does(self, work: Callable[[], None]) -> None:
        """``work``, done by the first process while the others wait.

        Raises:
            InputError: in every process, when it was raised in the first.
        """
        with self.agree():
            if self.first:
                work()

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """What ``work`` returns, done by the first process, and only then by the others.

        Raises:
            InputError: in every process, when it was raised in any.
        """
        results = []
        for mine in (self.first, not self.first):
            with self.agree():
                if mine:
                    results.append(work())
        return results[0]


ALONE = Processes()


@contextmanager
def together(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started beside this one, and leave them at the end.

    They are recognised by RANK, WORLD_SIZE and LOCAL_RANK in the environment. Within another
    ``together`` it is the same company. They talk by NCCL between GPUs and by gloo otherwise.

    Args:
        device: as ``choose_device`` takes it; on GPUs each process has that of its LOCAL_RANK.

    Raises:
        InputError: in every process, when one has no such device.
    """
    rank, size, local = (int(os.environ.get(k, -1)) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if min(rank, local) < 0 or size <= 1:
        yield Processes(device=choose_device(device))
        return
    joining = not dist.is_initialized()
    if joining:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        processes = Processes(rank, size)
        with processes.agree():
            place = choose_device(device)
            if place.type == "cuda":
                place = choose_device(f"cuda:{local}")
                torch.cuda.set_device(place)
            processes = replace(processes, device=place)
        yield processes
    finally:
        if joining:
            dist.destroy_process_group()
