"""Make slides of the chapters: one HTML file each, from their headings, first words and figures.

    python book/slides.py --preset laptop --out _build

The chapters are executed as for the book, or taken from its cache. Under ``--out`` is then
``slides/``: an index, a file for each chapter, and MathJax beside them. They work from a file,
without a network. Arrow keys turn the page; a browser prints one slide a page.
"""

import argparse
import html
import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat
from build import PRESETS, ROOT, BuildError, chapters, execute
from markdown_it import MarkdownIt
from mdit_py_plugins.amsmath import amsmath_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin

from apv_edu.files import write_atomically

LEFT_OUT = {"Exercises", "Further reading"}
"""Parts of a chapter that are not shown."""
LISTS = {"What you learned"}
"""Headings whose text is shown whole."""
SENTENCE = re.compile(r"(?<=[.!?:])\s+(?=[A-Z*`$])")

STYLE = """
* { box-sizing: border-box; }
html { scroll-snap-type: y mandatory; font: clamp(16px, 2.1vw, 30px)/1.45 system-ui, sans-serif; }
body { margin: 0; color: #111; background: #fff; }
section { min-height: 100vh; scroll-snap-align: start; padding: 5vh 6vw 7vh; position: relative;
  display: flex; flex-direction: column; justify-content: center; overflow-x: auto; }
section.figure { justify-content: flex-start; }
h1 { font-size: 2.2em; line-height: 1.15; margin: 0 0 .6em; }
h2 { font-size: 1.5em; line-height: 1.2; margin: 0 0 .6em; color: #0B5394; }
section.figure h2 { font-size: 1.1em; }
p, ul { margin: 0 0 .7em; max-width: 34em; }
li { margin: .3em 0; }
code { font-size: .9em; }
section.figure .output { font-size: 16px; margin: auto; max-width: 100%; }
section.figure img, section.figure video { max-height: 68vh; max-width: 100%; object-fit: contain;
  width: auto; height: auto; }
footer { position: absolute; bottom: 1.5vh; left: 6vw; right: 6vw; font-size: 14px; color: #57606a;
  display: flex; justify-content: space-between; }
a { color: #0B5394; }
@media print { section { min-height: 0; height: 100vh; break-after: page; }
  @page { size: 16in 9in; margin: 0; } }
"""

SCRIPT = """
const slides = [...document.querySelectorAll("section")];
const here = () => slides.reduce((best, slide, i) =>
  Math.abs(slide.getBoundingClientRect().top) <
  Math.abs(slides[best].getBoundingClientRect().top) ? i : best, 0);
addEventListener("keydown", (event) => {
  if (event.target.matches("input, select, video")) return;
  const step = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1,
    ArrowLeft: -1, ArrowUp: -1, PageUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  slides[Math.min(Math.max(here() + step, 0), slides.length - 1)].scrollIntoView();
});
"""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{style}</style>
<script>window.MathJax = {{ tex: {{ inlineMath: [["\\\\(", "\\\\)"]] }} }};</script>
<script defer src="mathjax/tex-chtml.js"></script></head>
<body>{sections}<script>{script}</script></body></html>
"""


@dataclass(frozen=True)
class Slide:
    """One page: a heading with words, or with a figure."""

    heading: str
    body: str
    """HTML."""
    figure: bool = False
    level: int = 2


def make_slides(notebook: nbformat.NotebookNode) -> list[Slide]:
    """Slides of an executed chapter, in its order."""
    slides: list[Slide] = []
    heading, shown = "", True
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for level, title, text in _parts(cell.source):
                if level == 2:
                    shown = title not in LEFT_OUT
                if shown and level:
                    heading = title
                    slides.append(Slide(title, _words(title, level, text), level=level))
        elif shown and cell.cell_type == "code":
            figures = (_figure(output) for output in cell.outputs)
            slides += [Slide(heading, body, figure=True) for body in figures if body]
    return list(_without_bare_headings(slides))


def _parts(source: str) -> Iterator[tuple[int, str, str]]:
    """Level, heading and text of each part of a Markdown cell; level 0 before its first heading."""
    level, title, lines = 0, "", []
    for line in source.splitlines():
        found = re.match(r"(#{1,4}) (.+)", line)
        if found:
            yield level, title, "\n".join(lines)
            level, title, lines = len(found[1]), found[2], []
        else:
            lines.append(line)
    yield level, title, "\n".join(lines)


def _words(title: str, level: int, text: str) -> str:
    """Of a chapter's first part the promise and its list, of a list all, else three sentences."""
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]
    bullets = [part for part in paragraphs if part.startswith(("- ", "1. "))]
    if title in LISTS or (level == 1 and bullets):
        kept = [*paragraphs[: level == 1], *bullets[:1]]
    else:
        first = next((i for i, p in enumerate(paragraphs) if re.match(r"[A-Z*`$]", p)), None)
        if first is None:
            return ""
        kept = [" ".join(SENTENCE.split(paragraphs[first].replace("\n", " "))[:3])]
        follows = paragraphs[first + 1 : first + 2]
        if not kept[0].endswith((".", "!", "?")) and follows and follows[0].startswith("$$"):
            kept += follows  # the sentence goes on as a formula
    return _markdown("\n\n".join(kept))


