"""Instructor masters: what they hold, and how a teacher's seed turns one into an assignment.

A master is a notebook in Otter's format (raw cells ``# BEGIN QUESTION``, ``# BEGIN TESTS``, ...)
with three more kinds of cells, each known by its first line:

    # DRAW          code that draws numbers and forms with ``draw``; never released
    # FORM name     a cell that stays only if a DRAW cell chose ``FORM = "name"``
    # WRONG         code that sets ``WRONG``: plausible wrong answers, for the project's own tests

Names in capitals that a DRAW cell sets are put into the other code cells as literals; Markdown
cells take them as ``{{NAME}}``. A DRAW cell that follows the solution may call it.
"""

import ast
import copy
import pprint
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from apv_edu.errors import InputError

DRAWN = re.compile(r"[A-Z][A-Z0-9_]+")
MARKS = {"BEGIN", "END", "TEST", "CONFIG", "SOLUTION", "FORM", "WRONG"}
"""Words of the format, which stay as they are."""
PLACEHOLDER = re.compile(r"\{\{(.+?)\}\}")
DECIDED = (ast.Constant, ast.Compare, ast.cmpop, ast.UnaryOp, ast.Not, ast.BoolOp, ast.boolop)
"""What a condition is made of whose value is known without running anything."""
ATOMS = (ast.Constant, ast.Name, ast.Attribute, ast.Call, ast.Subscript, ast.Tuple, ast.List)
"""What needs no parenthesis of its own."""


class Draw(random.Random):
    """Draws for one question; the same key gives the same draws on every machine."""

    def numbers(self, *shape: int, spread: float = 1.0) -> Any:
        """Nested lists of normal numbers with two decimals."""
        if not shape:
            return round(self.gauss(0, spread), 2)
        return [self.numbers(*shape[1:], spread=spread) for _ in range(shape[0])]

    def seed_number(self) -> int:
        """A seed for a generator in a test."""
        return self.randrange(10**6)


class Code(str):
    """A drawn piece of code, put in as it stands."""

    __slots__ = ()


@dataclass(frozen=True)
class Test:
    """A test of one question, as Otter runs it."""

    source: str
    """A function whose parameters are names of the notebook."""
    points: float
    hidden: bool


@dataclass(frozen=True)
class Question:
    """A question with its numbers drawn."""

    name: str
    statement: str
    given: str
    """Code that stands before the answer in the student's notebook: imports, helpers."""
    solution: str
    """Code of the answer's cell."""
    tests: tuple[Test, ...]
    wrong: dict[str, str]
    """Plausible wrong answers: what is wrong, and the answer's cell with just that wrong."""
    manual: bool

    @property
    def points(self) -> float:
        """What the tests can give."""
        return sum(test.points for test in self.tests)


@dataclass(frozen=True)
class Assignment:
    """A master with everything drawn."""

    name: str
    seed: str
    questions: tuple[Question, ...]
    notebook: nbformat.NotebookNode
    """In Otter's format: what ``otter assign`` takes."""


def list_masters(folder: Path) -> list[Path]:
    """The masters in ``folder``, in the order of their numbers.

    Raises:
        InputError: when there are none.
    """
    found = sorted(folder.glob("*.ipynb"))
    if not found:
        raise InputError(f"There is no master in {folder}: run this in a checkout of the book.")
    return found


def draw_assignment(master: Path, seed: str) -> Assignment:
    """Draw all of a master's numbers and forms from a teacher's ``seed`` (any text).

    Raises:
        InputError: for a master whose cells do not fit together; the message names the question.
    """
    cells, questions, given = [], [], []
    for block in _blocks(nbformat.read(master, as_version=4).cells):
        if len(block) == 1:
            cells.append(_stored(block[0], block[0].source))
            if block[0].cell_type == "code":
                given.append(block[0].source)
            continue
        config = yaml.safe_load(block[0].source)
        key = f"{seed}/{master.stem}/{config['name']}"
        try:
            question, drawn = _draw_question(block, config, Draw(key), given)
        except Exception as error:
            where = f"{master}, question {config['name']}, stops with {error!r}"
            raise InputError(f"{where}: mend the cells of this question.") from error
        questions.append(question)
        cells += drawn
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.nbformat_minor = 4  # cells without random ids
    notebook.cells = cells
    return Assignment(master.stem, seed, tuple(questions), notebook)


def _blocks(cells: list[nbformat.NotebookNode]) -> Iterator[list[nbformat.NotebookNode]]:
    """Questions from BEGIN to END as one block each, every other cell as a block of its own."""
    block: list[nbformat.NotebookNode] = []
    for cell in cells:
        block.append(cell)
        begins = block[0].cell_type == "raw" and block[0].source.startswith("# BEGIN QUESTION")
        if not begins or (cell.cell_type == "raw" and cell.source.startswith("# END QUESTION")):
            yield block
            block = []
    if block:
        raise InputError(f"{block[0].source!r} has no end: add a raw cell '# END QUESTION'.")


