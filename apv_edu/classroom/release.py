"""Release assignments: draw each master by a teacher's seed and let Otter take it apart.

    python -m apv_edu.classroom.release --seed "my course, spring" --out _build/assignments

Under ``--out``, a folder for each assignment:

    student/NAME.ipynb         without solutions and hidden tests; one file, for Colab and locally
    autograder/autograder.zip  for Gradescope, or for ``python -m apv_edu.classroom.grading``
    solution/NAME.ipynb        with the solutions
"""

import argparse
import contextlib
import importlib.util
import io
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import nbformat

from apv_edu.classroom import grading
from apv_edu.classroom.masters import Assignment, draw_assignment, list_masters
from apv_edu.errors import InputError
from apv_edu.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
MASTERS = ROOT / "notebooks" / "assignments"
OTTER = "7.0.0"
"""The version that a student's notebook installs and the autograder runs."""
CONFIG = """
init_cell: false
export_cell: false
show_question_points: true
tests: {files: true, ok_format: false}
python_version: "3.12"
environment: environment.yml
autograder_files: [apv_edu, assets, pyproject.toml]
"""
ENVIRONMENT = """\
channels: [conda-forge]
dependencies: [numpy>=2, scipy, matplotlib-base, pytorch-cpu>=2.6, einops, jaxtyping, safetensors]
"""
SETUP = """\
# @title Set-up: run this cell first. In Colab it installs what is missing.
import importlib.util
from pathlib import Path

if importlib.util.find_spec("apv_edu") is None:
    %pip install -q einops jaxtyping safetensors
    %pip install -q --no-deps "apv_edu @ git+{repository}"
if importlib.util.find_spec("otter") is None:
    %pip install -q otter-grader=={otter}

import otter

CHECKS = {{  # what the cells below check, a file for each question
{checks}}}
folder = Path("checks_{name}")
folder.mkdir(exist_ok=True)
for question, source in CHECKS.items():
    (folder / f"{{question}}.py").write_text(source)
grader = otter.Notebook(tests_dir=str(folder))
"""
HAND_IN = """\
## Hand in

Restart the kernel, run all cells, save, and hand in this one file.
(In Colab: *File*, *Download*, *Download .ipynb*.)
"""
RUN = '''\
"""Grades the submission, with a guard against code that hangs or crashes."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "files"))

from apv_edu.classroom.grading import grade  # noqa: E402

grade(HERE.parent)
'''


def release(master: Path, seed: str, out: Path, verify: bool = True) -> Path:
    """Release one master under ``out``; returns its folder.

    To ``verify``, the solution is graded with the very file that is released, and must get full
    marks.

    Raises:
        InputError: for a faulty master, without Otter, or if the solution loses a mark.
    """
    if importlib.util.find_spec("otter") is None:
        raise InputError("Releasing needs Otter: `pip install apv_edu[classroom]`.")
    assignment = draw_assignment(master, seed)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch, "work")
        made = _assign(assignment, work)
        name = re.sub(r"^\d+_", "", assignment.name)
        done = Path(scratch, "done")
        for view, source in (("student", "student"), ("solution", "autograder")):
            notebook = nbformat.read(made / source / f"{name}.ipynb", as_version=4)
            _set_up(notebook, name, made / "student" / "tests")
            text = nbformat.writes(notebook) + "\n"
            write_atomically(done / view / f"{name}.ipynb", text.encode())
        archive = next((made / "autograder").glob("*.zip"))
        write_atomically(done / "autograder" / "autograder.zip", _repacked(archive))
        if verify:
            _verify(assignment, done, name)
        target = out / assignment.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(done, target)
    return target


def _assign(assignment: Assignment, work: Path) -> Path:
    """Run ``otter assign`` in ``work``; the folder with its views."""
    from otter.assign import main as otter_assign

    work.mkdir(parents=True)
    name = re.sub(r"^\d+_", "", assignment.name)
    config = next(
        cell for cell in assignment.notebook.cells if cell.source.startswith("# ASSIGNMENT CONFIG")
    )
    config.source += CONFIG
    nbformat.write(assignment.notebook, work / f"{name}.ipynb")
    (work / "environment.yml").write_text(ENVIRONMENT)
    sources = shutil.ignore_patterns("__pycache__", "bench", "*.html", "*.js", "*.css")
    shutil.copytree(ROOT / "apv_edu", work / "apv_edu", ignore=sources)
    shutil.copy(ROOT / "pyproject.toml", work)
    shutil.copytree(ROOT / "assets" / "results", work / "assets" / "results")
    made = work / "made"
    made.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        otter_assign(str(work / f"{name}.ipynb"), str(made), no_pdfs=True, no_run_tests=True)
    return made


def _set_up(notebook: nbformat.NotebookNode, name: str, tests: Path) -> None:
    """Put the set-up with the visible tests behind the title."""
    checks = ""
    for path in sorted(tests.glob("*.py")):
        checks += f"    {path.stem!r}: r'''{path.read_text()}''',\n"
    repository = _repository()
    source = SETUP.format(repository=repository, otter=OTTER, checks=checks, name=name)
    cell = nbformat.v4.new_code_cell(source.rstrip())
    cell.pop("id", None)
    cell.metadata = {"jupyter": {"source_hidden": True}, "cellView": "form"}
    first = next(i for i, c in enumerate(notebook.cells) if c.cell_type == "code")
    notebook.cells.insert(first, cell)
    last = nbformat.v4.new_markdown_cell(HAND_IN.rstrip())
    last.pop("id", None)
    notebook.cells.append(last)


def _repository() -> str:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    return re.search(r'Repository = "(.+)"', text)[1]  # pyright: ignore


def _repacked(archive: Path) -> bytes:
    """The autograder with our guard around Otter, and the same bytes for the same content."""
    data = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as new:
        for name in sorted(old.namelist()):
            content = RUN.encode() if name == "run_otter.py" else old.read(name)
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            new.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return data.getvalue()


def _verify(assignment: Assignment, done: Path, name: str) -> None:
    """The solution gets full marks from the autograder."""
    results = grading.run_autograder(
        done / "autograder" / "autograder.zip", done / "solution" / f"{name}.ipynb"
    )
    wanted = sum(question.points for question in assignment.questions)
    if grading.marks(results) != (wanted, wanted):
        raise InputError(
            f"The solution of {assignment.name} gets {grading.marks(results)[0]:g} of {wanted:g} "
            f"points with seed {assignment.seed!r}, so it was not released: {results['output']} "
            "Choose another seed, and tell us."
        )


def main() -> int:
    """Release all masters, or those named."""
    parser = argparse.ArgumentParser(description="Release the assignments for one course.")
    parser.add_argument("--seed", default="0", help="any text; keep it to yourself")
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "assignments")
    parser.add_argument("--masters", type=Path, default=MASTERS, help="folder of the masters")
    arguments = parser.parse_args()
    if arguments.seed == "0":
        print('Seed 0 is everybody\'s: for a class, choose SEED="a sentence of your own".')
    try:
        for master in list_masters(arguments.masters):
            print(f"{release(master, arguments.seed, arguments.out)}", flush=True)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
