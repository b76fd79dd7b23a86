"""Write the page that says how each figure of the book and each shipped file was made.

    python book/reproducibility.py --out _build

``book/build.py`` calls this between staging and rendering. It reads ``run_times.json`` and the
staged pages under ``--out``, and the shipped files with their table; it writes
``reproducibility.md`` and ``reproducibility.csv`` among the staged pages. With ``--check`` it only
sees to it that every shipped file has a command.
"""

import argparse
import csv
import html
import io
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from provenance import WRITTEN, Made, drawings, figures, shipped

from apv_edu.assets import read_table
from apv_edu.errors import InputError
from apv_edu.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
DIGITS = 12
"""Of a checksum, on the page."""
COLUMNS = (
    "sha256",
    "page",
    "name",
    "kind",
    "about",
    "bytes",
    "command",
    "seed",
    "versions",
    "revision",
    "cpu_seconds",
    "wall_seconds",
)

HEADINGS = {
    "evidence": "Evidence",
    "model": "Models",
    "table": "Clips, tables and curves",
    "speed": "Speed",
}
"""Of the parts with shipped files, by their kind."""

STYLE = """<style>
.apv-made table { display: table; width: 100%; margin: 0.5rem 0 1.5rem; border-collapse: collapse; }
.apv-made td { padding: 0.4rem 0.5rem; vertical-align: top; text-align: left;
  overflow-wrap: anywhere; border-bottom: 1px solid var(--pst-color-border); }
.apv-made td:first-child { width: 1%; padding-left: 0; white-space: nowrap; }
.apv-made p { margin: 0.5rem 0; }
.apv-made td p { margin: 0.2rem 0 0; }
.apv-made code { white-space: normal; overflow-wrap: anywhere; }
.apv-made code span { white-space: nowrap; } /* an option is not broken after its dashes */
.apv-made summary { cursor: pointer; }
</style>"""

INTRODUCTION = """# Reproducibility

Here stands every figure of this book and every file that comes with it.
For each you find the command that makes it, its seed, the versions, what it cost, and its checksum.

A script wrote this page while the book was built, from the files themselves.
Nothing below was typed by hand.
All of it is also in one table: {{download}}`reproducibility.csv`.
The page shows the first {digits} digits of a checksum; the table has all 64.

## What comes out the same

**To the bit.**
Repeat a command on the same machine, with the same versions and the same number of threads.
Then you get the same bytes, and the same checksum.

**Alike, but not to the bit.**
Another processor, another number of threads or a GPU adds numbers up in another order.
Another version of a simulator moves and draws a little differently.
Learning makes such differences grow, so a single run may even end elsewhere.
Compare several seeds then, not checksums.

**Never.**
A figure that shows measured seconds, or a time left, differs each time.

## How you check

A file, in the folder of the book:

```bash
sha256sum assets/{example}
```

All figures at once: keep the table of this page as `theirs.csv`, build the book, and compare.
The lines that differ are the figures and files that do.

```bash
{build}
diff <(cut -d, -f1-3 theirs.csv) <(cut -d, -f1-3 _build/source/book/reproducibility.csv)
```

## What a cost is

A cost is processor time, which busy neighbours do not lengthen.
For a chapter it is that of all its cells, whichever figure you look at.
For a table of runs it is that of all runs in it.
What a command reads, such as a video model or a set of videos, is not part of its cost.

For some models only the time on the clock was written down, and of the training steps alone.
Such a cost is marked *clock*.
*Not recorded* means that no file tells: the script does not guess.
It does not mean little.
"""


def text(made: Sequence[Made], runs: Sequence[dict[str, Any]]) -> str:
    """The page, in Markdown."""
    files = [one for one in made if one.page == "assets"]
    example = next((one.name for one in files if one.kind == "model"), "FILE")
    parts = [INTRODUCTION.format(digits=DIGITS, example=example, build=_build(runs)), STYLE]
    parts += ["## Figures", _preface(runs)]
    chapters = {f"notebooks/{run['name']}": run for run in runs}
    shown = (one for one in made if one.page != "assets")
    for page, group in itertools.groupby(shown, key=lambda one: one.page):
        parts += _chapter(page, list(group), chapters.get(page))
    parts += ["## Files", "All lie in the folder `assets/`; below each checksum stands the cost."]
    for kind, heading in HEADINGS.items():
        if rows := [_file(one) for one in files if one.kind == kind]:
            parts += [f"### {heading}", f'<div class="apv-made">\n{_table(rows)}\n</div>']
    return "\n\n".join(parts) + "\n"


def _build(runs: Sequence[dict[str, Any]]) -> str:
    """The command that makes all figures."""
    preset, seed = (runs[0]["preset"], runs[0]["seed"]) if runs else ("laptop", 0)
    if seed == 0:
        return f"make book PRESET={preset}"
    return f".venv/bin/python book/build.py --preset {preset} --seed {seed}"


def _preface(runs: Sequence[dict[str, Any]]) -> str:
    """What the chapters have in common."""
    cost = _duration(sum(run["cpu_seconds"] for run in runs))
    words = f"`{_build(runs)}` makes all of them at once, in {cost} of processor time.\n"
    words += "The command of a chapter makes its figures alone.\n"
    for versions in sorted({", ".join(map(" ".join, run["versions"].items())) for run in runs}):
        words += f"They were made with {versions}.\n"
    return words + "All other versions are those of `requirements.txt`."


