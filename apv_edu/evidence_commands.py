"""The commands of ``apv-edu`` that judge, one frozen dataclass each: its fields are the options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from apv_edu.errors import InputError
from apv_edu.report import Rules

# Whatever imports torch, a simulator or a plot is imported by the command that needs it.


@dataclass(frozen=True)
class Sweep:
    """Train a whole grid of tasks, methods and seeds, on this machine or on a Ray cluster.

    Stopped or killed, it goes on where it was: run the same command again. A run that is done is
    never done twice; OUT/results.csv has a row for each evaluation of every run that is done.
    """

    grid: Annotated[Path, tyro.conf.Positional]
    """A TOML file that declares the runs, such as assets/results/tabletop.toml."""
    out: Path
    """Folder of the sweep; on a cluster, one that all machines see under this path."""
    tasks: tuple[str, ...] = ()
    """Of the grid, do these only."""
    methods: tuple[str, ...] = ()
    """Of the grid, do these only."""
    seeds: tuple[int, ...] = ()
    """Of the grid, do these only."""
    have: tuple[Path, ...] = ()
    """Tables of the same grid, such as assets/results/tabletop.csv: their runs count as done."""
    smoke: bool = False
    """Try the grid out: smallest sizes, a few steps and videos."""
    workers: int | None = None
    """Processes at once on this machine; None is one for each core."""
    address: str | None = None
    """Of a Ray cluster: auto, host:port or ray://host:port; None starts a Ray here."""
    threads: int = 1
    """CPU threads of torch in each process; other numbers round differently."""
    gpus: float = 0.0
    """Share of a GPU for each training, such as 0.5 for two at once; with 0 they see none."""
    progress: bool = True
    """Show a bar, in gradient steps, with the time left."""

    def run(self, command: str) -> None:
        """Train."""
        from apv_edu.grid import read_grid
        from apv_edu.sweep import sweep

        grid = read_grid(self.grid, smoke=self.smoke)
        swept = sweep(
            grid,
            self.out,
            part=grid.chosen(tasks=self.tasks, methods=self.methods, seeds=self.seeds),
            have=self.have,
            workers=self.workers,
            address=self.address,
            threads=self.threads,
            gpus=self.gpus,
            progress=self.progress,
            command=command,
        )
        print(f"{swept.table}: {swept.done} of {swept.runs} runs are done")
        if swept.failed:
            errors = "; ".join(f"{job}: {error}" for job, error in swept.failed.items())
            raise InputError(f"{len(swept.failed)} jobs failed ({errors}): mend that, run again.")


@dataclass(frozen=True)
class Report:
    """Compare methods over seeds: interquartile means with 95% intervals, as table and figures.

    Reads CSVs of sweeps, CSVs of published curves, and the authors' raw .pkl files, in which
    nothing is executed. The same files give the same report.
    """

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Results of runs: one or several files, which are put together."""
    out: Path
    """Folder of the report: report.csv, curves.png, end.png, profile.png, improvement.png."""
    measure: Literal["success", "return"] | None = None
    """What to judge by; None is success on Meta-World and return elsewhere."""
    rules: Annotated[Rules, tyro.conf.arg(name="")] = Rules()  # noqa: RUF009 (it is frozen)

    def run(self, command: str) -> None:
        """Report."""
        if not self.files:
            raise InputError("No file is named: name at least one with results of runs.")
        import io

        import matplotlib.pyplot as plt

        from apv_edu.files import disk_errors, write_atomically
        from apv_edu.report import make_report, table, write_report
        from apv_edu.scores import arrange, read_scores
        from apv_edu.show import evidence

        scores = [score for path in self.files for score in read_scores(path, self.measure)]
        rows = make_report(arrange(scores), self.rules)
        print(table(rows))
        write_report(self.out / "report.csv", rows)
        print(self.out / "report.csv")
        for draw, quantity in (
            (evidence.curves, "iqm_curve"),
            (evidence.end, "iqm_end"),
            (evidence.profile, "profile"),
            (evidence.improvement, "probability_of_improvement"),
        ):
            path = self.out / f"{draw.__name__}.png"
            if not any(row.quantity == quantity for row in rows):
                with disk_errors(path):
                    path.unlink(missing_ok=True)  # of an earlier report
                continue
            picture = io.BytesIO()
            figure = draw(rows)
            figure.savefig(picture, format="png", dpi=200, metadata={"Software": None})
            plt.close(figure)
            write_atomically(path, picture.getvalue())
            print(path)
