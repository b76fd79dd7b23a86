"""Small corrections to what Sphinx's extensions do with our pages."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes


def keep_colons(
    app: Any, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Stop napoleon from reading "Speed: in metres" under a constant as a type and its meaning."""
    if what in ("attribute", "data") and lines:
        lines.insert(0, "")


def drop_repeated_scripts(
    app: Any, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Keep one of each inline script: the theme's two make browsers report an error."""
    bodies = set()
    kept = []
    for script in context["script_files"]:
        body = getattr(script, "attributes", {}).get("body")
        if body and body in bodies:
            continue
        bodies.add(body)
        kept.append(script)
    context["script_files"] = kept


def let_notebooks_link_to_terms(app: Any, doctree: nodes.document) -> None:
    """Make ``glossary.md#term-prior`` a checked link: notebooks use no roles, which Colab shows."""
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    for term in doctree.findall(nodes.term):
        for name in term["ids"]:
            if name.startswith("term-"):
                slugs[name] = (term.line, name, term.astext())


def list_no_module_without_code(app: Any) -> list[Any]:
    """Stop viewcode from listing ``builtins``, the home of our type aliases, which has no page."""
    found = getattr(app.env, "_viewcode_modules", {})
    app.env._viewcode_modules = {name: entry for name, entry in found.items() if entry}
    return []


FOR_SCREEN_READERS = (
    # A name that contradicts the words in the button ...
    (r'<summary aria-label="Toggle hidden content">', "<summary>"),
    (r'(<button class="btn search-button-field[^>]*) aria-label="Search"', r"\1"),
    (r'(<i class="theme-switch [^>]*) title="[^"]*"', r"\1"),
    # ... a picture described as "-" ...
    (r'(<img [^>]*class="toggler"[^>]*) alt="-"', r'\1 alt="Show or hide the modules below"'),
    # ... and a list whose children are no list items.
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    (r' role="doc-biblioentry"', ""),
)
"""What the theme and docutils write, as a pattern, and what they should have written."""


def mend_pages(app: Any, exception: Exception | None) -> None:
    """Correct what the theme and Sphinx tell screen readers, in every page that was written."""
    if exception is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text("utf-8")
            for wrong, right in FOR_SCREEN_READERS:
                text = re.sub(wrong, right, text)
            page.write_text(text, "utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx. Priorities: before napoleon's and viewcode's 500, after the theme."""
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("doctree-read", let_notebooks_link_to_terms)
    app.connect("html-collect-pages", list_no_module_without_code, priority=400)
    app.connect("build-finished", mend_pages)
    app.connect("html-page-context", drop_repeated_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
