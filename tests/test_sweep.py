import csv
from dataclasses import replace
from pathlib import Path

import pytest

from apv_edu import sweep as sweeper
from apv_edu import sweep_jobs
from apv_edu.errors import Busy, InputError
from apv_edu.files import locked
from apv_edu.grid import Grid, read_grid
from apv_edu.sweep import sweep
from apv_edu.sweep_jobs import DONE, FinetuneJob
from apv_edu.sweep_plan import plan
from apv_edu.sweep_table import COLUMNS, adopt, write_table

TIMINGS = ("wall_seconds", "cpu_seconds")
GRID = Path(__file__).parents[1] / "assets/results/tabletop.toml"
"""The grid of the book's experiments on the tabletop."""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def timeless(path: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows(path)]


def written(out: Path) -> dict[Path, int]:
    """When each file but the table was written last."""
    return {path: path.stat().st_mtime_ns for path in out.glob("*/**/*") if path.is_file()}


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, Grid]:
    """Two methods, two seeds of the book's own grid, tried out."""
    grid = read_grid(GRID, smoke=True).chosen(methods=["DreamerV2", "APV"], seeds=[10, 11])
    out = tmp_path_factory.mktemp("sweep")
    done = sweep(grid, out, workers=2, progress=False, command="the command")
    assert (done.done, done.runs, done.failed) == (4, 4, {})
    return out, grid


def test_a_sweep_ends_with_a_tidy_table(swept):
    out, _ = swept
    table = rows(out / "results.csv")
    assert tuple(table[0]) == COLUMNS
    assert [(r["method"], r["seed"], r["env_step"]) for r in table] == [
        *(("random", seed, "0") for seed in ("10", "11")),
        *(
            (m, seed, step)
            for m in ("DreamerV2", "APV")
            for seed in ("10", "11")
            for step in ("40", "80")
        ),
    ]
    for row in table:
        assert row["task"] == "tabletop:reach"
        assert 0 <= float(row["success"]) <= 1 and 0 < float(row["return"]) < 20
        assert "torch " in row["versions"] and row["revision"] == sweep_jobs.git_revision()
        assert (float(row["cpu_seconds"]) > 0) == (row["method"] != "random")
        assert (float(row["wall_seconds"]) > 0) == (row["method"] != "random")


def test_each_run_of_a_pretrained_method_starts_from_a_model_of_its_own(swept):
    out, grid = swept
    models = {
        job.cell.seed: job.needs for job in plan(grid, out)
        if isinstance(job, FinetuneJob) and job.cell.method == "APV"
    }  # fmt: skip
    assert len(models) == 2 and models[10] != models[11]
    weights = [(need / "model.safetensors").read_bytes() for (need,) in models.values()]
    assert weights[0] != weights[1]


def test_a_second_table_has_the_video_models(swept):
    out, grid = swept
    table = rows(out / "models.csv")
    name = next(cell.pretrain for cell in grid.cells if cell.pretrain)
    assert [(row["model"], row["seed"], row["updates"]) for row in table] == [
        (name, "10", "8"), (name, "11", "8")
    ]  # fmt: skip
    log = out / "models" / name / "10" / "metrics.csv"
    paces = [float(row["value"]) for row in rows(log) if row["name"] == "time/seconds_per_step"]
    assert float(table[0]["clock_seconds"]) == round(2 * sum(paces))  # logged at every second step


def test_what_is_done_is_not_done_again(swept):
    out, grid = swept
    before = written(out)
    table = (out / "results.csv").read_bytes()
    (out / "results.csv").unlink()
    leftover = out / ".results.csv.1.part"  # of a driver that was killed
    leftover.write_text("task,met")
    sweep(grid, out, progress=False)
    assert (out / "results.csv").read_bytes() == table
    assert written(out) == before and not leftover.exists()


