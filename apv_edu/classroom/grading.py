"""Grade submissions so that each gets a mark and a message, whatever its code does.

Otter runs a notebook from its first cell to its last. A loop without an end would hold it up for
ever, and a crash would leave no mark at all. Here cells are stopped in time; a cell that takes
the process with it is replaced by an error, and the notebook runs again, so that the other
questions keep their marks.

    python -m apv_edu.classroom.grading autograder.zip submission.ipynb [more ...] --out marks
"""

import argparse
import contextlib
import copy
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import nbformat

from apv_edu.classroom.watch import Event, read_log
from apv_edu.errors import InputError
from apv_edu.files import write_atomically

BUDGET = 110.0
"""Seconds for one submission."""
LIMITS = ((6.0, 12.0), (3.0, 6.0))
"""Seconds of a cell until it is interrupted, and until its process ends: at first, then again."""
CHECK = re.compile(r"\s*grader\.check\(")
OTTER = "import sys; from otter.run.run_autograder import main; main(sys.argv[1])"
NOTICE = "This cell was left out: it ended the Python process, or could not be stopped."


def grade(folder: Path, budget: float = BUDGET) -> dict[str, Any]:
    """Grade the notebook in ``folder/submission`` and write ``folder/results/results.json``.

    ``folder`` is laid out as Gradescope's ``/autograder``: ``source`` is the unpacked autograder.
    The results are Otter's, in Gradescope's format, with a word on cells that were stopped.
    """
    end = time.monotonic() + budget
    result, log = folder / "results" / "results.json", folder / "events.jsonl"
    result.unlink(missing_ok=True)
    notebooks = sorted((folder / "submission").glob("*.ipynb"))
    if len(notebooks) != 1:
        return _write(result, _failed(f"There are {len(notebooks)} notebooks: hand in one."))
    try:
        original = nbformat.read(notebooks[0], as_version=4)
    except Exception as error:
        return _write(result, _failed(f"{notebooks[0].name} is no notebook: {error!r}."))
    left_out: list[int] = []
    stopped: set[str] = set()
    found = None
    while found is None and time.monotonic() < end:
        log.unlink(missing_ok=True)
        seconds, most = LIMITS[bool(left_out)]
        nbformat.write(_guarded(original, left_out, log, seconds, most), notebooks[0])
        words = _run_otter(folder, end - time.monotonic())
        events = read_log(log)
        stopped |= {event["source"] for event in events if event["kind"] == "stopped"}
        found = _read(result)
        if found is None:
            culprit = _culprit(original, events, left_out)
            if culprit is None:
                last = words.strip().splitlines()[-1:] or ["it ran out of time"]
                found = _failed(f"The notebook could not be graded: {last[0]}.")
            else:
                left_out.append(culprit)
    nbformat.write(original, notebooks[0])
    if found is None:
        found = _failed(f"The notebook ran longer than {budget:g} seconds.")
    notes = [_note("stopped, since it ran too long", source) for source in sorted(stopped)]
    notes += [
        _note("left out, since it ended Python or could not be stopped", original.cells[i].source)
        for i in left_out
    ]
    found["output"] = "\n".join([*filter(None, [found.get("output")]), *notes])
    return _write(result, found)


def run_autograder(autograder: Path, submission: Path) -> dict[str, Any]:
    """Grade as Gradescope would: unpack the released file and run what it says.

    Raises:
        InputError: when a file is missing or the autograder is no zip file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        for name in ("source", "submission", "results"):
            (folder / name).mkdir()
        (folder / "submission_metadata.json").write_text("{}")
        try:
            with zipfile.ZipFile(autograder) as archive:
                archive.extractall(folder / "source")
            (folder / "submission" / submission.name).write_bytes(submission.read_bytes())
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(
                f"Cannot grade {submission} with {autograder} ({error}): name the autograder.zip "
                "of `make assignments` and a notebook."
            ) from error
        subprocess.run([sys.executable, str(folder / "source" / "run_otter.py")], check=True)
        return json.loads((folder / "results" / "results.json").read_text())


def marks(results: dict[str, Any]) -> tuple[float, float]:
    """Points reached and points possible, of the questions that are graded by tests."""
    scored = [test for test in results["tests"] if "max_score" in test]
    return sum(test["score"] for test in scored), sum(test["max_score"] for test in scored)


def _guarded(
    original: nbformat.NotebookNode, left_out: list[int], log: Path, seconds: float, most: float
) -> nbformat.NotebookNode:
    notebook = copy.deepcopy(original)
    for i in left_out:
        notebook.cells[i].source = f"raise RuntimeError({NOTICE!r})"
    call = f"watch({str(log)!r}, {seconds}, {most})"
    guard = nbformat.v4.new_code_cell(f"from apv_edu.classroom.watch import watch\n{call}")
    if notebook.nbformat_minor < 5:
        guard.pop("id", None)
    notebook.cells.insert(0, guard)
    return notebook


def _run_otter(folder: Path, seconds: float) -> str:
    """Let Otter grade once; what it said."""
    paths = [str(folder / "source" / "files"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", OTTER, str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=max(seconds, 1))[0]
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]


def _read(path: Path) -> dict[str, Any] | None:
    """Otter's results, or None where it made none."""
    if not path.exists():
        return None
    results = json.loads(path.read_text())
    path.unlink()
    names = {test["name"] for test in results["tests"]}
    return None if names & {"Autograder Failed", "Autograder Error"} else results


def _culprit(
    notebook: nbformat.NotebookNode, events: list[Event], left_out: list[int]
) -> int | None:
    """The cell that ran last, if it is the student's, else the first check that raised an error.

    Of a check, it is the answer before it.
    """
    cells = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    places = {notebook.cells[i].source: i for i in reversed(cells)}
    suspects = [event for event in events if event["error"] and CHECK.match(event["source"])]
    sources = [event["source"] for event in [*events[-1:], *suspects]]
    at = next((places[source] for source in sources if source in places), None)
    while at is not None and (at in left_out or CHECK.match(notebook.cells[at].source)):
        at = max((i for i in cells if i < at), default=None)
    return at


def _note(what: str, source: str) -> str:
    first = source.strip().splitlines()[0] if source.strip() else ""
    return f"A cell was {what}: {first[:80]}"


def _failed(message: str) -> dict[str, Any]:
    return {"score": 0, "output": message, "tests": []}


def _write(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    write_atomically(path, (json.dumps(results, indent=2) + "\n").encode())
    return results


def main() -> int:
    """Grade notebooks on the command line: a line for each, and its results as JSON."""
    parser = argparse.ArgumentParser(description="Grade submissions with a released autograder.")
    parser.add_argument("autograder", type=Path, help="the autograder.zip")
    parser.add_argument("submissions", type=Path, nargs="+", help="notebooks")
    parser.add_argument("--out", type=Path, help="a folder for one JSON file per notebook")
    arguments = parser.parse_args()
    try:
        for submission in arguments.submissions:
            results = run_autograder(arguments.autograder, submission)
            reached, possible = marks(results)
            of = f" of {possible:g}" if possible else ""
            print(f"{submission.name}: {reached:g}{of} points", flush=True)
            for line in results["output"].splitlines():
                print(f"  {line}")
            if arguments.out:
                _write(arguments.out / f"{submission.stem}.json", results)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
