"""Run a grid of trainings on Ray: on this machine, or on a cluster that shares a folder.

Ray only maps: what is done is what the jobs' own files say. So whatever is killed, a worker, the
driver or all of Ray, the same command goes on and ends with the same table, but for the timings.
"""

import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from apv_edu.config import check_counts, check_range
from apv_edu.errors import Busy, InputError
from apv_edu.files import locked, remove_leftovers
from apv_edu.grid import Grid
from apv_edu.sweep_jobs import FinetuneJob, Job, PretrainJob, do, git_revision
from apv_edu.sweep_plan import plan
from apv_edu.sweep_table import MODELS, TABLE, adopt, write_models, write_table

RETRIES = 20
"""Times that Ray starts a job again whose worker was killed."""
RESTARTS = 5
"""Times that a Ray of our own is started again in one call."""
PATIENCE = 120
"""Seconds to wait for a killed worker to let go of its folder."""
POLL = 1.0
"""Seconds between looks at what has been done."""

_REMEDY = "start one with `ray start --head`, or mend the address."


class RayDied(Exception):
    """All of Ray is gone, not a worker only, or has not started."""


@dataclass(frozen=True)
class Cluster:
    """Where the jobs run."""

    address: str | None
    """Of a Ray cluster; None starts a Ray on this machine."""
    workers: int | None
    """Processes at once on this machine; None is one for each core."""
    threads: int
    """Of torch in each process."""
    gpus: float = 0.0
    """Share of a GPU that each training gets."""

    def __post_init__(self):
        check_counts(self)
        check_range(self, "gpus")

    def connect(self, ray: Any) -> None:
        """Start Ray, or join it.

        Raises:
            InputError: when there is none at the address.
            RayDied: when it does not start here.
        """
        if self.address and (found := re.fullmatch(r"([^:/]+):([0-9]+)", self.address)):
            try:  # Ray itself would try for minutes
                socket.create_connection((found[1], int(found[2])), timeout=10).close()
            except OSError as error:
                raise InputError(f"No Ray at {self.address} ({error}): {_REMEDY}") from error
        variables = {"OMP_NUM_THREADS": str(self.threads)}
        if not self.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = ""
        options: dict[str, Any] = {"runtime_env": {"env_vars": variables}}
        if self.address is None:
            cores = (self.workers or os.cpu_count() or 1) * self.threads
            options |= {"num_cpus": cores, "include_dashboard": False}
            options["object_store_memory"] = 100 * 2**20  # no job hands anything to another
        try:
            ray.init(self.address or "local", log_to_driver=False, logging_level="ERROR", **options)
        except Exception as error:  # Ray raises it as such when a busy machine is slow to start
            if self.address is None:
                raise RayDied(f"Ray does not start ({error})") from error
            raise InputError(f"No Ray at {self.address} ({error}): {_REMEDY}") from error


@dataclass(frozen=True)
class Swept:
    """What a call of ``sweep`` did."""

    table: Path
    done: int
    """Runs that are done."""
    runs: int
    """Runs of the grid."""
    failed: dict[str, str]
    """The errors of jobs that cannot be done, by their folders."""