def _markdown(text: str) -> str:
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)  # links lead to pages of the book
    reader = MarkdownIt().use(dollarmath_plugin, renderer=_math).use(amsmath_plugin)
    return reader.render(text)


def _math(content: str, options: dict[str, bool]) -> str:
    left, right = ("\\[", "\\]") if options["display_mode"] else ("\\(", "\\)")
    return f"{left}{html.escape(content)}{right}"


def _figure(output: nbformat.NotebookNode) -> str:
    """The HTML of a figure, video or player, else nothing."""
    text = output.get("data", {}).get("text/html", "")
    text = text if isinstance(text, str) else "".join(text)
    return f'<div class="output">{text}</div>' if "apv-card" in text else ""


def _without_bare_headings(slides: list[Slide]) -> Iterator[Slide]:
    """A heading without words gives way to what follows it."""
    for i, slide in enumerate(slides):
        if slide.body.strip():
            yield slide
        elif i + 1 == len(slides) or slides[i + 1].level <= slide.level:
            yield replace(slide, body="")


def _page(title: str, slides: list[Slide]) -> str:
    sections = []
    for number, slide in enumerate(slides, start=1):
        tag = "h1" if slide.level == 1 else "h2"
        kind = ' class="figure"' if slide.figure else ""
        heading = f"<{tag}>{_markdown(slide.heading).strip()[3:-4]}</{tag}>"
        foot = f"<span>{html.escape(title)}</span><span>{number} / {len(slides)}</span>"
        sections.append(f"<section{kind}>{heading}{slide.body}<footer>{foot}</footer></section>")
    return PAGE.format(
        title=html.escape(title),
        style=STYLE,
        script=SCRIPT,
        sections="\n".join(sections),
    )


def _copy_mathjax(folder: Path) -> None:
    """Copy MathJax there, as the book does.

    Raises:
        BuildError: when its package is missing.
    """
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise BuildError("Slides need sphinx-mathjax-offline: run `make setup`.")
    static = Path(spec.origin).parent / "static" / "mathjax"
    shutil.copytree(static, folder / "mathjax", dirs_exist_ok=True)


def build_slides(executed: dict[str, Path], out: Path) -> Path:
    """Write ``out/slides`` from executed chapters by name; returns its index."""
    folder = out / "slides"
    folder.mkdir(parents=True, exist_ok=True)
    _copy_mathjax(folder)
    lines = []
    for name, path in executed.items():
        slides = make_slides(nbformat.read(path, as_version=4))
        title = slides[0].heading
        write_atomically(folder / f"{name}.html", _page(title, slides).encode())
        lines.append(
            f'<li><a href="{name}.html">{html.escape(title)}</a>: {len(slides)} slides</li>'
        )
    index = Slide("Slides", f"<ul>{''.join(lines)}</ul>", level=1)
    write_atomically(folder / "index.html", _page("Slides", [index]).encode())
    return folder / "index.html"


def main() -> int:
    parser = argparse.ArgumentParser(description="Make slides of the chapters.")
    parser.add_argument("--preset", choices=PRESETS, default="laptop", help="size of every run")
    parser.add_argument("--out", type=Path, default=ROOT / "_build", help="folder for the result")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    try:
        executed = {
            path.stem: execute(path, preset=arguments.preset, seed=0, cache=out / "cache")
            for path in chapters(ROOT)
        }
        print(build_slides(executed, out))
    except BuildError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
