"""How long the chapters run: measured at each build, and kept for the presets of other builds.

``book/build.py --record`` writes what it measured to ``book/run_times.csv``; pages show both.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apv_edu.files import write_atomically

COLUMNS: tuple[str, ...] = (
    "chapter",
    "preset",
    "seconds",
    "cpu_seconds",
    "cores",
    "python",
    "torch",
)
PRESETS = ("smoke", "laptop", "colab", "paper")
SHOWN = PRESETS[:3]
"""Presets that have a column even where nothing was measured."""


@dataclass(frozen=True)
class Run:
    """One executed notebook."""

    name: str
    title: str
    preset: str
    seed: int
    seconds: float
    """Wall time of the execution, kernel start included."""
    cpu_seconds: float
    """Processor time, which busy neighbours do not lengthen."""
    cores: int
    command: str
    """What makes the same figures by hand, in the folder of the book."""
    versions: dict[str, str]


def read(root: Path) -> list[dict[str, str]]:
    """The recorded rows, of any preset; none where nothing was recorded."""
    path = root / "book" / "run_times.csv"
    return list(csv.DictReader(path.open(newline="", encoding="utf-8"))) if path.is_file() else []


def record(root: Path, runs: Sequence[Run]) -> None:
    """Put the runs of a build in the place of the rows that had their presets."""
    rows = [row for row in read(root) if row["preset"] not in {run.preset for run in runs}]
    for run in runs:
        of = {"python": run.versions.get("python", ""), "torch": run.versions.get("torch", "")}
        times = {"seconds": run.seconds, "cpu_seconds": run.cpu_seconds, "cores": run.cores}
        rows.append({"chapter": run.name, "preset": run.preset, **times, **of})
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: (PRESETS.index(row["preset"]), row["chapter"])))
    write_atomically(root / "book" / "run_times.csv", out.getvalue().encode())


def label(run: Run, rows: Sequence[dict[str, str]]) -> str:
    """The sentences under a chapter's title."""
    first = f"This page ran in {duration(run.seconds)} at the preset `{run.preset}`"
    others = [
        f"{duration(float(row['seconds']))} at `{row['preset']}`"
        for row in rows
        if row["chapter"] == run.name and row["preset"] != run.preset
    ]
    more = f" Measured before: {', '.join(others)}." if others else ""
    return f"*{first} on {plural(run.cores, 'core')}.{more}*"


def table(runs: Sequence[Run], rows: Sequence[dict[str, str]]) -> str:
    """All chapters and presets as a Markdown table; what this build measured stands in bold."""
    if not runs:
        return "This copy of the book has no chapters.\n"
    known = {(row["chapter"], row["preset"]): duration(float(row["seconds"])) for row in rows}
    known |= {(run.name, run.preset): f"**{duration(run.seconds)}**" for run in runs}
    measured = {preset for _, preset in known}
    shown = [preset for preset in PRESETS if preset in SHOWN or preset in measured]
    lines = [" | ".join(["| chapter", *(f"`{preset}`" for preset in shown)]) + " |"]
    lines.append("| --- " * (1 + len(shown)) + "|")
    for run in runs:
        cells = [known.get((run.name, preset), "–") for preset in shown]
        lines.append(f"| [{run.title}](../notebooks/{run.name}.ipynb) | {' | '.join(cells)} |")
    machine = f"{plural(runs[0].cores, 'core')}, Python {runs[0].versions['python']}"
    words = [f"Bold: measured when this copy of the book was built ({machine})."]
    old = sorted({row["cores"] for row in rows if row["preset"] != runs[0].preset})
    words += [f"Other numbers: measured before, on {plural(int(cores), 'core')}." for cores in old]
    words += ["A dash: not measured."] * any("–" in line for line in lines[2:])
    return "\n".join([*lines, "", *words, ""])


def duration(seconds: float) -> str:
    """``75`` as ``1 min 15 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def plural(count: int, noun: str) -> str:
    """``1 core``, ``2 cores``."""
    return f"{count} {noun}" + "s" * (count != 1)
