"""Whom a crash is put down to, and hopeless submissions."""

import json
from pathlib import Path

import nbformat
import pytest

from apv_edu.classroom import grading
from apv_edu.classroom.watch import Event
from apv_edu.errors import InputError

CELLS = ["import numpy", "def f(): ...", 'grader.check("q1")', "def g(): ...", 'grader.check("q2")']


def notebook() -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])


def event(kind, source: str, error: str = "") -> Event:
    return Event(kind=kind, source=source, error=error)


@pytest.mark.parametrize(
    ("events", "left_out", "culprit"),
    [
        ([], [], None),
        ([event("start", CELLS[1])], [], 1),
        ([event("start", CELLS[4])], [], 3),
        ([event("start", CELLS[4]), event("stopped", CELLS[4])], [3], 1),
        ([event("start", "# Otter's own")], [], None),
        ([event("end", CELLS[2], "SystemExit()"), event("end", "# Otter's own")], [], 1),
    ],
)
def test_the_culprit(events: list[Event], left_out: list[int], culprit: int | None):
    assert grading._culprit(notebook(), events, left_out) == culprit


def folder_with(tmp_path: Path, *contents: str) -> Path:
    for name in ("submission", "results", "source"):
        (tmp_path / name).mkdir()
    for number, content in enumerate(contents):
        (tmp_path / "submission" / f"{number}.ipynb").write_text(content)
    return tmp_path


@pytest.mark.parametrize(
    ("contents", "words"),
    [((), "0 notebooks: hand in one"), (("{}", "{}"), "2 notebooks"), (("{half",), "no notebook")],
)
def test_what_is_no_submission_gets_a_mark_and_a_message(tmp_path, contents, words):
    results = grading.grade(folder_with(tmp_path, *contents))
    assert results["score"] == 0 and words in results["output"]
    assert json.loads((tmp_path / "results" / "results.json").read_text()) == results


def test_without_time_there_is_a_mark_and_a_message(tmp_path: Path):
    folder = folder_with(tmp_path, nbformat.writes(notebook()))
    results = grading.grade(folder, budget=0)
    assert results["score"] == 0 and "ran longer than 0 seconds" in results["output"]


def test_a_missing_autograder_is_named(tmp_path: Path, capsys, monkeypatch):
    with pytest.raises(InputError, match=r"Cannot grade .*autograder\.zip"):
        grading.run_autograder(tmp_path / "none.zip", tmp_path / "none.ipynb")
    monkeypatch.setattr("sys.argv", ["grading", str(tmp_path / "a.zip"), str(tmp_path / "b.ipynb")])
    assert grading.main() == 2 and "Cannot grade" in capsys.readouterr().err
