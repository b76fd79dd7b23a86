"""The masters, drawn, and a way to score an answer as Otter does."""

import traceback
from pathlib import Path
from typing import Any

from apv_edu.classroom.masters import Question
from apv_edu.classroom.release import MASTERS

NAMES = [path.stem for path in sorted(MASTERS.glob("*.ipynb"))]


def master(name: str) -> Path:
    return MASTERS / f"{name}.ipynb"


def score(question: Question, answer: str) -> tuple[float, list[str]]:
    """Points of an answer's cell, and what the tests said that failed."""
    from otter.test_files.exception_test import test_case

    space: dict[str, Any] = {}
    exec(question.given, space)
    try:
        exec(answer, space)
    except Exception:
        return 0, [traceback.format_exc()]
    points, complaints = 0.0, []
    for test in question.tests:
        defined: dict[str, Any] = {}
        exec(test.source, defined)
        function = next(value for name, value in defined.items() if name.startswith("test_"))
        try:
            test_case(points=test.points, hidden=test.hidden)(function).call_func(space)
            points += test.points
        except Exception as error:
            complaints.append(f"{function.__name__}: {error!r}")
    return points, complaints
