"""Every question, drawn with several seeds: right answers are right, and wrong ones cost marks."""

import re
from pathlib import Path

import nbformat
import pytest
from answers import NAMES, master, score

from apv_edu.classroom import masters
from apv_edu.classroom.masters import Code, Draw, draw_assignment, list_masters
from apv_edu.errors import InputError

SEEDS = ["spring", "autumn", "7"]


def test_there_are_four():
    assert [name[2:] for name in NAMES] == [
        "latent_video_model",
        "stacking",
        "intrinsic_bonus",
        "fine_tuning_study",
    ]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_the_solution_gets_all_and_a_wrong_answer_at_most_half(name: str, seed: str):
    assignment = draw_assignment(master(name), seed)
    graded = [question for question in assignment.questions if not question.manual]
    assert 4 <= len(graded) <= 6
    for question in graded:
        points, complaints = score(question, question.solution)
        assert points == question.points, (question.name, complaints)
        assert len(question.wrong) >= 5
        for wrong, answer in question.wrong.items():
            assert score(question, answer)[0] <= question.points / 2, (question.name, wrong)
        unanswered = question.solution.split("# BEGIN SOLUTION")[0] + "..."
        assert score(question, unanswered)[0] == 0, question.name


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_same_with_many_seeds(name: str):
    for seed in range(30):
        test_the_solution_gets_all_and_a_wrong_answer_at_most_half(name, f"many {seed}")


@pytest.mark.parametrize("name", NAMES)
def test_questions_read_well(name: str):
    for question in draw_assignment(master(name), "spring").questions:
        assert question.statement.startswith("## Question")
        assert "{{" not in question.statement and "}}" not in question.statement
        if question.manual:
            continue
        body = question.solution.split("# BEGIN SOLUTION\n")[1].split("# END SOLUTION")[0]
        assert 2 <= len([line for line in body.splitlines() if line.strip()]) <= 10, question.name
        for test in question.tests:
            assert test.hidden or not re.search(r"\bif (not )?(True|False|')", test.source)
        seen = sum(test.points for test in question.tests if not test.hidden)
        hidden = [test.points for test in question.tests if test.hidden]
        assert 0 < seen <= question.points / 3
        assert max(hidden) >= question.points / 2 and len(hidden) >= 2


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        ("y = f(x if True else x.T, 1)", "y = f(x, 1)"),
        ("y = f(x if False else x.T)", "y = f(x.T)"),
        ("y = z[0 if not True else 1]", "y = z[1]"),
        ("'é', 2 * (1 if 'a' == 'b' else 1 - 0.1)", "'é', 2 * (1 - 0.1)"),
        ("y == ((1, 3) if True else (3, 1))", "y == (1, 3)"),
        ("y = (a if True else (b if False else c)) + 1", "y = a + 1"),
        ("y = (a if False else (b if False else c)) + 1", "y = c + 1"),
        ("y = a if True in b else c", "y = a if True in b else c"),
        ("y = (\n    a\n    if True\n    else b\n)", "y = (\n    a\n)"),
    ],
)
def test_a_choice_that_is_made_is_not_shown(code: str, kept: str):
    assert masters._settle(code) == kept


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name: str):
    first, again, other = (draw_assignment(master(name), s) for s in ("a", "a", "b"))
    assert nbformat.writes(first.notebook) == nbformat.writes(again.notebook)
    assert first.questions == again.questions
    for one, two in zip(first.questions, other.questions, strict=True):
        hidden = [
            [test.source for test in question.tests if test.hidden] for question in (one, two)
        ]
        assert one.manual or hidden[0] != hidden[1], one.name
    many = [draw_assignment(master(name), str(seed)).questions for seed in range(16)]
    for question in zip(*many, strict=True):
        assert len({each.statement for each in question}) >= 3, question[0].name


def test_draws_are_the_same_everywhere():
    draw = Draw("a key")
    assert draw.numbers(2, 2) == Draw("a key").numbers(2, 2)
    assert [Draw("a key").choice("abcdefgh"), Draw("a key").seed_number()] == ["h", 601390]


def small_master(path: Path, *cells: tuple[str, str]) -> Path:
    make = {
        "raw": nbformat.v4.new_raw_cell,
        "code": nbformat.v4.new_code_cell,
        "markdown": nbformat.v4.new_markdown_cell,
    }
    notebook = nbformat.v4.new_notebook(cells=[make[kind](text) for kind, text in cells])
    nbformat.write(notebook, path)
    return path


BEGIN, END = ("raw", "# BEGIN QUESTION\nname: q1"), ("raw", "# END QUESTION")
SOLUTION = [
    ("raw", "# BEGIN SOLUTION"),
    ("code", "def f(x):\n    return x + NUMBER"),
    ("raw", "# END SOLUTION"),
]


def test_names_become_literals_and_forms_are_chosen(tmp_path: Path):
    path = small_master(
        tmp_path / "m.ipynb",
        BEGIN,
        ("code", '# DRAW\nNUMBER = -2\nWORD = Code("x")\nFORM = "one"'),
        ("markdown", "# FORM two\nNot this."),
        ("markdown", "# FORM one\nAdd {{NUMBER}}, not NUMBER."),
        *SOLUTION,
        ("code", "# DRAW\nFOUND = f(1)"),
        ("raw", "# BEGIN TESTS"),
        (
            "code",
            '""" # BEGIN TEST CONFIG\npoints: 2\nhidden: true\n""" # END TEST CONFIG\n'
            "def test_it(f):\n    assert f(1) == FOUND",
        ),
        ("raw", "# END TESTS"),
        ("code", '# WRONG\nWRONG = {"minus": {"x +": "WORD -"}}'),
        END,
    )
    question = draw_assignment(path, "a").questions[0]
    assert question.statement == "Add -2, not NUMBER."
    assert question.solution == "def f(x):\n    return x + (-2)"
    assert question.wrong == {"minus": "def f(x):\n    return x - (-2)"}
    assert score(question, question.solution)[0] == 2
    assert score(question, question.wrong["minus"])[0] == 0
    assert "assert f(1) == (-1)" in question.tests[0].source and question.tests[0].hidden


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ([BEGIN], "has no end"),
        ([BEGIN, ("code", "# DRAW\n1 / 0"), END], r"question q1, stops with ZeroDivisionError"),
        ([BEGIN, ("markdown", "{{MISSING}}"), END], r"question q1, stops with NameError"),
        (
            [
                BEGIN,
                ("code", "# DRAW\nNUMBER = 1"),
                *SOLUTION,
                ("code", '# WRONG\nWRONG = {"it": {"nowhere": ""}}'),
                END,
            ],
            r"question q1, .*changes 'nowhere'",
        ),
        (
            [BEGIN, ("raw", "# BEGIN TESTS"), ("code", "def test_it(f): ..."), END],
            r"question q1, .*says nothing of its points",
        ),
    ],
)
def test_a_faulty_master_is_named(tmp_path: Path, cells: list[tuple[str, str]], words: str):
    with pytest.raises(InputError, match=words):
        draw_assignment(small_master(tmp_path / "m.ipynb", *cells), "a")


def test_no_masters_at_all(tmp_path: Path):
    with pytest.raises(InputError, match="There is no master in"):
        list_masters(tmp_path)


def test_code_is_put_in_as_it_stands():
    assert str(Code("a[:, 1]")) == "a[:, 1]"
