"""The guard in a real kernel, and what is made of its log."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from apv_edu.classroom.watch import read_log


def run(folder: Path, *cells: str, most: float = 60.0) -> list[dict]:
    """The outputs of the cells' ends, in a kernel with limits of two seconds and ``most``."""
    watch = f"from apv_edu.classroom.watch import watch\nwatch({str(folder / 'log')!r}, 2, {most})"
    code = [nbformat.v4.new_code_cell(source) for source in (watch, *cells)]
    notebook = nbformat.v4.new_notebook(cells=code)
    NotebookClient(notebook, allow_errors=True, timeout=60, kernel_name="python3").execute()
    return [(cell.outputs or [{}])[-1] for cell in notebook.cells[1:]]


def test_a_loop_is_stopped_and_the_notebook_goes_on(tmp_path: Path):
    loop, printed, left = run(tmp_path, "while True:\n    pass", "print(6 * 7)", "exit()")
    assert loop["ename"] == "TooLong" and "never ends" in loop["evalue"]
    assert printed["text"] == "42\n"
    assert left["ename"] == "RuntimeError" and "exit()" in left["evalue"]
    events = [(event["kind"], event["source"][:5]) for event in read_log(tmp_path / "log")]
    assert events[1:5] == [
        ("start", "while"),
        ("stopped", "while"),
        ("end", "while"),
        ("start", "print"),
    ]


def test_what_cannot_be_interrupted_ends(tmp_path: Path):
    stubborn = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    deaf = "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\n" + stubborn
    with pytest.raises(DeadKernelError):
        run(tmp_path, deaf, "print(1)", most=5)
    last = read_log(tmp_path / "log")[-1]
    assert last["kind"] == "start" and last["source"] == deaf


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path):
    event = {"kind": "start", "source": "x", "error": ""}
    (tmp_path / "log").write_text(json.dumps(event) + '\n{"kind": "e')
    assert read_log(tmp_path / "log") == [event]
    assert read_log(tmp_path / "none") == []
