"""Small corrections to what Sphinx's extensions do with our pages."""

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


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx. Priorities: before napoleon's 500, after the theme."""
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("doctree-read", let_notebooks_link_to_terms)
    app.connect("html-page-context", drop_repeated_scripts, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
