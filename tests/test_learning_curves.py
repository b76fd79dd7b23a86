"""One tidy table of many runs."""

from pathlib import Path

import pytest
from finetune_runs import quick, run

from apv_edu import checkpoint
from apv_edu.cli import main
from apv_edu.errors import InputError
from apv_edu.learning_curves import read_points, read_run, write_points
from apv_edu.logger import read_csv


def test_a_run_as_points(whole: Path):
    points = read_run(whole)
    rows = read_csv(whole / "metrics.csv")
    kept = [row for row in rows if row[1].startswith(("random/", "eval/", "episode/"))]
    assert [(p.step, p.name) for p in points] == [row[:2] for row in kept]
    assert [p.value for p in points] == pytest.approx([row[2] for row in kept], rel=1e-5)
    assert {(p.task, p.variant, p.seed) for p in points} == {("tabletop:reach", "dreamer", 5)}
    clock = {step: value for step, name, value in rows if name == "time/cpu_seconds"}
    assert points[0].cpu_seconds == 0  # the random policy, before anything was learned
    assert points[-1].cpu_seconds == round(clock[points[-1].step], 1) > 0
    assert points == sorted(points, key=lambda point: point.cpu_seconds)


def test_a_run_that_is_not_finished_counts_too(tmp_path: Path):
    run(tmp_path, quick("dreamer", steps=10))
    (tmp_path / "agent.safetensors").unlink()
    assert max(point.step for point in read_run(tmp_path)) == 10


def test_the_command_gathers_and_the_table_reads_back(whole: Path, tmp_path: Path, capsys):
    table = tmp_path / "table.csv"
    assert main(["curves", str(whole), str(whole), "--out", str(table)]) == 0
    points = read_run(whole)
    assert read_points(table) == points + points
    assert "of 2 runs" in capsys.readouterr().out
    assert table.read_text().startswith("task,variant,seed,step,cpu_seconds,name,value\n")
    write_points(table, points)
    assert read_points(table) == points


def test_what_is_no_run_or_no_table_is_named(tmp_path: Path, whole: Path):
    with pytest.raises(InputError, match="holds no fine-tuning run"):
        read_run(tmp_path)
    checkpoint.save(tmp_path / "checkpoint.safetensors", {}, {"kind": "pretraining"})
    with pytest.raises(InputError, match=r"checkpoint\.safetensors is of no fine-tuning run"):
        read_run(tmp_path)
    for path in (tmp_path / "missing.csv", whole / "metrics.csv"):
        with pytest.raises(InputError, match=rf"{path.name} is no table of learning curves"):
            read_points(path)
