"""Collect videos without actions from any environments, in several processes.

An episode depends on ``(seed, environment name, index)`` and the settings alone, so a collection
can be stopped and taken up again, by any number of processes, and comes out the same.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import apv_edu
from apv_edu.data import workers as recorders
from apv_edu.data.recording import Behaviour, Settings, episode_seed, label
from apv_edu.envs import SUITES, check_name, task_names
from apv_edu.envs.rendering import Quality
from apv_edu.errors import InputError
from apv_edu.files import locked, remove_leftovers, write_atomically

DEFAULT_NOISE: dict[Behaviour, float] = {"expert": 0.0, "noisy-expert": 0.3, "smooth-random": 0.0}
MANIFEST = "collect.json"

PAPER_METAWORLD_TASKS = (
    "metaworld:lever-pull",
    "metaworld:drawer-open",
    "metaworld:door-lock",
    "metaworld:button-press-topdown-wall",
    "metaworld:reach",
    "metaworld:dial-turn",
)
"""The tasks that the paper fine-tunes on: keep them out of every pre-training set (``exclude``)."""


@dataclass(frozen=True)
class Collected:
    """What a call of ``collect`` did."""

    folder: Path
    present: int
    """Episodes that were on disk before the call."""
    made: int
    """Episodes recorded by the call."""
    frames: int
    """Frames recorded by the call."""
    successes: int
    """Episodes recorded by the call in which the task succeeded."""


def collect(
    name: str | Sequence[str],
    out: str | os.PathLike[str],
    *,
    videos: int,
    seed: int = 0,
    image_size: int = 64,
    action_repeat: int = 1,
    rendering: Quality = "fast",
    behaviour: Behaviour = "expert",
    noise: float | None = None,
    min_length: int = 30,
    max_length: int | None = None,
    after_success: int | None = 20,
    exclude: str | Sequence[str] = (),
    workers: int = 2,
    progress: bool = True,
    **options: Any,
) -> Collected:
    """Record ``videos`` episodes of each named environment into ``out``, resuming what is there.

    Files are official episodes, ``{suite}_{task}-{index}-{length}.npz``: ``image`` (T, S, S, 3)
    uint8; ``is_first``, ``is_last``, ``is_terminal`` (T,) bool; ``reward`` (T,) float32, zero; no
    actions. ``collect.json`` beside them holds the settings and the seeds.

    Args:
        name: environment names or patterns, such as ``"metaworld:*"``.
        out: the folder, made if missing.
        videos: episodes of each environment; a later call may ask for more.
        seed: of the whole collection.
        image_size: height and width S in pixels.
        action_repeat: simulator steps an action is held.
        rendering: ``fast`` or ``exact``.
        behaviour: ``expert`` (the environment's script), ``noisy-expert`` (the same with Gaussian
            noise of standard deviation .3), ``smooth-random`` (sums of slow sinusoids).
        noise: standard deviation of Gaussian noise on every action, in action units.
        min_length: success does not end an episode before this many frames.
        max_length: most frames of an episode; None is the environment's time limit.
        after_success: agent steps recorded after the first success; None goes on to the end.
        exclude: names or patterns to leave out.
        workers: processes; 0 records in this one.
        progress: show a bar with the time left.
        options: passed on to ``make_env``.

    Raises:
        InputError: for unknown names, impossible settings, a folder that holds something else,
            that another process is writing to, or a full disk; or if a process fails.
    """
    names = expand(name, exclude)
    if behaviour not in DEFAULT_NOISE:
        raise InputError(f"Unknown behaviour {behaviour!r}: choose {', '.join(DEFAULT_NOISE)}.")
    noise = DEFAULT_NOISE[behaviour] if noise is None else float(noise)
    _at_least("videos", videos, 1)
    _at_least("seed", seed, 0)
    _at_least("noise", noise, 0)
    _at_least("max_length", max_length, 2)
    _at_least("after_success", after_success, 0)
    _at_least("workers", workers, 0)
    settings = Settings(
        seed, image_size, action_repeat, rendering, behaviour, noise,
        min_length, max_length, after_success, options,
    )  # fmt: skip

    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder for the videos.")
    made = frames = successes = 0
    with locked(folder), _no_leftovers(folder):
        _prepare(folder, names, videos, settings)
        present = _on_disk(folder)
        missing = {n: [i for i in range(videos) if (label(n), i) not in present] for n in names}
        total = sum(map(len, missing.values()))
        jobs = recorders.share_out(missing, workers)
        title = f"collect {folder.name}"
        with tqdm(total=total, unit="video", desc=title, disable=not progress) as bar:
            for length, success in recorders.run(jobs, folder, settings, min(workers, len(jobs))):
                made, frames, successes = made + 1, frames + length, successes + success
                bar.set_postfix(frames=frames, success=f"{successes / made:.0%}", refresh=False)
                bar.update()
    return Collected(folder, len(names) * videos - total, made, frames, successes)


def expand(name: str | Sequence[str], exclude: str | Sequence[str] = ()) -> list[str]:
    """The environment names that names and patterns such as ``"metaworld:*"`` stand for, in order.

    Raises:
        InputError: for a pattern that matches nothing, or where nothing is left.
    """
    wanted, dropped = (
        dict.fromkeys(n for p in ([given] if isinstance(given, str) else given) for n in _match(p))
        for given in (name, exclude)
    )
    kept = [n for n in wanted if n not in dropped]
    if not kept:
        raise InputError(f"No environment is left of {name!r} without {exclude!r}: name one more.")
    return kept


def _match(pattern: str) -> list[str]:
    if not any(sign in pattern for sign in "*?["):
        check_name(pattern)
        return [pattern]
    known = [name for suite in SUITES for name in task_names(suite)]
    found = [name for name in known if fnmatchcase(name, pattern)]
    if not found:
        near = get_close_matches(pattern, known, n=3, cutoff=0.3) or known[:3]
        raise InputError(f"No environment is like {pattern!r}: the nearest are {', '.join(near)}.")
    return found


def _at_least(key: str, value: float | None, lowest: int) -> None:
    if value is not None and not lowest <= value < float("inf"):
        raise InputError(f"{key}={value} is out of range: give {lowest} or more.")


def _prepare(folder: Path, names: list[str], videos: int, settings: Settings) -> None:
    """Write the manifest of a new folder, or see that an old one was made with these settings."""
    manifest = folder / MANIFEST
    if manifest.exists():
        try:
            before = json.loads(manifest.read_text())
            before = {"names": before["names"], **before["settings"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{manifest} is damaged ({error}): choose a new folder.") from None
        now = {"names": names, **json.loads(json.dumps(asdict(settings), default=str))}
        differing = [key for key in now if before.get(key) != now[key]]
        if differing and _on_disk(folder):  # a call that recorded nothing may be corrected
            raise InputError(
                f"{folder} was recorded with other settings ({', '.join(differing)}): "
                "give the same ones to go on, or choose a new folder."
            )
    elif any(folder.glob("[!.]*")):
        raise InputError(
            f"{folder} is not empty and holds no {MANIFEST}: choose a new or an empty folder."
        )
    seeds = {
        f"{label(name)}-{i:05d}": int(episode_seed(settings.seed, name, i).generate_state(1)[0])
        for name in names
        for i in range(videos)
    }
    content = {"apv_edu": apv_edu.__version__, "names": names, "videos": videos}
    content |= {"settings": asdict(settings), "seeds": seeds}
    text = json.dumps(content, indent=1, default=str) + "\n"
    write_atomically(manifest, text.encode())


def _on_disk(folder: Path) -> set[tuple[str, int]]:
    """(label, index) of the episodes already recorded."""
    names = (re.fullmatch(r"(\w+)-(\d+)-\d+", path.stem) for path in folder.glob("*.npz"))
    return {(name[1], int(name[2])) for name in names if name}


@contextmanager
def _no_leftovers(folder: Path) -> Iterator[None]:
    """Remove half-written files of stopped processes, before and after."""
    try:
        remove_leftovers(folder)
        yield
    finally:
        remove_leftovers(folder)