def test_finished_runs_keep_only_what_is_of_use(swept):
    out, _ = swept
    run = out / "runs/tabletop_reach/APV/10"
    assert not (run / "replay").exists() and not (run / "checkpoint.safetensors").exists()
    assert (run / "agent.safetensors").exists() and (run / "metrics.csv").exists()


def test_a_changed_grid_is_refused_by_what_was_done_under_the_old(swept):
    out, grid = swept
    first, *others = grid.cells
    changed = replace(first, config=replace(first.config, batch_size=3, steps=120))
    with pytest.raises(
        InputError,
        match=r"other settings \(batch_size: \d+ there, 3 now; steps: \d+ there, 120 now\)",
    ):
        sweep(replace(grid, cells=(changed, *others)), out, progress=False)


def test_a_job_that_cannot_be_done_does_not_stop_the_others(tmp_path):
    grid = read_grid(GRID, smoke=True).chosen(methods=["DreamerV2", "APV"], seeds=[10])
    [name] = {cell.pretrain for cell in grid.cells if cell.pretrain}
    broken = replace(grid.pretrainings[name].config, sequence_length=1000)
    pretrainings = {name: replace(grid.pretrainings[name], config=broken)}
    done = sweep(replace(grid, pretrainings=pretrainings), tmp_path, progress=False)
    assert (done.done, done.runs) == (1, 2)
    assert any("datasets" in folder for folder in done.failed)
    assert all("No video is usable" in error for error in done.failed.values())
    assert {row["method"] for row in rows(done.table)} == {"random", "DreamerV2"}


def test_a_part_leaves_the_others_rows_in_the_table(swept, tmp_path):
    out, grid = swept
    part = grid.chosen(methods=["APV"], seeds=[11])
    table = (out / "results.csv").read_bytes()
    sweep(grid, out, part=part, progress=False)
    assert (out / "results.csv").read_bytes() == table
    write_table(tmp_path / "part.csv", [j for j in plan(part, out) if isinstance(j, FinetuneJob)])
    assert {row["method"] for row in rows(tmp_path / "part.csv")} == {"random", "APV"}


def finetunings(grid: Grid, out: Path) -> list[FinetuneJob]:
    return [job for job in plan(grid, out) if isinstance(job, FinetuneJob)]


def test_runs_of_a_table_count_as_done(swept, tmp_path, monkeypatch):
    """A shipped table goes on elsewhere, to the byte; models of adopted runs are not made again."""
    out, grid = swept
    monkeypatch.setattr(sweeper, "_map", lambda *_: pytest.fail("nothing is left to do"))
    done = sweep(grid, tmp_path, have=[out / "results.csv"], progress=False)
    assert done.done == done.runs == 4
    assert done.table.read_bytes() == (out / "results.csv").read_bytes()


def test_a_part_of_a_table_leaves_the_rest_to_do(swept, tmp_path):
    out, grid = swept
    lines = (out / "results.csv").read_text().splitlines(keepends=True)
    table = tmp_path / "half.csv"
    table.write_text("".join(line for line in lines if ",11," not in line))
    cells = finetunings(grid, tmp_path)
    assert adopt(table, cells) == 2 and adopt(table, cells) == 0
    assert {job.cell.seed for job in cells if job.done() is not None} == {10}
    left = [job for job in sweeper._left(plan(grid, tmp_path)) if isinstance(job, FinetuneJob)]
    assert [job.cell.seed for job in left] == [11, 11]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(",80,", ",60,"), "ends at step 60 and the grid goes on to 80"),
        (
            lambda text: text.replace("env_step", "steps"),
            "no table of a sweep .its columns are",
        ),
        (
            lambda text: text.replace(",10,80,", ",ten,80,"),
            "no table of a sweep .invalid",
        ),
        (lambda text: "\0", "is no table of a sweep"),
    ],
)
def test_a_table_of_something_else_is_refused(swept, tmp_path, change, words):
    out, grid = swept
    table = tmp_path / "table.csv"
    table.write_text(change((out / "results.csv").read_text()))
    cells = finetunings(grid, tmp_path / "out")
    with pytest.raises(InputError, match=words):
        adopt(table, cells)
    assert not any(job.done() for job in cells)


