"""How each figure of the book and each shipped file was made, gathered from the files themselves.

What no file tells stays empty: nothing is guessed.
"""

import base64
import csv
import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import safetensors

from apv_edu.assets import Asset, list_files
from apv_edu.errors import InputError

WRITTEN = (".md", ".toml", ".svg")
"""Files that are written, not computed."""
BY_HAND = "none: written by hand, the file is its own source"


@dataclass(frozen=True)
class Facts:
    """What is known of how something was made; None or empty where no file tells."""

    seed: str = ""
    versions: str = ""
    revision: str = ""
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    """Of the training steps; known where the processor time is not."""


@dataclass(frozen=True)
class Made:
    """One figure or one file."""

    sha256: str
    page: str
    """Where it is: a page of the book, or ``assets``."""
    name: str
    kind: str
    """A ``picture``, ``video``, ``drawing`` or ``interactive`` figure; or a file of the
    ``evidence``, a ``model``, a ``table`` (or clips), a table of ``speed``."""
    about: str
    bytes: int
    command: str
    facts: Facts

    def row(self) -> dict[str, Any]:
        """Its line of the CSV."""
        line = asdict(self)
        return line | line.pop("facts")


@dataclass
class Card:
    """A figure in the output of a cell."""

    kind: str
    alt: str = ""
    pictures: list[bytes] = field(default_factory=list)


class Cards(HTMLParser):
    """The figures of a piece of HTML: what ``apv_edu.show`` made, or bare pictures."""

    def __init__(self, page: str):
        super().__init__()
        self.page, self.found = page, []
        self._player = self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self._player |= "apv-explore" in said.get("class", "").split()
        if tag == "figure":
            self.found.append(Card("interactive" if self._player else ""))
            self._open = True
        elif tag in ("img", "video"):
            source = said.get("src", "")
            if not source.startswith("data:"):
                raise InputError(
                    f"{self.page} shows {source[:80]!r}, which is not in the page itself: show it "
                    "with apv_edu.show."
                )
            if not self._open:
                self.found.append(Card(""))
            card = self.found[-1]
            card.kind = card.kind or {"img": "picture"}.get(tag, tag)
            card.alt = card.alt or said.get("alt") or said.get("aria-label", "")
            card.pictures.append(base64.b64decode(source.partition(",")[2]))

    def handle_endtag(self, tag: str) -> None:
        if tag == "figure":
            self._open = self._player = False


def cards(notebook: nbformat.NotebookNode, page: str) -> list[Card]:
    """The figures that the cells of an executed notebook put out, in order.

    Raises:
        InputError: for a picture that is not in the page itself.
    """
    found = []
    outputs = (out for cell in notebook.cells for out in cell.get("outputs", ()))
    for data in (out["data"] for out in outputs if "data" in out):
        reader = Cards(page)
        reader.feed(data.get("text/html", ""))
        found += [card for card in reader.found if card.pictures]
        if not reader.found:
            for kind, content in data.items():
                if kind.startswith("image/"):
                    drawn = kind == "image/svg+xml"
                    content = content.encode() if drawn else base64.b64decode(content)
                    found.append(Card("picture", data.get("text/plain", ""), [content]))
    return found


def figures(notebook: Path, run: dict[str, Any]) -> list[Made]:
    """The figures of an executed notebook; ``run`` is what ``book/build.py`` noted of it.

    The checksum is that of the picture's bytes; of an interactive figure, of all its pictures, one
    after another.

    Raises:
        InputError: when the run does not tell the command, or a picture is not in the page.
    """
    if not run.get("command"):
        raise InputError(f"The run of {notebook.name} tells no command: run `make book` again.")
    page = f"notebooks/{notebook.stem}"
    facts = Facts(
        seed=str(run["seed"]),
        versions=_versions(run["versions"]),
        cpu_seconds=run["cpu_seconds"],
        wall_seconds=run["seconds"],
    )
    made = []
    for number, card in enumerate(cards(nbformat.read(notebook, as_version=4), page), 1):
        data = b"".join(card.pictures)
        about = " ".join(card.alt.split())
        name = f"figure {number}"
        sizes = (len(data), run["command"], facts)
        made.append(Made(_sha256(data), page, name, card.kind, about, *sizes))
    return made


def drawings(page: Path, name: str) -> list[Made]:
    """The figures of a page of prose.

    Raises:
        InputError: for one that is missing, or that is not its own source.
    """
    text = page.read_text("utf-8")
    found = [(m[1], m[2]) for m in re.finditer(r"!\[([^\]]*)\]\(([^)\s]+)", text)]
    directive = r"^[`:]{3,}\{(?:figure|image)\} (\S+)\n((?::.*\n)*)"
    for match in re.finditer(directive, text, re.MULTILINE):
        alt = re.search(r"^:alt: (.*)$", match[2], re.MULTILINE)
        found.append((alt[1] if alt else "", match[1]))
    made = []
    for alt, place in found:
        path = page.parent / place
        if not path.is_file():
            raise InputError(f"{name} shows {place}, which does not exist: mend the page.")
        if path.suffix not in WRITTEN:
            raise InputError(
                f"{name} shows {place}, of which no command is known: draw it in a chapter."
            )
        data = path.read_bytes()
        made.append(Made(_sha256(data), name, place, "drawing", alt, len(data), BY_HAND, Facts()))
    return made


