"""Frames a second in ``exact`` and ``fast`` rendering, and how far apart the two pictures are."""

from statistics import median
from time import perf_counter
from typing import Any, get_args

import numpy as np
from jaxtyping import Int

from apv_edu.envs import make_env
from apv_edu.envs.rendering import Quality, Renderer

WORLDS = ("metaworld:lever-pull", "dmc:quadruped-walk")
QUALITIES: tuple[Quality, ...] = get_args(Quality)
_FRAMES = {"exact": 3, "fast": 24}
"""Frames of one measurement, so that each takes about as long."""
SAMPLES = 4
"""How many samples a pixel of the outlines' pictures has in each direction."""


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
        difference of two pictures of the same state in grey levels of 255, what ``outline_change``
        says of that state, and what drew them.

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
    pixels, shift = outline_change(*outlines(envs["fast"], image_size))
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
        "outline_pixels": pixels,
        "outline_shift_px": shift,
        "driver": driver,
    }


def outlines(env: Any, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which thing is seen where in a world's present state: in ``exact``, and as ``fast`` draws it.

    Args:
        env: a world drawn by OpenGL.
        image_size: height and width in pixels of the frames that ``fast`` is to draw.

    Returns:
        Two pictures of numbers (see ``Renderer.segment``) with ``SAMPLES`` samples to a pixel in
        each direction, so that an outline shows more finely than in a frame.
    """
    world = env.unwrapped._world
    data = world.physics.data.ptr if hasattr(world, "physics") else world.data
    frames = env.unwrapped._renderer
    view = (frames.model, SAMPLES * image_size, frames.camera)
    pictures = []
    for quality in QUALITIES:
        renderer = Renderer(*view, quality, detail=image_size)
        pictures.append(renderer.segment(data))
        renderer.close()
    return pictures[0], pictures[1]


def outline_change(
    some: Int[np.ndarray, "side side"], others: Int[np.ndarray, "side side"]
) -> tuple[int, float]:
    """How much the outlines of things differ between two pictures of numbers (see ``outlines``).

    Returns:
        How many pixels are filled by a thing, by more than half, in one picture alone, and how far,
        in pixels, the farthest of its samples there is from the same thing in the other picture:
        infinite where that is gone. Seams and pinholes finer than half a pixel do not count.
    """
    numbers = np.union1d(some, others)
    filled = [_filling(picture, numbers) for picture in (some, others)]
    lost = [filled[0] & ~filled[1], filled[1] & ~filled[0]]
    shift = 0.0
    for here, there, gone in ((some, others, lost[0]), (others, some, lost[1])):
        for number, pixels in zip(numbers, gone, strict=True):
            fine = np.kron(pixels, np.ones((SAMPLES, SAMPLES), bool))
            places = np.argwhere(there == number)
            for sample in np.argwhere(fine & (here == number)):
                gap = np.hypot(*(places - sample).T).min(initial=np.inf)
                shift = max(shift, float(gap) / SAMPLES)
    return int((lost[0] | lost[1]).any(0).sum()), shift


def _filling(picture: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """For each number the pixels of which more than half of the samples have it."""
    pixels = picture.reshape(len(picture) // SAMPLES, SAMPLES, -1, SAMPLES)
    return np.stack([(pixels == number).mean((1, 3)) > 0.5 for number in numbers])
