"""Print the built book to one PDF, with a contents page, bookmarks and page numbers.

    python book/pdf.py --out _build

Reads ``html/`` under ``--out``, writes ``book.pdf`` there.
"""

import argparse
import html
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urldefrag

import yaml
from browser import FLAGS, REMEDY, executable
from playwright.sync_api import Browser, Page, sync_playwright
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NullObject

from apv_edu.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = Path(__file__).with_name("pdf.js")
"""Turns what moves into what can be printed."""
CONTENTS = "contents"

STYLE = """<style>@page { size: A4; margin: 18mm; }
body { font: 11pt/1.5 "DejaVu Sans", sans-serif; margin: 0; }
h1 { font-size: 30pt; margin: 12mm 0 2mm; } h1 + p { margin: 0 0 8mm; }
h2 { font-size: 11pt; margin: 4mm 0 0; } a { color: inherit; text-decoration: none; display: flex; }
a::before { content: ""; order: 1; flex: 1; border-bottom: 1px dotted #888; margin: 0 2mm 2mm; }
a span { order: 2; }
</style>"""
NUMBERS = """<style>@page { size: A4; margin: 0; } body { margin: 0; }
div { height: 296mm; break-after: page; position: relative; font: 8pt "DejaVu Sans", sans-serif; }
p { position: absolute; bottom: 5mm; left: 18mm; right: 18mm; display: flex;
  justify-content: space-between; color: #555; }</style>"""


class PrintError(RuntimeError):
    """The book could not be printed; the message says why, and what helps."""


@dataclass(frozen=True)
class Printed:
    """One page of the book on paper."""

    name: str
    title: str
    part: str
    headings: list[str]
    """Of the second level."""
    pdf: PdfReader


def parts(root: Path) -> list[tuple[str, str]]:
    """The pages of the book in order, each with the part that it begins, or nothing."""
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    found = [("", toc["root"])]
    for part in toc["parts"]:
        for i, page in enumerate(part["chapters"]):
            found.append((part["caption"] * (i == 0), page["file"]))
    return found


def print_page(page: Page, path: Path) -> PdfReader:
    """A page of the built book as a PDF of its own."""
    page.goto(path.as_uri(), wait_until="load")
    page.evaluate("async () => { await window.MathJax?.startup?.promise }")
    page.evaluate(SCRIPT.read_text("utf-8"))
    return to_pdf(page)


def headings(page: Page, level: str) -> list[str]:
    """The visible headings of one level, without the sign that links to them."""
    found = page.locator(f"article {level}").all()
    return [one.inner_text().removesuffix("#").strip() for one in found if one.is_visible()]


def to_pdf(page: Page) -> PdfReader:
    """What the browser shows, printed."""
    data = page.pdf(prefer_css_page_size=True, print_background=True, tagged=True, outline=True)
    return PdfReader(io.BytesIO(data))


def contents(page: Page, book: str, printed: list[Printed]) -> PdfReader:
    """The title and the table of contents; its own length counts too, so it is made twice."""
    pdf, before = None, 1
    for _ in range(2):
        lines, number = [f"<title>Contents</title>{STYLE}<h1>{html.escape(book)}</h1>"], before + 1
        lines.append("<p>Learn world models by rebuilding APV.</p>")
        for one in printed:
            lines.append(f"<h2>{html.escape(one.part)}</h2>" * bool(one.part))
            target = f"https://page.invalid/{one.name}"
            lines.append(f'<a href="{target}">{html.escape(one.title)}<span>{number}</span></a>')
            number += len(one.pdf.pages)
        page.set_content("\n".join(lines))
        pdf = to_pdf(page)
        before = len(pdf.pages)
    assert pdf is not None
    return pdf


