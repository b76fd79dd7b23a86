"""The tabletop: a gripper seen from above reaches a goal or pushes a puck to it.

A small world for quick experiments and first pages, drawn in NumPy at thousands of frames a second
on one core. Lengths are in world units: the table is the square from -1 to 1.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from gymnasium.utils import seeding
from jaxtyping import Float, UInt8

from apv_edu.envs.tabletop_drawing import (
    LOOKS,
    RADIUS,
    draw_gripper,
    draw_object,
    draw_table,
    random_palette,
    to_bytes,
)
from apv_edu.errors import InputError

TASKS = ("reach", "push")
SPEED = 0.2
"""Way of the gripper in one step at action 1."""
TOLERANCE = 0.2
"""How near the goal counts as on it, by default; 0.35 makes the easy variant."""
HOLD = 8
"""Steps on the goal in a row that make a success: passing over it is not enough."""
SUBSTEPS = 4
"""Contact is solved this often in a step, so that the gripper never jumps over the puck."""

Point = Float[np.ndarray, " 2"]


class Tabletop(gymnasium.Env):
    """The world of one task.

    Actions are the gripper's velocity (2,) in [-1, 1], ``SPEED`` a step; observations
    ``{"image": (S, S, 3) uint8}``. Reward at each step: .7 for nearness to the goal (with push, .2
    of it for the gripper's nearness to the puck) and .3 while on the goal. ``info["success"]``
    once the goal has been held for the last ``HOLD`` steps.

    Args:
        task: ``reach`` or ``push``.
        image_size: height and width of a frame in pixels.
        look: a name of ``LOOKS``, or ``random`` for new colours in each episode.
        distractors: shapes painted on the table, new ones in each episode.
        tolerance: how near the goal counts as on it; the picture stays the same.
        time_limit: steps of an episode.
        seed: of all randomness, until ``reset`` is given another.

    Raises:
        InputError: for an unknown task or look, or sizes that make no sense.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self,
        task: str = "reach",
        *,
        image_size: int = 64,
        look: str = "paper",
        distractors: int = 0,
        tolerance: float = TOLERANCE,
        time_limit: int = 50,
        seed: int | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        if task not in TASKS:
            raise InputError(f"Unknown tabletop task {task!r}: choose {' or '.join(TASKS)}.")
        if look not in (*LOOKS, "random"):
            raise InputError(f"Unknown look {look!r}: choose one of {', '.join(LOOKS)}, random.")
        lowest = {"image_size": (image_size, 8), "distractors": (distractors, 0)}
        for key, (value, low) in (lowest | {"time_limit": (time_limit, 1)}).items():
            if value < low:
                raise InputError(f"{key}={value} is too small: give {low} or more.")
        self.task, self.look, self.image_size = task, look, image_size
        self.distractors, self.time_limit = distractors, time_limit
        if not 0 < tolerance < 2:
            raise InputError(f"tolerance={tolerance} is not possible: give 0 to 2 world units.")
        self.tolerance, self.render_mode = tolerance, render_mode
        image = Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.observation_space = Dict(image=image)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        if seed is not None:
            self._np_random, self._np_random_seed = seeding.np_random(seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Start an episode; everything random in it comes from ``np_random``."""
        super().reset(seed=seed)
        rng = self.np_random
        self.palette = random_palette(rng) if self.look == "random" else LOOKS[self.look]
        self.goal = rng.uniform(-0.7, 0.7, 2)
        self.puck = _away(rng, 0.5, self.goal, 0.5)
        self.gripper = _away(rng, 0.8, self.puck if self.task == "push" else self.goal, 0.6)
        self._painted = _distractors(rng, self.distractors)
        self._pace = rng.uniform(0.5, 1.0)
        self._steps = self._held = 0
        self._tables: dict[int, np.ndarray] = {}
        return self.observe(), self._info()

    def simulate(self, action: Float[np.ndarray, " 2"]) -> tuple[float, bool, bool, dict[str, Any]]:
        """Move the gripper without drawing: reward, terminated, truncated, info.

        Raises:
            InputError: for an action that is not two finite numbers.
        """
        velocity = np.asarray(action, np.float64)
        if velocity.shape != (2,) or not np.isfinite(velocity).all():
            raise InputError(f"Action {action!r} is not two finite numbers: give (2,) in [-1, 1].")
        by = SPEED / SUBSTEPS * np.minimum(np.maximum(velocity, -1), 1)
        for _ in range(SUBSTEPS):
            self._move(by)
        self._held = self._held + 1 if self.distance < self.tolerance else 0
        self._steps += 1
        return self._reward(), False, self._steps >= self.time_limit, self._info()

    def step(
        self, action: Float[np.ndarray, " 2"]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Move the gripper and draw; the time limit truncates, nothing terminates."""
        reward, terminated, truncated, info = self.simulate(action)
        return self.observe(), reward, terminated, truncated, info

    def observe(self) -> dict[str, UInt8[np.ndarray, "size size 3"]]:
        """The present observation."""
        return {"image": self.draw(self.image_size)}

    def render(self) -> UInt8[np.ndarray, "size size 3"]:
        """The current frame."""
        return self.draw(self.image_size)

    def draw(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The current moment at any size, for a figure."""
        if size not in self._tables:
            self._tables[size] = draw_table(self.palette, size, self.goal, self._painted)
        image = self._tables[size].copy()
        if self.task == "push":
            draw_object(image, self.palette, self.puck)
        draw_gripper(image, self.palette, self.gripper)
        return to_bytes(image)

    @property
    def distance(self) -> float:
        """From the goal to what should be there: the gripper (reach) or the puck (push)."""
        return _length((self.puck if self.task == "push" else self.gripper) - self.goal)

    def expert_action(self) -> Float[np.ndarray, " 2"]:
        """The scripted expert: the action to take now, at this episode's own pace."""
        way = self._way_to_push() if self.task == "push" else self.goal - self.gripper
        length = _length(way)
        speed = min(length, self._pace * SPEED) / SPEED
        return (way / max(length, 1e-9) * speed).astype(np.float32)

    def _move(self, by: Point) -> None:
        """Quasi-static contact: the puck gives way along the line of centres, walls hold both."""
        before = self.gripper, self.puck
        self.gripper = _inside(self.gripper + by)
        if self.task != "push":
            return
        between = self.puck - self.gripper
        apart = max(_length(between), 1e-9)
        if apart >= 2 * RADIUS:
            return
        self.puck = _inside(self.gripper + between * (2 * RADIUS / apart))
        between = self.puck - self.gripper
        apart = _length(between)
        if apart < 2 * RADIUS - 1e-9:  # the wall holds the puck, and the puck the gripper
            self.gripper = _inside(self.puck - between * (2 * RADIUS / apart))
            if _length(self.puck - self.gripper) < 2 * RADIUS - 1e-9:  # jammed in a corner
                self.gripper, self.puck = before

    def _reward(self) -> float:
        near = max(0.0, 1 - self.distance / 1.6)
        if self.task == "push":
            touch = max(0.0, 1 - (_length(self.puck - self.gripper) - 2 * RADIUS) / 1.6)
            return 0.5 * near + 0.2 * touch + 0.3 * (self.distance < self.tolerance)
        return 0.7 * near + 0.3 * (self.distance < self.tolerance)

    def _info(self) -> dict[str, Any]:
        return {"success": self._held >= HOLD, "distance": self.distance}

    def _way_to_push(self) -> Point:
        """Go round to behind the puck, then push it straight, mending sideways slips."""
        to_goal = self.goal - self.puck
        left = _length(to_goal)
        if left < 0.04:
            return np.zeros(2)
        ahead = to_goal / left
        side = np.array([-ahead[1], ahead[0]])
        from_puck = self.gripper - self.puck
        along, across = float(from_puck @ ahead), float(from_puck @ side)
        if along < 0 and abs(across) < 0.1:
            return ahead * (left - along - 2 * RADIUS) - side * across * 2
        radius = 2 * RADIUS + 0.06
        angle = np.arctan2(across, along)  # 0 is on the goal's side of the puck, pi behind it
        turn = 0.45 if angle >= 0 else -0.45
        angle = np.pi if np.pi - abs(angle) < 0.45 else angle + turn
        return radius * (np.cos(angle) * ahead + np.sin(angle) * side) - from_puck


def _length(vector: Point) -> float:
    return float(np.hypot(vector[0], vector[1]))


def _inside(point: Point) -> Point:
    return np.minimum(np.maximum(point, RADIUS - 1), 1 - RADIUS)


def _away(rng: np.random.Generator, span: float, other: Point, least: float) -> Point:
    """A point of the square from -span to span, at least so far from another."""
    while True:
        point = rng.uniform(-span, span, 2)
        if _length(point - other) >= least:
            return point


def _distractors(rng: np.random.Generator, count: int) -> Float[np.ndarray, "count 7"]:
    """Rows of x, y, radius, sides, red, green, blue."""
    place, radius = rng.uniform(-0.9, 0.9, (count, 2)), rng.uniform(0.08, 0.16, (count, 1))
    sides = rng.choice([0, 3, 4, 6], (count, 1))
    return np.concatenate([place, radius, sides, rng.uniform(30, 230, (count, 3))], axis=1)
