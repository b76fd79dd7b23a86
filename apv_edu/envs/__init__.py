"""Worlds behind one call: ``make_env("metaworld:lever-pull")``."""

import difflib
import inspect
from typing import Any

import gymnasium

from apv_edu.envs.rendering import Quality, choose_gl
from apv_edu.errors import InputError

SUITES = ("metaworld", "dmc", "tabletop")
TIME_LIMITS = {"metaworld": 500, "dmc": 1000, "tabletop": 50}
"""Simulator steps of an episode."""


def task_names(suite: str) -> list[str]:
    """All names that ``make_env`` knows in ``suite``, such as ``metaworld:lever-pull``.

    Raises:
        InputError: for an unknown suite.
    """
    if suite == "metaworld":
        from apv_edu.envs.metaworld import TASKS as tasks
    elif suite == "dmc":
        from apv_edu.envs.dmc import TASKS as tasks
    elif suite == "tabletop":
        tasks = ("reach", "push")
    else:
        raise InputError(f"Unknown suite {suite!r}: choose one of {', '.join(SUITES)}.")
    return [f"{suite}:{task}" for task in tasks]


def tells_success(name: str) -> bool:
    """Whether the world called ``name`` knows when its task is solved: not the Control Suite's."""
    return not name.startswith("dmc:")


def check_name(name: str) -> tuple[str, str]:
    """Split ``suite:task`` into its parts.

    Raises:
        InputError: for an unknown name; names the nearest ones.
    """
    known = [task for suite in SUITES for task in task_names(suite)]
    if name in known:
        suite, task = name.split(":")
        return suite, task
    bare = {task.split(":")[1]: task for task in known}
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    close = close or [bare[task] for task in difflib.get_close_matches(name, bare, n=3, cutoff=0.4)]
    hint = f"the nearest are {', '.join(close)}" if close else "such as metaworld:reach"
    raise InputError(f"Unknown task {name!r}: use suite:task, {hint}.")


class ActionRepeat(gymnasium.Wrapper):
    """Apply each action ``repeat`` times; rewards add up, success is any success in between."""

    def __init__(self, env: gymnasium.Env, repeat: int):
        super().__init__(env)
        self.repeat = repeat
        self.metadata = {**env.metadata, "render_fps": env.metadata["render_fps"] / repeat}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the world up to ``repeat`` times, and draw only the last frame."""
        world: Any = self.unwrapped
        total, success = 0.0, False
        terminated = truncated = False
        info: dict[str, Any] = {}
        for _ in range(self.repeat):
            reward, terminated, truncated, info = world.simulate(action)
            total, success = total + reward, success or info["success"]
            if terminated or truncated:
                break
        return world.observe(), total, terminated, truncated, {**info, "success": success}


def make_env(
    name: str,
    *,
    image_size: int = 64,
    action_repeat: int = 1,
    time_limit: int | None = None,
    camera: str | int | None = None,
    rendering: Quality = "fast",
    seed: int | None = None,
    **options: Any,
) -> gymnasium.Env:
    """Make the world called ``name``, observed as ``{"image": (size, size, 3) uint8}``.

    Actions are ``(A,)`` float32 in [-1, 1]; the reward is summed over action repeats;
    ``info["success"]`` is a bool at every reset and step. Worlds with a scripted expert (Meta-World
    and the tabletop) have ``env.unwrapped.expert_action()``.

    Args:
        name: one of ``task_names(suite)``.
        image_size: height and width of a frame in pixels.
        action_repeat: simulator steps that each action lasts.
        time_limit: simulator steps of an episode (default ``TIME_LIMITS``), so that an episode has
            ``time_limit / action_repeat`` agent steps, rounded up.
        camera: a camera's name or number; by default that of the paper. The tabletop has one.
        rendering: ``exact`` or ``fast`` (see ``Renderer``); all one to the tabletop.
        seed: of all randomness until ``reset`` is given another.
        **options: what the world's own class takes besides, such as ``orientation`` or ``look``.

    Raises:
        InputError: for an unknown name (names the nearest), a bad setting, or without OpenGL.
    """
    suite, task = check_name(name)
    limit = TIME_LIMITS[suite] if time_limit is None else time_limit
    for setting, value in (
        ("image_size", image_size),
        ("action_repeat", action_repeat),
        ("time_limit", limit),
    ):
        if value < 1:
            raise InputError(f"{setting}={value} is not possible: give a whole number from 1 on.")
    settings: dict[str, Any] = {"image_size": image_size, "seed": seed}
    if suite == "tabletop":  # drawn in NumPy: no OpenGL, one camera
        from apv_edu.envs.tabletop import Tabletop as World

        settings |= {"time_limit": limit}
    else:
        choose_gl()
        settings |= {"camera": camera, "rendering": rendering}
        if suite == "metaworld":
            from apv_edu.envs.metaworld import MetaWorld as World
        else:
            from apv_edu.envs.dmc import DMC as World
    known = [key for key in inspect.signature(World).parameters if key not in ("task", *settings)]
    if unknown := sorted(set(options) - set(known)):
        raise InputError(
            f"{name} has no option {', '.join(unknown)}: it has {', '.join(known) or 'none'}."
        )
    env: gymnasium.Env = World(task, **settings, **options)
    if action_repeat > 1:
        env = ActionRepeat(env, action_repeat)
    env = gymnasium.wrappers.TimeLimit(env, -(-limit // action_repeat))
    if seed is not None:
        env.action_space.seed(seed)
    return env
