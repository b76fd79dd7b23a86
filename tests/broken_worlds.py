"""A world that breaks down, for the tests of what happens then."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import gymnasium

from apv_edu.envs import make_env


class Breaking(gymnasium.Wrapper):
    """The tabletop, until it breaks down in its ``episode``-th episode.

    With a file ``once`` that happens a single time, in one of all its worlds. With ``how="kill"``
    the process dies by SIGKILL, unless it is the main one.
    """

    def __init__(self, how: str, episode: int, once: Path | None = None):
        super().__init__(make_env("tabletop:reach", image_size=32, time_limit=10))
        self.how, self.episode, self.once = how, episode, once
        self.resets = self.steps = 0

    def reset(self, **options: Any) -> Any:
        self.resets, self.steps = self.resets + 1, 0
        if self.how == "reset":
            self.break_down()
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.how != "reset" and self.steps == 4:
            self.break_down()
        return self.env.step(action)

    def break_down(self) -> None:
        kill = self.how == "kill"
        if self.resets < self.episode or (kill and multiprocessing.parent_process() is None):
            return
        if self.once is not None:
            try:
                self.once.touch(exist_ok=False)
            except FileExistsError:
                return
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("the table\nfell over")
