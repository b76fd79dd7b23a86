"""Run times: what one build measured, beside what other builds had recorded."""

from dataclasses import replace

import run_times

RUN = run_times.Run(
    name="01_small",
    title="A small chapter",
    preset="laptop",
    seed=0,
    seconds=75.2,
    cpu_seconds=60.0,
    cores=2,
    command="",
    versions={"python": "3.11.2", "torch": "2.9"},
)


def test_a_record_replaces_only_its_own_preset(tmp_path):
    (tmp_path / "book").mkdir()
    assert run_times.read(tmp_path) == []
    run_times.record(tmp_path, [replace(RUN, preset="smoke", seconds=9)])
    run_times.record(tmp_path, [RUN])
    run_times.record(tmp_path, [replace(RUN, seconds=50)])
    rows = run_times.read(tmp_path)
    assert [(row["preset"], float(row["seconds"])) for row in rows] == [
        ("smoke", 9),
        ("laptop", 50),
    ]
    assert rows[0]["torch"] == "2.9" and rows[0]["cores"] == "2"


def test_the_page_shows_its_own_time_and_the_others(tmp_path):
    (tmp_path / "book").mkdir()
    run_times.record(tmp_path, [replace(RUN, preset="smoke", seconds=9), RUN])
    rows = run_times.read(tmp_path)
    now = replace(RUN, seconds=80)
    assert run_times.label(now, rows) == (
        "*This page ran in 1 min 20 s at the preset `laptop` on 2 cores. "
        "Measured before: 9 s at `smoke`.*"
    )
    table = run_times.table([now, replace(now, name="02_new", title="New")], rows)
    small, new = [line for line in table.splitlines() if line.startswith("| [")]
    assert small.endswith("| 9 s | **1 min 20 s** | – |")
    assert new.endswith("| – | **1 min 20 s** | – |")
    assert "A dash: not measured." in table and "on 2 cores" in table


def test_a_preset_without_a_column_gets_one_once_it_is_measured(tmp_path):
    (tmp_path / "book").mkdir()
    assert "`paper`" not in run_times.table([RUN], [])
    run_times.record(tmp_path, [replace(RUN, preset="paper", seconds=9), RUN])
    assert [row["preset"] for row in run_times.read(tmp_path)] == ["laptop", "paper"]
    table = run_times.table([RUN], run_times.read(tmp_path))
    assert "| `colab` | `paper` |" in table and "| – | **1 min 15 s** | – | 9 s |" in table


def test_a_book_without_chapters():
    assert "no chapters" in run_times.table([], [])