def sweep(
    grid: Grid,
    out: Path | str,
    *,
    part: Grid | None = None,
    have: Sequence[Path] = (),
    workers: int | None = None,
    address: str | None = None,
    threads: int = 1,
    gpus: float = 0.0,
    progress: bool = True,
    command: str = "apv_edu.sweep.sweep",
) -> Swept:
    """Do what is left of ``grid`` and write one row for each evaluation to ``out/results.csv``.

    ``out/models.csv`` has a row for each video model.

    Args:
        grid: the runs, and the videos and models that they need.
        out: folder of the sweep, which every worker has to see under the same path.
        part: the runs of the grid to do now; None is all. The table has whatever is done.
        have: tables of the same grid, whose runs count as done.
        workers: processes at once on this machine; None is one for each core.
        address: of a Ray cluster (``auto``, ``host:port``, ``ray://...``); None starts a Ray here.
        threads: of torch in each process. Other numbers round differently.
        gpus: share of a GPU for each training, such as 0.5; with 0 they see none.
        progress: show a bar, in gradient steps, with the time left.
        command: what to note in the files as the command that made them.

    Raises:
        InputError: when a finished job has other settings than the grid, a table of ``have`` is
            none of this grid, another sweep works in ``out``, Ray is missing or cannot be reached,
            or dies again and again.
    """
    out = Path(out).resolve()
    cluster = Cluster(address, workers, threads, gpus)
    jobs = plan(part or grid, out)
    everything = plan(grid, out)
    cells = [job for job in everything if isinstance(job, FinetuneJob)]
    models = [job for job in everything if isinstance(job, PretrainJob)]
    bar = tqdm(total=sum(job.updates for job in jobs), unit="update", disable=not progress)
    before = 0

    def watch(waiting: int, failed: int) -> None:
        write_table(out / TABLE, cells)
        write_models(out / MODELS, models)
        bar.n = bar.initial = before
        bar.update(max(0, sum(job.updates_done() for job in jobs) - before))
        bar.set_postfix(left=waiting, failed=failed)

    with locked(out), bar:
        remove_leftovers(out)
        for table in have:
            adopt(Path(table), cells)
        before = sum(job.updates_done() for job in jobs)
        failed: dict[str, str] = {}
        restarts = 0
        watch(0, 0)
        while left := [job for job in _left(jobs) if str(job.folder) not in failed]:
            try:
                failed |= _map(left, cluster, command, watch)
                break
            except RayDied as error:
                restarts += 1
                if address is not None or restarts > RESTARTS:
                    raise InputError(f"{error}: run the same command again to go on.") from error
        watch(0, len(failed))
    done = sum(cell.done() is not None for cell in cells)
    return Swept(out / TABLE, done, len(cells), failed)


def _left(jobs: Sequence[Job]) -> list[Job]:
    """The jobs that are not done and that some run still needs."""
    undone = {job.folder: job for job in jobs if job.done() is None}
    wanted: dict[Path, Job] = {}
    for job in reversed(jobs):  # those that need others come after them
        if job.folder in undone and (isinstance(job, FinetuneJob) or job.folder in wanted):
            wanted[job.folder] = job
            wanted |= {need: undone[need] for need in job.needs if need in undone}
    return [job for job in jobs if job.folder in wanted]


def _map(
    left: Sequence[Job], cluster: Cluster, command: str, watch: Callable[[int, int], None]
) -> dict[str, str]:
    """Let Ray do the jobs while ``watch`` looks on: the errors, by folder."""
    ray = _ray()
    revision, failed = git_revision(), {}
    waiting, running = list(left), {}
    try:
        cluster.connect(ray)
        remote = ray.remote(num_cpus=cluster.threads, num_gpus=cluster.gpus, max_retries=RETRIES)(
            _work
        )
        # Not all at once: Ray would do first what needs nothing, and all seeds of it.
        most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1) / cluster.threads))
        while waiting or running:
            for job in _startable(waiting, list(running.values()), failed)[: most - len(running)]:
                waiting.remove(job)
                running[remote.remote(job, cluster.threads, command, revision)] = job
            for ref in ray.wait(list(running), timeout=POLL)[0] if running else ():
                job = running.pop(ref)
                try:
                    ray.get(ref)
                except ray.exceptions.RayTaskError as error:
                    failed[str(job.folder)] = str(error.cause)
            watch(len(waiting) + len(running), len(failed))
    except ray.exceptions.RayError as error:
        raise RayDied(f"Ray has died ({type(error).__name__})") from error
    finally:
        ray.shutdown()
    return failed


def _startable(waiting: list[Job], running: Sequence[Job], failed: dict[str, str]) -> list[Job]:
    """The waiting jobs whose needs are done; those whose needs failed fail with them."""
    for job in list(waiting):
        if causes := [failed[str(need)] for need in job.needs if str(need) in failed]:
            waiting.remove(job)
            failed[str(job.folder)] = causes[0]
    undone = {job.folder for job in (*waiting, *running)}
    return [job for job in waiting if not undone.intersection(job.needs)]


def _work(job: Job, threads: int, command: str, revision: str) -> None:
    """``do``, in a worker; a folder that a killed one still holds is waited for."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return do(job, threads, command, revision)
        except Busy:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise InputError('A sweep needs Ray: run `pip install "ray>=2.40"`.') from error
    return ray
