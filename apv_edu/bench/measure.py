"""How the benches measure: by turns, in medians, on one thread, and on which machine."""

import logging
import multiprocessing
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch._inductor.utils import fresh_cache

from apv_edu.config import PRETRAIN, ModelSize
from apv_edu.errors import InputError
from apv_edu.fast import compile_parts

log = logging.getLogger("apv_edu.bench")
"""Says which part a long bench has come to."""
SIZES = {
    "smoke": PRETRAIN["smoke"].model,
    "small": ModelSize(),
    "colab": PRETRAIN["colab"].model,
    "paper": PRETRAIN["paper"].model,
}
ROUNDS = {"smoke": 15, "small": 15, "colab": 7, "paper": 5}
"""Turns of a pre-training step, by the model's size."""
GEMM = 2048
MIB, GIB = 2**20, 2**30

Tasks = Mapping[str, Callable[[], object]]
Seconds = dict[str, tuple[float, float]]
"""Wall and process CPU seconds of each task."""


def interleaved(tasks: Tasks, rounds: int) -> Seconds:
    """Median wall and process CPU seconds of each task, taken in turns after one warm-up each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    for turn in range(rounds + 1):
        for name, task in tasks.items():
            wall, cpu = time.perf_counter(), time.process_time()
            task()
            if turn > 0:
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (median(wall for wall, _ in pairs), median(cpu for _, cpu in pairs))
        for name, pairs in times.items()
    }


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads, and as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def against_peak(tasks: Tasks, rounds: int, work: int) -> dict[str, dict[str, float]]:
    """Times of ``tasks``, each of ``work`` floating-point operations, on one thread.

    Between them 2048x2048x2048 products are timed, whose median rate is the machine's peak. Rates
    are of CPU seconds, in which a busy neighbour does not count.
    """
    left, right = torch.randn(2, GEMM, GEMM)
    with threads(1):
        seconds = interleaved({"sgemm": lambda: left @ right, **tasks}, rounds)
    peak = 2 * GEMM**3 / seconds.pop("sgemm")[1] / 1e9
    return {
        name: {
            "wall_s": wall,
            "cpu_s": cpu,
            "gflops": work / cpu / 1e9,
            "sgemm_gflops": peak,
            "share_of_peak": work / cpu / 1e9 / peak,
        }
        for name, (wall, cpu) in seconds.items()
    }


def compiled(model: nn.Module, step: Callable[[], object]) -> float | None:
    """Compile the parts of ``model`` that ``step`` runs: the seconds until its second run is over.

    None, and a note, where that is impossible. What was compiled before is forgotten.
    """
    torch.compiler.reset()  # after a few models torch would give up and run them uncompiled
    log.info("compiling ...")
    start = time.perf_counter()
    try:
        compile_parts(model)
    except InputError as error:
        log.info(error)
        return None
    with threads(1), fresh_cache():  # the compiler keeps what it made on the disk
        for _ in range(2):  # the second run may compile again, for other kinds of input
            step()
    return time.perf_counter() - start


def apart(task: Callable[..., dict], *arguments: Any) -> dict:
    """``task(*arguments)`` in a process of its own, which holds nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(task, arguments)


def peak_bytes() -> int:
    """The most memory that this process has ever held."""
    with suppress(OSError):
        # A child inherits the parent's ru_maxrss on Linux, but not this figure.
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def private_bytes() -> int:
    """Memory that this process holds now, without the pages of mapped files.

    Where the system does not tell, the most that it has ever held.
    """
    with suppress(OSError):
        return _status("RssAnon")
    return peak_bytes()


def _status(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{key}:")[1].split()[0])


def machine() -> dict[str, str | int]:
    """What the figures depend on: the processor and the versions of what computes."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError, IndexError):
        cpu = re.findall("model name\\s*: (.+)", Path("/proc/cpuinfo").read_text())[0]
    return {
        "cpu": cpu,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("apv_edu", "torch", "numpy", "mujoco")},
    }
