"""Every task of the DeepMind Control Suite, and a three-legged body, seen through a camera."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from jaxtyping import Float32, UInt8

from apv_edu.envs import tripod
from apv_edu.envs.rendering import Quality, Renderer
from apv_edu.errors import InputError

_NAMES = """acrobot-swingup acrobot-swingup_sparse ball_in_cup-catch cartpole-balance
    cartpole-balance_sparse cartpole-swingup cartpole-swingup_sparse cartpole-two_poles
    cartpole-three_poles cheetah-run dog-stand dog-walk dog-trot dog-run dog-fetch finger-spin
    finger-turn_easy finger-turn_hard fish-upright fish-swim hopper-stand hopper-hop humanoid-stand
    humanoid-walk humanoid-run humanoid-run_pure_state humanoid_CMU-stand humanoid_CMU-walk
    humanoid_CMU-run lqr-lqr_2_1 lqr-lqr_6_2 manipulator-bring_ball manipulator-bring_peg
    manipulator-insert_ball manipulator-insert_peg pendulum-swingup point_mass-easy point_mass-hard
    quadruped-walk quadruped-run quadruped-escape quadruped-fetch reacher-easy reacher-hard
    stacker-stack_2 stacker-stack_4 swimmer-swimmer6 swimmer-swimmer15 walker-stand walker-walk
    walker-run"""
TASKS = (*_NAMES.split(), *tripod.TASKS)
INSTALL = "pip install --no-deps dm_control==1.0.28"
"""Without labmaze, which it asks for and the suite never uses: it fails to install on Python 3.13.
All else that it needs comes with this package."""
_MODEL_SEED = 0
"""Of the few worlds with random parts (the springs of lqr): a task is the same world every time."""


def _restore_in1d() -> None:
    """Give NumPy 2.4 and later the function ``in1d`` back, which dm_control 1.0.28 still calls."""
    if not hasattr(np, "in1d"):
        np.in1d = lambda values, among: np.isin(values, among).ravel()  # noqa: NPY201


class DMC(gymnasium.Env):
    """One task of the suite, ``domain-task``, or of the tripod: the observation is a frame.

    Actions are scaled from [-1, 1] to the actuators' ranges. An episode terminates only where the
    task itself says so (lqr); ``make_env`` sets the time limit. ``info["success"]`` is always
    False: the suite knows rewards only.

    Args:
        task: a name of ``TASKS``.
        image_size: height and width of a frame in pixels.
        camera: a camera's name or number; by default the official one, 2 for the quadruped, else 0
            (apv_finetuning/common/envs.py, class DMC). The tripod is seen as the quadruped is.
        rendering: ``exact`` or ``fast`` (see ``Renderer``).
        seed: of the initial states, until ``reset`` is given another.

    Raises:
        InputError: for an unknown camera or rendering, or without OpenGL or dm_control.
    """

    def __init__(
        self,
        task: str,
        *,
        image_size: int = 64,
        camera: str | int | None = None,
        rendering: Quality = "fast",
        seed: int | None = None,
    ):
        _restore_in1d()
        try:
            from dm_control import suite
            from dm_control.rl.control import PhysicsError
        except ModuleNotFoundError as error:
            raise InputError(
                f"dmc:{task} needs dm_control, which is not installed: run `{INSTALL}`."
            ) from error

        self._diverged = PhysicsError
        self.task = task
        self.render_mode = "rgb_array"
        domain, name = task.split("-")
        settings = {"random": np.random.RandomState(_MODEL_SEED), "time_limit": np.inf}
        if domain == "tripod":
            self._world: Any = tripod.load(name, settings)
        else:
            self._world = suite.load(domain, name, task_kwargs=settings)
        physics = self._world.physics
        # quadruped-escape would otherwise make dm_control's own OpenGL context at each reset.
        physics._make_rendering_contexts = lambda: None
        bounds = self._world.action_spec()
        # MuJoCo writes "no limit" as 1e10 (lqr): such an action is passed on as it is.
        limited = np.maximum(np.abs(bounds.minimum), np.abs(bounds.maximum)) < 1e10
        self._low = np.where(limited, bounds.minimum, -1.0)
        self._high = np.where(limited, bounds.maximum, 1.0)
        frames_per_second = round(1 / self._world.control_timestep())
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": frames_per_second}
        self.observation_space = gymnasium.spaces.Dict(
            image=gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        )
        self.action_space = gymnasium.spaces.Box(-1, 1, bounds.shape, np.float32)
        if camera is None:
            camera = 2 if domain in ("quadruped", "tripod") else 0
        self._renderer = Renderer(physics.model.ptr, image_size, camera, rendering)
        if seed is not None:
            self._np_random, self._np_random_seed = seeding.np_random(seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode from a state drawn from ``seed`` if given, else from the stream."""
        super().reset(seed=seed, options=options)
        self._world.task.random.seed(self.np_random.integers(2**32, dtype=np.uint32))
        self._world.reset()
        self._renderer.upload_terrain()
        return self.observe(), {"success": False}

    def simulate(
        self, action: Float32[np.ndarray, "actions"]
    ) -> tuple[float, bool, bool, dict[str, Any]]:
        """Advance by one control step without drawing: reward, terminated, truncated, info.

        A simulation that diverges, as MuJoCo's does once in a great while, truncates the episode.
        """
        share = (np.clip(action, -1, 1).astype(np.float64) + 1) / 2
        try:
            step = self._world.step(self._low + share * (self._high - self._low))
        except self._diverged:
            return 0.0, False, True, {"success": False}
        terminated = bool(step.last() and step.discount == 0)
        return float(step.reward), terminated, False, {"success": False}

    def step(
        self, action: Float32[np.ndarray, "actions"]
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Advance by one control step and draw."""
        reward, terminated, truncated, info = self.simulate(action)
        return self.observe(), reward, terminated, truncated, info

    def observe(self) -> dict[str, UInt8[np.ndarray, "size size 3"]]:
        """The present observation."""
        return {"image": self.render()}

    def render(self) -> UInt8[np.ndarray, "size size 3"]:
        """Draw the present frame."""
        return self._renderer.render(self._world.physics.data.ptr)

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()
        self._world.close()
