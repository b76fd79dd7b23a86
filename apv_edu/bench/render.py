"""Frames a second in ``exact`` and ``fast`` rendering, and how far apart the two pictures are."""

from statistics import median
from time import perf_counter
from typing import Any, get_args

import numpy as np

from apv_edu.envs import make_env
from apv_edu.envs.rendering import Quality

WORLDS = ("metaworld:lever-pull", "dmc:quadruped-walk")
QUALITIES: tuple[Quality, ...] = get_args(Quality)
_FRAMES = {"exact": 3, "fast": 24}
"""Frames of one measurement, so that each takes about as long."""


def bench_render(
    *, repeats: int = 15, worlds: tuple[str, ...] = WORLDS, image_size: int = 64
) -> list[dict]:
    """Measure drawing alone, without simulation, in both qualities by turns.

    Args:
        repeats: rounds of one ``exact`` and one ``fast`` measurement; the medians are reported.
        worlds: names of worlds drawn by OpenGL.
        image_size: height and width of a frame in pixels.

    Returns:
        One row a world: frames per second (wall time) of both, their ratio, the mean absolute
        difference of two pictures of the same state in grey levels of 255, and what drew them.

    Raises:
        InputError: for an unknown world, or without OpenGL.
    """
    return [_bench(name, repeats, image_size) for name in worlds]


def _bench(name: str, repeats: int, image_size: int) -> dict:
    envs: dict[str, Any] = {}
    pictures = {}
    seconds: dict[str, list[float]] = {quality: [] for quality in QUALITIES}
    for quality in QUALITIES:
        env: Any = make_env(name, image_size=image_size, rendering=quality, seed=0)
        env.reset()
        for _ in range(10):
            observation, *_ = env.step(env.action_space.sample())
            pictures[quality] = observation["image"].astype(float)
        envs[quality] = env
    for _ in range(repeats):
        for quality, env in envs.items():
            start = perf_counter()
            for _ in range(_FRAMES[quality]):
                env.render()
            seconds[quality].append((perf_counter() - start) / _FRAMES[quality])
    driver = envs["fast"].unwrapped._renderer.driver()
    for env in envs.values():
        env.close()
    exact, fast = (1 / median(seconds[quality]) for quality in ("exact", "fast"))
    return {
        "world": name,
        "exact_fps": exact,
        "fast_fps": fast,
        "ratio": fast / exact,
        "difference": float(np.abs(pictures["exact"] - pictures["fast"]).mean()),
        "driver": driver,
    }
