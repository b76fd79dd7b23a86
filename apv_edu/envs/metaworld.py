"""The 50 robot-arm tasks of Meta-World v3, seen through a camera, with their scripted experts."""

# MuJoCo's compiled modules come without types:
# pyright: reportAttributeAccessIssue=false

import warnings
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from jaxtyping import Float32, UInt8

from apv_edu.envs.rendering import Quality, Renderer
from apv_edu.errors import InputError

Orientation = Literal["upright", "official"]
_NAMES = """assembly basketball bin-picking box-close button-press button-press-topdown
    button-press-topdown-wall button-press-wall coffee-button coffee-pull coffee-push dial-turn
    disassemble door-close door-lock door-open door-unlock drawer-close drawer-open faucet-close
    faucet-open hammer hand-insert handle-press handle-press-side handle-pull handle-pull-side
    lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place pick-place-wall
    plate-slide plate-slide-back plate-slide-back-side plate-slide-side push push-back push-wall
    reach reach-wall shelf-place soccer stick-pull stick-push sweep sweep-into window-close
    window-open"""
TASKS = tuple(_NAMES.split())


class MetaWorld(gymnasium.Env):
    """One Meta-World v3 task: the observation is a frame, the goal is new in every episode.

    Actions are the hand's motion in x, y and z and the gripper's closing, each in [-1, 1]. An
    episode has no end of its own; ``make_env`` sets the time limit. ``info["success"]`` says
    whether the task is solved at this step; an episode counts as solved if any step is.

    Args:
        task: a name of ``TASKS``.
        image_size: height and width of a frame in pixels.
        camera: a camera of the Meta-World scene.
        rendering: ``exact`` or ``fast`` (see ``Renderer``).
        orientation: ``upright``, or ``official`` as the authors' agents saw it: rows in OpenGL's
            order, the bottom one first, which shows the corner cameras as in a mirror
            (apv_finetuning/common/envs.py, class MetaWorld, rendering with mujoco-py).
        seed: of the goals, until ``reset`` is given another.

    Raises:
        InputError: for an unknown camera, rendering or orientation, or without OpenGL.
    """

    def __init__(
        self,
        task: str,
        *,
        image_size: int = 64,
        camera: str | int | None = None,
        rendering: Quality = "fast",
        orientation: Orientation = "upright",
        seed: int | None = None,
    ):
        if orientation not in get_args(Orientation):
            raise InputError(f"Unknown orientation {orientation!r}: choose upright or official.")
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP

        self.task = task
        self.render_mode = "rgb_array"
        self._world: Any = ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
        self._expert = ENV_POLICY_MAP[f"{task}-v3"]()
        # The state shows the goal, to the expert only.
        self._world._set_task_called = True
        self._world._partially_observable = False
        del self._world.sawyer_observation_space  # cached for a hidden goal
        self._world.seeded_rand_vec = True
        self._world.max_path_length = np.inf
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / self._world.dt)}
        self.observation_space = gymnasium.spaces.Dict(
            image=gymnasium.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        )
        self.action_space = gymnasium.spaces.Box(-1, 1, (4,), np.float32)
        camera = "corner" if camera is None else camera
        turn = orientation == "official" or _upside_down(self._world.model, camera)
        mirror = orientation == "official"
        self._renderer = Renderer(self._world.model, image_size, camera, rendering, turn, mirror)
        if seed is not None:
            self._np_random, self._np_random_seed = seeding.np_random(seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode with a new goal, drawn from ``seed`` if given, else from the stream."""
        import mujoco

        super().reset(seed=seed, options=options)
        self._world.np_random = self.np_random
        # Draw a goal as the task itself does, then reset to it for good: a single pass would leave
        # parts of the scene where the previous goal had them until the first step.
        self._world._freeze_rand_vec = False
        self._world.reset_model()
        self._world._freeze_rand_vec = True
        self._world.reset()
        mujoco.mj_forward(self._world.model, self._world.data)
        now = self._world._get_curr_obs_combined_no_goal()
        self._world._prev_obs = now
        self._state = np.concatenate([now, now, self._world._get_pos_goal()])
        return self.observe(), {"success": False}

    def simulate(
        self, action: Float32[np.ndarray, "4"]
    ) -> tuple[float, bool, bool, dict[str, Any]]:
        """Advance by one control step without drawing: reward, terminated, truncated, info."""
        action = np.clip(action, -1, 1)
        self._state, reward, _, _, info = self._world.step(action)
        return float(reward), False, False, {"success": bool(info["success"])}

    def step(
        self, action: Float32[np.ndarray, "4"]
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Advance by one control step (1/80 s) and draw."""
        reward, terminated, truncated, info = self.simulate(action)
        return self.observe(), reward, terminated, truncated, info

    def observe(self) -> dict[str, UInt8[np.ndarray, "size size 3"]]:
        """The present observation."""
        return {"image": self.render()}

    def render(self) -> UInt8[np.ndarray, "size size 3"]:
        """Draw the present frame."""
        return self._renderer.render(self._world.data)

    def expert_action(self) -> Float32[np.ndarray, "4"]:
        """What the task's scripted policy, which sees state and goal, does now."""
        with warnings.catch_warnings():  # some policies ask for more than 1 by design, and say so
            warnings.simplefilter("ignore")
            action = self._expert.get_action(self._state)
        return np.clip(action, -1, 1).astype(np.float32)

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()
        self._world.close()


def _upside_down(model: Any, camera: str | int) -> bool:
    """Whether a camera that is fixed in the room hangs head down, as the corner cameras do."""
    names = [model.camera(number).name for number in range(model.ncam)]
    if camera not in names and camera not in range(model.ncam):
        return False
    view = model.camera(camera)
    up = np.zeros(3)
    import mujoco

    mujoco.mju_rotVecQuat(up, np.array([0.0, 1.0, 0.0]), view.quat)
    return bool(view.bodyid[0] == 0 and up[2] < -0.1)