def shipped(folder: Path, table: dict[str, Asset]) -> list[Made]:
    """The files in ``folder`` (``assets/``), each with what its table and the files tell of it.

    Raises:
        InputError: for a file without a command, for a file that the table describes as another.
    """
    names = list_files(folder)
    sums = {name: _sha256((folder / name).read_bytes()) for name in names}
    told: dict[str, Facts] = {}
    commands: dict[str, str] = {}
    runs: dict[str, Facts] = {}  # by the folder of a run, of whose files each knows other things
    for name in names:
        known = table.get(name)
        if known and known["sha256"] != sums[name]:
            raise InputError(
                f"assets/{name} is not the file that apv_edu/assets.json describes: put it back, "
                "or run `make assets`."
            )
        own, told[name] = _story(folder / name)
        commands[name] = (known["command"] if known else "") or own
        if not commands[name] and Path(name).suffix not in WRITTEN:
            raise InputError(
                f"assets/{name} has no command: run `make assets`, then write the command that "
                "made it into apv_edu/assets.json."
            )
        if run := _run_folder(commands[name]):
            runs[run] = _merge(runs.get(run, Facts()), told[name])
    made = []
    for name in names:
        command = commands[name] or BY_HAND
        facts = _merge(told[name], runs.get(_run_folder(command), Facts()))
        if seed := re.search(r"--seed[ =](\d+)", command):
            facts = _merge(facts, Facts(seed=seed[1]))
        if machine := _machine(name, names):
            facts = _merge(facts, Facts(versions=_versions(_rows(folder / machine)[0])))
        about = table[name]["about"] if name in table else ""
        size = (folder / name).stat().st_size
        kind = _kind(name, names)
        made.append(Made(sums[name], "assets", name, kind, about, size, command, facts))
    return made


def _story(path: Path) -> tuple[str, Facts]:
    """What a file itself tells: its command, and the rest."""
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {}).get("apv_edu", "{}"))
        told = header.get("metadata", {})
        versions, seed = _versions(told.get("versions", {})), str(told.get("seed", ""))
        return told.get("command", ""), Facts(seed, versions, cpu_seconds=told.get("cpu_seconds"))
    rows = _rows(path) if path.suffix == ".csv" else []
    columns = set(rows[0]) if rows else set()
    if {"task", "seed", "cpu_seconds"} <= columns:
        return "", _of_runs(rows)
    if {"model", "seed", "clock_seconds"} <= columns:
        seeds = _ranges({int(row["seed"]) for row in rows})
        return "", Facts(seeds, wall_seconds=sum(float(row["clock_seconds"]) for row in rows))
    if columns == {"step", "name", "value"}:
        return "", _of_training(rows)
    return "", Facts()


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _of_runs(rows: list[dict[str, str]]) -> Facts:
    """A table of runs costs what they cost together, each at its last row."""
    last: dict[tuple[str | None, ...], float] = {}
    for row in rows:
        run = (row["task"], row.get("method") or row.get("variant"), row["seed"])
        last[run] = max(last.get(run, 0.0), float(row["cpu_seconds"] or 0))
    told = {name: {row.get(name) or "" for row in rows} - {""} for name in ("revision", "versions")}
    return Facts(
        seed=_ranges({int(row["seed"]) for row in rows}),
        versions=" / ".join(sorted(told["versions"])),
        revision=", ".join(sorted(told["revision"])),
        cpu_seconds=round(sum(last.values()), 1),
    )


def _of_training(rows: list[dict[str, str]]) -> Facts:
    """A curve of training tells the seconds of a step, on average since the row before."""
    paces = {
        int(row["step"]): float(row["value"])
        for row in rows
        if row["name"] == "time/seconds_per_step"
    }
    steps = [0, *sorted(paces)]
    seconds = sum(paces[step] * (step - before) for before, step in itertools.pairwise(steps))
    return Facts(wall_seconds=round(seconds, 1)) if paces else Facts()


def _merge(first: Facts, second: Facts) -> Facts:
    """``first``, with what it lacks from ``second``; what has a cost of its own borrows none."""
    known = {name: value for name, value in vars(first).items() if value not in ("", None)}
    if {"cpu_seconds", "wall_seconds"} & known.keys():
        second = replace(second, cpu_seconds=None, wall_seconds=None)
    return replace(second, **known)


def _run_folder(command: str) -> str:
    """The folder of the run that a command does (its ``--out``) or copies from, or nothing."""
    words = command.split()
    if words[:1] == ["cp"] and len(words) > 1:
        return words[1].rpartition("/")[0]
    return next((b for a, b in itertools.pairwise(words) if a == "--out"), "")


def _machine(name: str, names: Sequence[str]) -> str:
    """The table that names the machine of a table of speeds: x_machine.csv tells of x_*.csv."""
    tables = [one for one in names if one.endswith("_machine.csv")]
    mine = [one for one in tables if name.startswith(one.removesuffix("machine.csv"))]
    return max(mine, key=len, default="")


def _kind(name: str, names: Sequence[str]) -> str:
    if "/" in name:
        return "evidence"
    if name.endswith(".safetensors"):
        return "model"
    return "speed" if _machine(name, names) else "table"


def _versions(versions: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _ranges(numbers: set[int]) -> str:
    """0, 1, 2, 3, 7 as ``0-3, 7``."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join("-".join(map(str, ends)) for ends in found)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
