"""What is released: nothing too much for students, all that grading needs, the same each time."""

import ast
import filecmp
import json
import time
import zipfile
from pathlib import Path

import nbformat
import pytest
from answers import NAMES, master
from nbclient import NotebookClient

from apv_edu.classroom.grading import marks, run_autograder
from apv_edu.classroom.masters import Question, draw_assignment
from apv_edu.classroom.release import release

SEED = "what only this teacher knows"


@pytest.fixture(scope="module", params=NAMES)
def released(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release(master(request.param), SEED, tmp_path_factory.mktemp("out"), verify=False)


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def questions(folder: Path) -> tuple[Question, ...]:
    return draw_assignment(master(folder.name), SEED).questions


def squeezed(text: str) -> str:
    """Without blanks, and with one kind of quotes, so that formatting hides nothing."""
    return "".join(text.split()).replace("'", '"').replace('\\"', '"')


def telling(source: str) -> set[str]:
    """Squeezed lines that are long enough to tell something."""
    lines = (squeezed(line) for line in source.splitlines())
    return {line for line in lines if len(line) > 12 and not line.startswith("import")}


def test_students_get_neither_solutions_nor_hidden_tests(released: Path):
    student = only(released / "student")
    assert student.suffix == ".ipynb"
    cells = json.loads(student.read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    text = squeezed(student.read_text().replace("\\n", "\n"))
    for word in ("BEGIN SOLUTION", "END SOLUTION", "hidden=True", "# WRONG", "# DRAW", SEED):
        assert squeezed(word) not in text, word
    allowed, secret = [], set()
    for question in questions(released):
        allowed += [question.statement, question.given, question.solution.split("# BEGIN")[0]]
        if not question.manual:
            secret |= telling(question.solution.split("# BEGIN SOLUTION")[1])
        for test in question.tests:
            source = ast.unparse(ast.parse(test.source))  # as Otter writes it
            if test.hidden:
                secret |= telling(source)
            else:
                allowed.append(source)
    public = squeezed("".join(allowed))
    leaks = {line for line in secret if text.count(line) > public.count(line)}
    assert len(secret) > 100 and not leaks
    # The scan would see them: the solution's notebook and the full tests have them all.
    solution = squeezed(only(released / "solution").read_text().replace("\\n", "\n"))
    assert sum(line in solution for line in secret) > 20


def test_the_autograder_has_all_that_it_needs(released: Path):
    archive = zipfile.ZipFile(released / "autograder" / "autograder.zip")
    names = set(archive.namelist())
    assert {"run_autograder", "run_otter.py", "setup.sh", "environment.yml"} <= names
    assert {"files/apv_edu/classroom/grading.py", "files/assets/results/tabletop.csv"} <= names
    assert "from apv_edu.classroom.grading import grade" in archive.read("run_otter.py").decode()
    for question in questions(released):
        if not question.manual:
            source = archive.read(f"tests/{question.name}.py").decode()
            assert source.count("hidden=True") == 2 and source.count("hidden=False") == 2


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path):
    paths = ("student/stacking.ipynb", "solution/stacking.ipynb", "autograder/autograder.zip")
    folders = [
        release(master("2_stacking"), seed, tmp_path / str(number), verify=False)
        for number, seed in enumerate(("x", "x", "y"))
    ]
    for path in paths:
        assert filecmp.cmp(folders[0] / path, folders[1] / path, shallow=False), path
        assert not filecmp.cmp(folders[0] / path, folders[2] / path, shallow=False), path


@pytest.mark.long
def test_a_student_answers_in_the_notebook_and_hands_it_in(released: Path, tmp_path: Path):
    student, solution = (only(released / view) for view in ("student", "solution"))
    notebook = nbformat.read(student, as_version=4)
    work = tmp_path / student.name
    answers = {q.name: q.solution for q in questions(released) if not q.manual}
    cells = notebook.cells
    for place, cell in enumerate(cells):
        for name, answer in answers.items():
            if cell.cell_type == "code" and cell.source == f'grader.check("{name}")':
                assert "..." in cells[place - 1].source
                cells[place - 1].source = answer
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    said = [cell.outputs[-1].data["text/plain"] for cell in cells if "check(" in cell.source[:13]]
    assert len(said) == len(answers) and all("All test cases passed!" in text for text in said)
    nbformat.write(notebook, work)

    autograder = released / "autograder" / "autograder.zip"
    full = sum(q.points for q in questions(released))
    for path in (work, solution):
        start = time.monotonic()
        assert marks(run_autograder(autograder, path)) == (full, full)
        assert time.monotonic() - start < 120
    assert marks(run_autograder(autograder, student)) == (0, full)


LOOP = "while True:\n        pass"
STUBBORN = (
    "while True:\n        try:\n            while True: pass\n        except BaseException: pass"
)
FAULTS = {
    "a loop in a function": ("def novelty(a, b):\n    " + LOOP, 30, "stopped"),
    "a loop in a cell": (f"if True:\n    {LOOP}", 30, "stopped"),
    "a loop that catches all": ("def novelty(a, b):\n    " + STUBBORN, 30, ""),
    "a crash": ("import os\ndef novelty(a, b):\n    os._exit(1)", 30, "left out"),
    "the end of Python": ("def novelty(a, b):\n    raise SystemExit", 30, "left out"),
    "a wrong name": ("def novelty(a, b):\n    return c", 30, ""),
    "no Python": ("def novelty(a, b:", 30, ""),
}


@pytest.fixture(scope="module")
def bonus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release(master("3_intrinsic_bonus"), SEED, tmp_path_factory.mktemp("out"), verify=False)


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_costs_its_own_question_only(bonus: Path, tmp_path: Path, fault: str):
    answer, points, word = FAULTS[fault]
    notebook = nbformat.read(only(bonus / "solution"), as_version=4)
    (cell,) = (cell for cell in notebook.cells if cell.source.startswith("def novelty("))
    cell.source = answer
    nbformat.write(notebook, tmp_path / "submission.ipynb")
    start = time.monotonic()
    results = run_autograder(bonus / "autograder" / "autograder.zip", tmp_path / "submission.ipynb")
    assert time.monotonic() - start < 120
    assert marks(results)[0] == points, results
    assert word in results["output"]


@pytest.mark.long
def test_loops_everywhere_end_in_two_minutes(bonus: Path, tmp_path: Path):
    notebook = nbformat.read(only(bonus / "solution"), as_version=4)
    for cell in notebook.cells:
        if "# BEGIN SOLUTION" in cell.source:
            head = cell.source.splitlines()[0]
            cell.source = f"{head}\n    {LOOP}"
    nbformat.write(notebook, tmp_path / "submission.ipynb")
    start = time.monotonic()
    results = run_autograder(bonus / "autograder" / "autograder.zip", tmp_path / "submission.ipynb")
    assert time.monotonic() - start < 120
    assert marks(results) == (0, 36) and results["output"].count("stopped") == 6
