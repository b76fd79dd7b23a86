"""Record episodes in several processes, which share one list of jobs."""

import multiprocessing as mp
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apv_edu.data.recording import Settings, episode_path, episode_seed, record, save_episode
from apv_edu.envs import make_env
from apv_edu.errors import InputError


def share_out(missing: dict[str, list[int]], workers: int) -> list[tuple[str, list[int]]]:
    """Jobs ``(name, indices)`` of one environment each; few are shared out among the processes."""
    parts = 1 if len(missing) >= 4 * workers else workers
    shares = ((name, indices[p::parts]) for name, indices in missing.items() for p in range(parts))
    return [(name, share) for name, share in shares if share]


def run(
    jobs: list[tuple[str, list[int]]], folder: Path, settings: Settings, workers: int
) -> Iterator[tuple[int, bool]]:
    """Record ``jobs`` in this process (``workers=0``) or in several.

    Yields:
        frames and success of each episode, once it is on disk.

    Raises:
        InputError: what a process found wrong, or that a process died.
    """
    if workers == 0:
        for name, indices in jobs:
            yield from _record_job(name, indices, folder, settings)
        return
    context = mp.get_context("spawn")  # OpenGL contexts do not survive a fork
    todo, done = context.Queue(), context.Queue()
    for job in [*jobs, *[None] * workers]:
        todo.put(job)
    arguments = (todo, done, folder, settings)
    processes = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(workers)]
    try:
        for process in processes:
            process.start()
        for _ in range(sum(len(indices) for _, indices in jobs)):
            yield _next_result(done, processes)
        for process in processes:
            process.join(timeout=10)
    finally:
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()
        todo.cancel_join_thread()


def _next_result(done: Any, processes: list[Any]) -> tuple[int, bool]:
    """The next (length, success), or the error that stopped a process."""
    while True:
        ended = [p.exitcode for p in processes if not p.is_alive()]
        failed = [status for status in ended if status]
        try:
            result = done.get(timeout=1)
        except queue.Empty:
            if failed or len(ended) == len(processes):
                raise InputError(
                    f"A recording process ended early with status {(failed or ended)[0]}: "
                    "collect again to go on, with fewer workers if memory is short."
                ) from None
            continue
        if isinstance(result, BaseException):
            raise result
        return result


def _work(todo: Any, done: Any, folder: Path, settings: Settings) -> None:
    """The loop of one process: take a job, record its episodes with one environment."""
    parent = mp.parent_process()
    name = "a video"
    try:
        while (job := todo.get()) is not None:
            name, indices = job
            for result in _record_job(name, indices, folder, settings):
                done.put(result)
                if parent is not None and not parent.is_alive():
                    return
    except KeyboardInterrupt:
        pass
    except InputError as error:
        done.put(error)
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        done.put(
            InputError(
                f"Recording {name} failed ({type(error).__name__}: {reason}): collect again to go "
                "on, with workers=0 to see where it fails."
            )
        )


def _record_job(
    name: str, indices: list[int], folder: Path, settings: Settings
) -> Iterator[tuple[int, bool]]:
    env = make_env(
        name,
        image_size=settings.image_size,
        action_repeat=settings.action_repeat,
        rendering=settings.rendering,
        **settings.options,
    )
    try:
        if settings.behaviour != "smooth-random" and not hasattr(env.unwrapped, "expert_action"):
            raise InputError(f"{name} has no scripted expert: use the behaviour smooth-random.")
        for index in indices:
            seeds = episode_seed(settings.seed, name, index)
            frames, terminal, success = record(env, settings, seeds)
            save_episode(episode_path(folder, name, index, len(frames)), frames, terminal)
            yield len(frames), success
    finally:
        env.close()