def _draw_question(
    block: list[nbformat.NotebookNode], config: dict[str, Any], draw: Draw, given: list[str]
) -> tuple[Question, list[nbformat.NotebookNode]]:
    """The question and its cells in Otter's format; ``given`` grows by the code that it gives."""
    space: dict[str, Any] = {"draw": draw, "Code": Code}
    for source in given:
        exec(source, space)
    changes: dict[str, dict[str, str]] = {}
    kept, statement, solutions, tests = [], [], [], []
    where = ""
    for cell in block:
        head, _, rest = cell.source.partition("\n")
        if head.startswith("# FORM "):
            if head.removeprefix("# FORM ") != space["FORM"]:
                continue
            head, _, rest = (cell := _stored(cell, rest)).source.partition("\n")
        if cell.cell_type == "raw":
            begins, kind = re.match(r"# (BEGIN|END) (\w+)", head).groups()  # pyright: ignore
            where = kind if begins == "BEGIN" and kind != "QUESTION" else ""
        elif head == "# DRAW":
            exec(rest, space)
            continue
        elif head == "# WRONG":
            exec(rest, space)
            changes |= space["WRONG"]
            continue
        source = _fill(cell, space)
        kept.append(_stored(cell, source))
        if cell.cell_type == "markdown" and where != "SOLUTION":
            statement.append(source)
        elif cell.cell_type == "code" and where == "TESTS":
            tests.append(_read_test(source))
        elif cell.cell_type == "code":
            exec(source, space)
            if where == "SOLUTION":
                solutions.append((cell.source, source))
            else:
                given.append(source)
    raw, solution = ("\n".join(pair[i] for pair in solutions) for i in (0, 1))
    question = Question(
        config["name"],
        "\n\n".join(statement),
        "\n".join(given),
        solution,
        tuple(tests),
        {name: _changed(raw, change, space) for name, change in changes.items()},
        config.get("manual", False),
    )
    return question, kept


def _stored(cell: nbformat.NotebookNode, source: str) -> nbformat.NotebookNode:
    """A copy of ``cell`` with another text and no metadata but its tags."""
    stored = copy.deepcopy(cell)
    stored.pop("id", None)
    stored.source = source
    stored.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
    return stored


def _fill(cell: nbformat.NotebookNode, space: dict[str, Any]) -> str:
    if cell.cell_type == "markdown":
        return PLACEHOLDER.sub(lambda found: str(eval(found[1], space)), cell.source)
    return _literals(cell.source, space) if cell.cell_type == "code" else cell.source


def _literals(source: str, space: dict[str, Any]) -> str:
    """``source`` with every drawn name replaced by its value."""
    drawn = {name for name in space if DRAWN.fullmatch(name)} - MARKS
    if not drawn:
        return source
    names = "|".join(sorted(drawn, key=len, reverse=True))
    filled = re.sub(rf"\b({names})\b", lambda found: _literal(space[found[1]]), source)
    return filled if filled == source else _settle(filled)


def _settle(source: str) -> str:
    """``source`` without the choices ``a if True else b`` that a draw has already made."""
    code = source.encode()  # ast counts bytes
    starts = [0, *(found.end() for found in re.finditer(b"\n", code))]

    def span(node: ast.expr) -> tuple[int, int]:
        end = starts[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0)
        return starts[node.lineno - 1] + node.col_offset, end

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.IfExp) and all(isinstance(n, DECIDED) for n in ast.walk(node.test)):
            kept = node.body if eval(ast.unparse(node.test)) else node.orelse
            (start, end), (first, last) = span(node), span(kept)
            around = re.search(rb"(?<![\w\])])\($", code[:start])  # no call's parenthesis
            if around and code[end : end + 1] == b")" and isinstance(kept, ATOMS):
                start, end = start - 1, end + 1
            return _settle((code[:start] + code[first:last] + code[end:]).decode())
    return source


def _literal(value: Any) -> str:
    if isinstance(value, Code):
        return str(value)
    text = pprint.pformat(value, width=80, compact=True)
    return f"({text})" if text.startswith("-") else text


def _read_test(source: str) -> Test:
    """A test with the configuration on top of it, as ``otter assign`` reads it."""
    found = re.match(r'""" *# BEGIN TEST CONFIG\n(.*?)""" *# END TEST CONFIG\n(.*)', source, re.S)
    if found is None:
        start = source.strip().partition("\n")[0]
        raise InputError(
            f"The test {start!r} says nothing of its points: begin it with a test config."
        )
    config = yaml.safe_load(found[1])
    return Test(found[2].strip(), config["points"], config.get("hidden", False))


def _changed(solution: str, change: dict[str, str], space: dict[str, Any]) -> str:
    """The solution with some of its text replaced."""
    for old, new in change.items():
        if old not in solution:
            raise InputError(
                f"A wrong answer changes {old!r}, which the solution lacks: name a text of it."
            )
        solution = solution.replace(old, new)
    return _literals(solution, space)