def _chapter(page: str, made: Sequence[Made], run: dict[str, Any] | None) -> list[str]:
    """A heading, how the figures of a page were made, and a folded table of them."""
    rows = _table([_figure(one) for one in made])
    count = f"{len(made)} figure" + "s" * (len(made) != 1)
    if run is None:
        heading = page.rpartition("/")[2].replace("_", " ").capitalize()
        words = f"[](../{page}.md): drawn by hand, so there is no command."
    else:
        heading = run["title"]
        words = f"[The chapter](../{page}.ipynb) at preset `{run['preset']}`, seed {run['seed']}: "
        words += f"{_duration(run['cpu_seconds'])} of processor time."
        rows = f"<p>{_code(run['command'])}</p>\n{rows}"
    folded = f"<details><summary>{count}</summary>\n{rows}\n</details>"
    return [f"### {heading}", words, f'<div class="apv-made">\n{folded}\n</div>']


def _figure(made: Made) -> tuple[str, str]:
    """The cells of a figure."""
    number = made.name.removeprefix("figure ")
    name = f"{number}, {made.kind}" if number != made.name else made.kind
    return f"{name}<br>{_checksum(made)}", _words(made.about)


def _file(made: Made) -> tuple[str, str]:
    """The cells of a file: its checksum and cost, then what it is and how it was made."""
    facts = made.facts
    written = Path(made.name).suffix in WRITTEN
    cost = "" if written else "not recorded"
    if facts.cpu_seconds is not None:
        cost = _duration(facts.cpu_seconds)
    elif facts.wall_seconds is not None:
        cost = f"{_duration(facts.wall_seconds)}, clock"
    versions = "" if written else "Versions not recorded."
    if facts.versions:
        versions = f"With {facts.versions}."
    how = f"Seed {facts.seed}. " * bool(facts.seed) + versions
    how += f" Revision {facts.revision}." * bool(facts.revision)
    paragraphs = (_words(made.about), _code(made.command), _words(how))
    said = "".join(f"<p>{one}</p>" for one in paragraphs if one)
    return f"{_checksum(made)}<br>{cost}", f"{_code(made.name)}, {_size(made.bytes)}{said}"


def _table(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns, which fit on a phone."""
    body = "\n".join(f"<tr><td>{left}</td><td>{right}</td></tr>" for left, right in rows)
    return f"<table>\n<tbody>\n{body}\n</tbody>\n</table>"


def _words(said: str) -> str:
    """Text in HTML, in which no dollar begins a formula."""
    return html.escape(" ".join(said.split())).replace("$", "&#36;")


def _code(said: str) -> str:
    words = (_words(word) for word in said.split())
    marked = (f"<span>{word}</span>" if word.startswith("-") else word for word in words)
    return f"<code>{' '.join(marked)}</code>"


def _checksum(made: Made) -> str:
    return f'<code title="{made.sha256}">{made.sha256[:DIGITS]}</code>'


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1e3:.0f} kB" if count < 1e6 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def table(made: Iterable[Made]) -> str:
    """The same as CSV: a line for each figure and file; an empty cell where nothing is known."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([one.row()[name] for name in COLUMNS] for one in made)
    return out.getvalue()


def write(out: Path, root: Path = ROOT) -> list[Made]:
    """Write the page and its table to ``out/source/book``; return what stands there.

    Raises:
        InputError: for a figure or a file of which no command is known, and when the book was not
            staged.
    """
    source, times = out / "source", out / "run_times.json"
    if not times.is_file():
        raise InputError(f"There is no {times}: run `make book` first, which calls this script.")
    runs = json.loads(times.read_text("utf-8"))
    chapters = {f"notebooks/{run['name']}": run for run in runs}
    made = []
    for page in _pages(source / "_toc.yml"):
        if page in chapters:
            made += figures(source / f"{page}.ipynb", chapters[page])
        elif (source / f"{page}.md").is_file() and page != "book/reproducibility":
            made += drawings(source / f"{page}.md", page)
    made += files(root)
    write_atomically(source / "book" / "reproducibility.md", text(made, runs).encode())
    write_atomically(source / "book" / "reproducibility.csv", table(made).encode())
    return made


def files(root: Path) -> list[Made]:
    """The shipped files of a checkout.

    Raises:
        InputError: for one of which no command is known.
    """
    return shipped(root / "assets", read_table(root / "apv_edu" / "assets.json"))


def _pages(toc: Path) -> list[str]:
    told = yaml.safe_load(toc.read_text("utf-8"))
    return [told["root"], *(page["file"] for part in told["parts"] for page in part["chapters"])]


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the page on reproducibility.")
    parser.add_argument("--out", type=Path, default=ROOT / "_build", help="folder of the build")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the checkout")
    parser.add_argument("--check", action="store_true", help="only look for missing commands")
    arguments = parser.parse_args()
    try:
        if arguments.check:
            files(arguments.root)
        else:
            write(arguments.out, arguments.root)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
