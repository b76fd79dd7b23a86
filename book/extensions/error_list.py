"""The errors of the package, read from its source: the directive ``{errors}`` lists a module's.

A message is a template: what the code fills in is written as a placeholder. The house rule puts the
remedy behind the last colon. So the page and the package cannot drift apart: a new error appears
here by itself, and :func:`faults` names whatever breaks the rule or is left out of the page.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

ERRORS = ("InputError", "Busy")
PLACEHOLDER = re.compile(r"‹([^›]*)›")
FENCE = re.compile(r"^```\{errors\} (.+)$", re.MULTILINE)
"""How a page lists modules: names below the package, separated by spaces."""


@dataclass(frozen=True)
class Entry:
    """One message that the package can raise."""

    module: str
    """Below the package: ``data.video``."""
    line: int
    problem: str
    """With placeholders: ``There is no checkpoint ‹path›``."""
    remedy: str

    @property
    def passes_on(self) -> bool:
        """Whether the words are those of another error, which has an entry of its own."""
        return not re.search(r"\w", PLACEHOLDER.sub("", f"{self.problem}{self.remedy}"))


def collect(package: Path) -> list[Entry]:
    """The messages of all modules under ``package``, in the order of files and lines."""
    trees = {}
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        trees[name.removesuffix(".__init__")] = ast.parse(path.read_text("utf-8"))
    texts = {module: _texts(tree) for module, tree in trees.items()}
    entries = []
    for module, tree in trees.items():
        helpers = {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef)}
        scope = _imported(tree, package.name, texts) | texts[module]
        for call, function in _calls(tree):
            messages = _templates(call.args[0], scope | _texts(function), helpers, {})
            for message in dict.fromkeys(message for message, _ in messages):
                entries.append(Entry(module, call.lineno, *split_message(message)))
    return entries


def split_message(message: str) -> tuple[str, str]:
    """What is wrong and what helps: the parts before and after the last colon outside brackets."""
    depth, at = 0, None
    for i, letter in enumerate(message):
        depth += (letter in "([{‹") - (letter in ")]}›")
        if depth == 0 and message[i : i + 2] == ": ":
            at = i
    return (message, "") if at is None else (message[:at], message[at + 2 :])


def faults(entries: list[Entry], page: str) -> list[str]:
    """Errors without a remedy, and modules that the page and the package do not share."""
    own = [entry for entry in entries if not entry.passes_on]
    found = [
        f"apv_edu.{one.module}, line {one.line}: {one.problem!r} has no remedy behind a colon."
        for one in own
        if len(one.remedy.split()) < 2
    ]
    listed = [name for names in FENCE.findall(page) for name in names.split()]
    raising = {entry.module for entry in own}
    found += [
        f"apv_edu.{name} raises errors that the page leaves out." for name in raising - {*listed}
    ]
    found += [f"The page lists {name}, which raises nothing." for name in {*listed} - raising]
    found += [f"The page lists {name} twice." for name in {*listed} if listed.count(name) > 1]
    return sorted(found)


def _calls(tree: ast.Module) -> Iterator[tuple[ast.Call, ast.AST]]:
    """Each ``InputError(...)`` with the function around it."""

    def walk(node: ast.AST, function: ast.AST) -> Iterator[tuple[ast.Call, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            called = child.func if isinstance(child, ast.Call) else None
            if isinstance(called, ast.Name) and called.id in ERRORS:
                assert isinstance(child, ast.Call)
                yield child, function
            yield from walk(child, child if isinstance(child, ast.FunctionDef) else function)

    yield from walk(tree, tree)


def _texts(body: ast.AST) -> dict[str, ast.expr]:
    """Names that stand for one text, or for one of a few: bound once, to nothing else."""
    inside = body.body if isinstance(body, ast.Module) else [*ast.walk(body)]
    assigned = [one for one in inside if isinstance(one, ast.Assign)]
    values = {
        one.targets[0].id: one.value for one in assigned if isinstance(one.targets[0], ast.Name)
    }
    bound = [
        one.id for one in inside if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)
    ]
    bound += [one.arg for one in inside if isinstance(one, ast.arg)]
    return {
        name: value
        for name, value in values.items()
        if _is_text(value) and (isinstance(body, ast.Module) or bound.count(name) == 1)
    }


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) and _is_text(node.orelse)
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _imported(
    tree: ast.Module, package: str, texts: dict[str, dict[str, ast.expr]]
) -> dict[str, ast.expr]:
    """Constant texts that a module imports from others of the package."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            there = texts.get(node.module.removeprefix(f"{package}."), {})
            found |= {one.name: there[one.name] for one in node.names if one.name in there}
    return found