def join(front: PdfReader, printed: list[Printed], home: str) -> PdfWriter:
    """All pages in order, with bookmarks; links between pages of the book lead inside the PDF."""
    writer = PdfWriter()
    writer.append(front, outline_item="Contents", import_outline=False)
    starts: dict[str, int] = {}
    part = None
    for one in printed:
        start = starts[one.name] = len(writer.pages)
        writer.append(one.pdf, import_outline=False)
        if one.part:
            part = writer.add_outline_item(
                title=one.part, page_number=start, bold=True, is_open=False
            )
        chapter = writer.add_outline_item(
            title=one.title, page_number=start, parent=part, is_open=False
        )
        for title, number in sections(one):
            writer.add_outline_item(title=title, page_number=start + number, parent=chapter)
    for page in writer.pages:
        kept = ArrayObject()
        for reference in page.get("/Annots", ()):
            link = reference.get_object()
            target = inside(link, home)
            if target is None:
                kept.append(reference)
            elif target in starts:
                goal = writer.pages[starts[target]].indirect_reference
                link.pop("/A")
                fit = [NameObject("/XYZ"), NullObject(), NullObject(), NullObject()]
                link[NameObject("/Dest")] = ArrayObject([goal, *fit])
                kept.append(reference)
        page[NameObject("/Annots")] = kept
    return writer


def inside(link: DictionaryObject, home: str) -> str | None:
    """The page of the book that a link of the PDF leads to, or nothing for one to the outside."""
    action = link.get("/A")
    address = str(action.get_object().get("/URI", "")) if action is not None else ""
    for base in (home, "https://page.invalid/"):
        if address.startswith(base):
            return unquote(urldefrag(address.removeprefix(base)).url).removesuffix(".html")
    return None


def sections(one: Printed) -> list[tuple[str, int]]:
    """The headings of the second level, with the number of their sheet."""
    # The browser's own bookmarks know the sheets, but say some titles twice.
    below = [items for items in one.pdf.outline if isinstance(items, list)]
    marks = [mark for mark in (below[0] if below else []) if not isinstance(mark, list)]
    sheets = [one.pdf.get_destination_page_number(mark) or 0 for mark in marks]
    return list(zip(one.headings, sheets, strict=True))


def number_pages(page: Page, writer: PdfWriter, printed: list[Printed], front: int) -> None:
    """Write the title of the chapter and the number at the foot of each sheet."""
    titles = [""] * front + [one.title for one in printed for _ in one.pdf.pages]
    feet = "".join(
        f"<div><p><span>{html.escape(title)}</span><span>{number}</span></p></div>"
        for number, title in enumerate(titles, 1)
    )
    page.set_content(NUMBERS + feet)
    stamps = PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True)))
    for sheet, stamp in list(zip(writer.pages, stamps.pages, strict=False))[front:]:
        sheet.merge_page(stamp)


def make(browser: Browser, out: Path, root: Path = ROOT) -> Path:
    """Print the book that was built under ``out``.

    Raises:
        PrintError: where there is no built book.
    """
    folder = out.resolve() / "html"
    names = parts(root)
    missing = [name for _, name in names if not (folder / f"{name}.html").is_file()]
    if missing:
        raise PrintError(f"There is no {folder / missing[0]}.html: run `make book` first.")
    page = browser.new_page(color_scheme="light", viewport={"width": 900, "height": 1200})
    page.set_default_timeout(120_000)
    printed = []
    for part, name in names:
        print(f"  {name}", flush=True)
        pdf = print_page(page, folder / f"{name}.html")
        title, *_ = headings(page, "h1")
        printed.append(Printed(name, title, part, headings(page, "h2"), pdf))
    book = yaml.safe_load((root / "_config.yml").read_text("utf-8"))
    front = contents(page, book["title"], printed)
    writer = join(front, printed, f"{folder.as_uri()}/")
    number_pages(page, writer, printed, len(front.pages))
    page.close()
    writer.add_metadata({"/Title": book["title"], "/Author": book["author"]})
    writer.page_mode = "/UseOutlines"
    writer.compress_identical_objects()
    data = io.BytesIO()
    writer.write(data)
    path = out.resolve() / "book.pdf"
    write_atomically(path, data.getvalue())
    print(f"{len(writer.pages)} pages, {len(data.getvalue()) / 1e6:.1f} MB:")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the built book to one PDF.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "_build", help="folder of the built book"
    )
    out = parser.parse_args().out
    with sync_playwright() as playwright:
        path = executable(playwright)
        if path is None:
            print(REMEDY, file=sys.stderr)
            return 1
        with playwright.chromium.launch(executable_path=path, args=FLAGS) as browser:
            try:
                print(make(browser, out))
            except PrintError as error:
                print(error, file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