def test_damaged_files_are_named(swept, tmp_path):
    _, grid = swept
    job = plan(grid, tmp_path)[0]
    job.folder.mkdir(parents=True)
    (job.folder / DONE).write_text("{")
    with pytest.raises(InputError, match=r"done\.json is damaged"):
        sweep(grid, tmp_path, progress=False)


def test_one_sweep_at_a_time(swept):
    out, grid = swept
    with locked(out), pytest.raises(Busy, match="Another process"):
        sweep(grid, out, progress=False)


def test_progress_is_counted_in_updates(swept, tmp_path):
    out, grid = swept
    assert all(job.updates_done() == job.updates for job in plan(grid, out))
    job = next(job for job in plan(grid, tmp_path) if isinstance(job, FinetuneJob))
    assert job.updates_done() == 0
    job.folder.mkdir(parents=True)
    (job.folder / "metrics.csv").write_text("step,name,value\n60,eval/return,1.0\n70,half")
    assert job.updates_done() == job.cell.config.updates_due(60) > 0


def test_jobs_start_in_order_once_their_needs_are_done(tmp_path):
    grid = read_grid(GRID, smoke=True).chosen(methods=["DreamerV2", "APV"], seeds=[10, 11])
    waiting, failed = plan(grid, tmp_path), {}
    everything = list(waiting)

    def names(jobs) -> list[str]:
        return [job.folder.relative_to(tmp_path).as_posix() for job in jobs]

    run, record = sweeper._startable(waiting, [], failed)[:2]
    assert names([run, record]) == ["runs/tabletop_reach/DreamerV2/10", "videos/push_paper"]
    waiting.remove(record)
    assert "datasets/other_task" not in names(sweeper._startable(waiting, [record], failed))
    assert "datasets/other_task" in names(sweeper._startable(waiting, [], failed))
    failed[str(record.folder)] = "the disk is full"
    left = sweeper._startable(waiting, [], failed)
    assert {cell.cell.method for cell in left if isinstance(cell, FinetuneJob)} == {"DreamerV2"}
    assert set(failed.values()) == {"the disk is full"}
    assert len(failed) + len(left) == len(everything)


def test_without_ray_the_remedy_is_told(swept, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(InputError, match="needs Ray: run `pip install"):
        sweep(swept[1], tmp_path, progress=False)


def test_folders_of_videos_are_packed_and_a_missing_one_is_named(swept, tmp_path):
    out, grid = swept
    cells = grid.chosen(methods=["APV"], seeds=[10])
    [name] = {cell.pretrain for cell in cells.cells if cell.pretrain}
    pretraining = grid.pretrainings[name]
    videos = str(out / "videos" / pretraining.videos[0] / "videos")
    own = replace(cells, pretrainings={name: replace(pretraining, videos=(videos,), stride=2)})
    jobs = [type(job).__name__ for job in plan(own, tmp_path)]
    assert jobs == ["PackJob", "PretrainJob", "FinetuneJob"]
    assert plan(own, tmp_path)[0].settings["stride"] == 2
    wrong = replace(cells, pretrainings={name: replace(pretraining, videos=("nowhere",))})
    with pytest.raises(InputError, match=r"no \[videos.nowhere\] and no folder nowhere"):
        sweep(wrong, tmp_path, progress=False)


def test_impossible_workers(swept, tmp_path):
    with pytest.raises(InputError, match="workers=0 is too small"):
        sweep(swept[1], tmp_path, workers=0)
    with pytest.raises(InputError, match=r"No Ray at 127\.0\.0\.1:1"):
        sweep(swept[1], tmp_path, address="127.0.0.1:1", progress=False)
