"""In the kernel that runs a submission: cells that do not end are stopped."""

import faulthandler
import json
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypedDict


class Event(TypedDict):
    """A line of the log."""

    kind: Literal["start", "end", "stopped"]
    source: str
    """The cell's text."""
    error: str
    """What the cell raised at its end, or nothing."""


class TooLong(Exception):
    """A cell ran out of time."""


def watch(log: str, seconds: float, most: float) -> None:
    """Give each cell ``seconds``, then interrupt it; end the process after ``most``.

    Needs IPython, and signals: it works in the main thread on Linux and macOS.

    Args:
        log: a file that tells which cell began, ended or was stopped (one ``Event`` a line).
        seconds: then ``TooLong`` is raised; in a check again every half second, so that each of
            the question's tests ends.
        most: for code that catches even that.
    """
    import torch
    from IPython.core.getipython import get_ipython

    torch.set_num_threads(1)  # and its slow import is not counted
    shell: Any = get_ipython()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    source, interrupted = "", False

    def note(kind: str, error: str = "") -> None:
        with Path(log).open("a") as file:
            file.write(json.dumps({"kind": kind, "source": source, "error": error}) + "\n")

    def stop(_: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        place = _where(frame)
        # A cell that was interrupted may still be writing its traceback.
        if place == "test" or (place == "cell" and not interrupted):
            interrupted = True
            note("stopped")
            raise TooLong(f"stopped after {seconds:g} seconds: is there a loop that never ends?")

    def before(info: Any) -> None:
        nonlocal source, interrupted
        source, interrupted = info.raw_cell, False
        note("start")
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
        faulthandler.dump_traceback_later(most, exit=True, file=nowhere)

    def after(result: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        error = result.error_in_exec
        note("end", "" if error is None else repr(error))

    def refuse() -> None:
        raise RuntimeError("exit() ends the notebook's process: leave it out")

    shell.ask_exit = refuse
    shell.events.register("pre_run_cell", before)
    shell.events.register("post_run_cell", after)


def _where(frame: FrameType | None) -> Literal["test", "otter", "cell"]:
    """What is running: a test, Otter's bookkeeping between two tests, or else a cell."""
    within = False
    while frame is not None:
        if frame.f_code.co_name == "call_func":
            return "test"
        within |= f"{os.sep}otter{os.sep}" in frame.f_code.co_filename
        frame = frame.f_back
    return "otter" if within else "cell"


def read_log(path: Path) -> list[Event]:
    """The events so far; a line that was cut off by the process's end is left out."""
    events = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events