Assumed = dict[str, bool]
"""How the conditions in a message were decided, so that one is not decided both ways at once."""


def _templates(
    node: ast.expr, scope: dict[str, ast.expr], helpers: dict[str, Any], assumed: Assumed
) -> list[tuple[str, Assumed]]:
    """The texts that an expression can have; whatever is unknown becomes a placeholder."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [(node.value, assumed)]
    if isinstance(node, ast.JoinedStr):
        texts = [("", assumed)]
        for part in node.values:
            inner = part.value if isinstance(part, ast.FormattedValue) else part
            texts = [
                (text + more, then)
                for text, so_far in texts
                for more, then in _templates(inner, scope, helpers, so_far)
            ]
        return texts
    if isinstance(node, ast.IfExp) and _is_text(node):
        test = ast.dump(node.test)
        return [
            pair
            for truth, branch in ((True, node.body), (False, node.orelse))
            if assumed.get(test, truth) == truth
            for pair in _templates(branch, scope, helpers, assumed | {test: truth})
        ]
    if isinstance(node, ast.Name) and node.id in scope:
        return _templates(scope[node.id], _without(scope, node.id), helpers, assumed)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in helpers:
        helper = helpers[node.func.id]
        returned = [one.value for one in ast.walk(helper) if isinstance(one, ast.Return)]
        given = dict(zip((one.arg for one in helper.args.args), node.args, strict=False))
        if len(returned) == 1 and returned[0] and _is_text(returned[0]):
            return _templates(returned[0], scope | _texts(helper) | given, {}, assumed)
    return [(f"‹{_name(node)}›", assumed)]


def _without(scope: dict[str, ast.expr], name: str) -> dict[str, ast.expr]:
    return {key: value for key, value in scope.items() if key != name}


def _name(node: ast.expr) -> str:
    """A word for what is filled in, or an ellipsis."""
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_").lower()
    return node.id.strip("_").lower() if isinstance(node, ast.Name) else "…"


class Errors(Directive):
    """``{errors} data.video data.readers``: the messages of these modules, with their remedies."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        env = self.state.document.settings.env
        wanted = self.arguments[0].split()
        entries = [one for one in env.apv_errors if one.module in wanted and not one.passes_on]
        # Quotes and dots stay as they are printed, so that a pasted message is found.
        items = nodes.definition_list(classes=["apv-errors"], support_smartquotes=False)
        for entry in dict.fromkeys((one.problem, one.remedy) for one in entries):
            term, remedy = ([*_marked(text)] for text in entry)
            body = nodes.definition("", nodes.paragraph("", "", *remedy))
            items += nodes.definition_list_item("", nodes.term("", "", *term), body)
        return [items]


class ErrorSearch(Directive):
    """``{error-search}``: a field that filters the lists of the page."""

    def run(self) -> list[nodes.Node]:
        script = Path(__file__).with_name("error_search.js").read_text("utf-8")
        field = (
            '<form class="apv-search" role="search" onsubmit="return false">'
            "<label>Paste an error here, or type a word of it: "
            '<input id="apv-error-search" type="search" autocomplete="off"></label> '
            "<output></output></form>"
        )
        # The lists stand below it.
        start = f"document.addEventListener('DOMContentLoaded', () => {{{script}}});"
        return [nodes.raw("", f"{field}<script>{start}</script>", format="html")]


def _marked(text: str) -> Iterator[nodes.Node]:
    """Text with its placeholders in italics."""
    text = text[:1].upper() + text[1:]
    for i, part in enumerate(PLACEHOLDER.split(text)):
        if part:
            yield nodes.emphasis("", part) if i % 2 else nodes.Text(part.replace("`", ""))


def _read(app: Any, env: Any, names: list[str]) -> None:
    """Before pages are read: gather the errors, and complain of what the page leaves out."""
    import apv_edu

    env.apv_errors = collect(Path(apv_edu.__file__).parent)
    page = Path(app.srcdir, "book", "troubleshooting.md")
    if page.is_file():
        for fault in faults(env.apv_errors, page.read_text("utf-8")):
            raise RuntimeError(fault)


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("errors", Errors)
    app.add_directive("error-search", ErrorSearch)
    app.connect("env-before-read-docs", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
