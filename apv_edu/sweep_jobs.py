"""The jobs of a sweep: record videos, pack them, pre-train, fine-tune; each in a folder of its own.

A job is done when the file ``done.json`` in its folder says so, whoever ran it and wherever. Each
goes on where a killed one stopped.
"""

import json
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from apv_edu.config import PretrainConfig
from apv_edu.envs import tells_success
from apv_edu.errors import InputError
from apv_edu.files import write_atomically
from apv_edu.grid import Cell

DONE = "done.json"
PACE = "time/seconds_per_step"


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """One piece of work, which ends with its ``done.json``."""

    folder: Path
    settings: dict[str, Any]
    """What decides its outcome, for ``done.json``."""
    needs: tuple[Path, ...] = ()
    """Folders of the jobs that have to be done before."""
    updates: int = 0
    """Gradient steps that it takes."""

    @abstractmethod
    def work(self, threads: int, command: str) -> dict[str, Any]:
        """Do it, or what is left of it; what it returns goes into ``done.json``."""

    def done(self) -> dict[str, Any] | None:
        """What ``done.json`` says, or None if there is none.

        Raises:
            InputError: when it is damaged, or of a job with other settings.
        """
        path = self.folder / DONE
        try:
            story = json.loads(path.read_bytes())
            before = dict(story["settings"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}): delete it, and run again.") from error
        if before != (now := json.loads(json.dumps(self.settings))):
            from apv_edu.checkpoint import differences

            raise InputError(
                f"{self.folder} was made with other settings ({differences(before, now)}): choose "
                "a new folder for the sweep, or put the grid back as it was."
            )
        return story

    def finish(self, story: Mapping[str, Any]) -> None:
        """Say in ``done.json`` that it is done, and how."""
        content = json.dumps({**story, "settings": self.settings}, indent=1) + "\n"
        write_atomically(self.folder / DONE, content.encode())

    def updates_done(self) -> int:
        """Gradient steps that it has logged so far."""
        with suppress(OSError, ValueError, IndexError):
            if (self.folder / DONE).exists():
                return self.updates
            return self._updates_at(_last_step(self.folder / "metrics.csv"))
        return 0

    def _updates_at(self, step: int) -> int:
        return step


@dataclass(frozen=True, kw_only=True)
class RecordJob(Job):
    """Record a set of videos."""

    def work(self, threads: int, command: str) -> dict[str, Any]:
        """Record."""
        from apv_edu.data.collect import collect

        options = dict(self.settings)
        names = options.pop("env")
        done = collect(names, self.folder / "videos", workers=0, progress=False, **options)
        return {"videos": done.present + done.made}


@dataclass(frozen=True, kw_only=True)
class PackJob(Job):
    """Pack video sets into one dataset."""

    sources: tuple[Path, ...]
    """Folders of videos."""

    def work(self, threads: int, command: str) -> dict[str, Any]:
        """Pack."""
        from apv_edu.data.video import pack_videos

        options = {name: value for name, value in self.settings.items() if name != "videos"}
        dataset = pack_videos(self.sources, self.folder / "dataset", progress=False, **options)
        return {"videos": len(dataset.videos), "frames": len(dataset.frames)}


@dataclass(frozen=True, kw_only=True)
class PretrainJob(Job):
    """Pre-train one video model."""

    config: PretrainConfig
    seed: int

    def work(self, threads: int, command: str) -> dict[str, Any]:
        """Train."""
        from apv_edu.data.video import VideoDataset
        from apv_edu.logger import CSVLogger
        from apv_edu.pretrain import CHECKPOINT, pretrain

        pretrain(
            VideoDataset.open(self.needs[0] / "dataset", verify=True),
            self.config,
            self.folder,
            seed=self.seed,
            progress=False,
            logger=CSVLogger(self.folder / "metrics.csv"),
            threads=threads,
            command=command,
        )
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return {}

    def row(self) -> dict[str, Any]:
        """What the model took, by its log, over all the times that it was taken up again."""
        from apv_edu.logger import read_csv

        paces = {step: v for step, n, v in read_csv(self.folder / "metrics.csv") if n == PACE}
        seconds = sum((step - last) * paces[step] for last, step in pairwise([0, *paces]))
        story = {"model": self.needs[0].name, "seed": self.seed, "updates": self.updates}
        return story | {"clock_seconds": round(seconds)}


@dataclass(frozen=True, kw_only=True)
class FinetuneJob(Job):
    """One run of the grid."""

    cell: Cell

    def work(self, threads: int, command: str) -> dict[str, Any]:
        """Train; the rows of the sweep's table come out."""
        from apv_edu.finetune import CHECKPOINT, REPLAY, finetune
        from apv_edu.logger import CSVLogger
        from apv_edu.pretrain import MODEL

        finetune(
            self.cell.task,
            self.cell.config,
            self.folder,
            video_model=self.needs[0] / MODEL if self.needs else None,
            seed=self.cell.seed,
            progress=False,
            logger=CSVLogger(self.folder / "metrics.csv"),
            threads=threads,
            command=command,
        )
        rows = cell_rows(self.folder, self.cell)
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        shutil.rmtree(self.folder / REPLAY, ignore_errors=True)
        return {"rows": rows}

    def _updates_at(self, step: int) -> int:
        return self.cell.config.updates_due(step)


def do(job: Job, threads: int, command: str, revision: str) -> None:
    """Do ``job`` and say so in its ``done.json``; nothing, where that is there already.

    Raises:
        Busy: if another process is at it.
        InputError: whatever the job refuses.
    """
    from apv_edu.checkpoint import provenance

    if job.done() is not None:
        return
    wall, cpu = time.perf_counter(), time.process_time()
    story = job.work(threads, command)
    story |= {
        "revision": revision,
        "versions": provenance("", seed=0, steps=0)["versions"],
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    job.finish(story)


def cell_rows(folder: Path, cell: Cell) -> list[dict[str, Any]]:
    """One row an evaluation of a finished run, the random policy's first.

    Raises:
        InputError: when its ``metrics.csv`` is damaged.
    """
    from apv_edu.logger import read_csv

    found: dict[tuple[int, str], dict[str, float]] = {}
    times: dict[int, dict[str, float]] = {}
    for step, name, value in read_csv(folder / "metrics.csv"):
        kind, _, rest = name.partition("/")
        if kind in ("random", "eval"):
            found.setdefault((step, kind), {})[rest] = value
        elif kind == "time":
            times.setdefault(step, {})[rest] = value
    return [
        {
            "task": cell.task,
            "method": "random" if kind == "random" else cell.method,
            "seed": cell.seed,
            "env_step": step * cell.config.world.action_repeat,
            "success": _short(values["success"]) if tells_success(cell.task) else None,
            "return": _short(values["return"]),
            "wall_seconds": round(times.get(step, {}).get("wall_seconds", 0.0), 1),
            "cpu_seconds": round(times.get(step, {}).get("cpu_seconds", 0.0), 1),
        }
        for (step, kind), values in found.items()
    ]


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def git_revision() -> str:
    """The commit of the package's own checkout, with a + where files differ; empty without git."""
    where = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*", "--abbrev=12"],
            cwd=where, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()


def _last_step(path: Path) -> int:
    """The step of the last whole row of a ``metrics.csv``."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        lines = file.read().split(b"\n")
    return int(lines[-2].split(b",")[0])
