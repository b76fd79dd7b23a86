"""Kernels that a GPU runs in one update, and the time they keep it busy."""

from collections.abc import Iterable
from typing import Any

from torch.profiler import ProfilerActivity, profile

from apv_edu.bench.gpu import SHAPES, named, waiting, ways_of, where
from apv_edu.bench.measure import log


def bench_kernels(
    sizes: tuple[str, ...] = ("paper",),
    *,
    shapes: tuple[tuple[str, int, int], ...] = SHAPES,
    device: str = "cuda",
) -> list[dict]:
    """One row a size, shape and way of an update: its kernels, and milliseconds of kernels.

    A kernel cannot be shorter than some microseconds, and most of an update's wait for the one
    before. So their number tells what is left to gain where the clock only tells how long it took.

    Raises:
        InputError: where there is no such device.
    """
    place = where(device, "kernels")
    rows = []
    for size in sizes:
        for kind, batch, length in shapes:
            log.info(f"kernels: {kind}, {size} model, {batch}x{length} frames")
            for way, update in ways_of(kind, size, batch, length, place)[0].items():
                task = waiting(update, place)
                task()
                with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
                    task()
                row = {"size": size, "update": kind, "batch": f"{batch}x{length}", "way": way}
                rows.append(row | named(place) | counted(profiler.events() or ()))
    return rows


def counted(events: Iterable[Any]) -> dict[str, float]:
    """Number and joint milliseconds of those of a profiler's events that ran on a GPU."""
    times = [event.device_time for event in events if event.device_type.name == "CUDA"]
    return {"kernels": len(times), "busy_ms": sum(times) / 1e3}
