"""Bring every mention of the project's address, and every first cell, up to date.

    python book/addresses.py --write

The address stands once, as ``Repository`` in ``pyproject.toml``. From it follow the address of the
assets, the launch buttons of the book (``_config.yml``), the "Open in Colab" links, and the first
code cell of the notebooks. Without ``--write`` this only names the files that differ.
"""

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path

from apv_edu.errors import InputError
from apv_edu.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
BRANCH = "main"
MARK = "# In Colab, this installs"
"""How a first cell begins, in whichever notebook it stands."""
FORMS = (
    ("https://raw.githubusercontent.com/", "/"),
    ("https://colab.research.google.com/github/", "/blob/"),
    ("repository:\n  url: https://github.com/", "\n  branch: "),
)
"""What stands before OWNER/NAME and between that and the branch, wherever an address is written."""
CELL = (
    MARK
    + """ what is missing and keeps the rest. Elsewhere it is quick and silent.
import importlib.util
import os
from importlib.metadata import distributions

if importlib.util.find_spec("apv_edu") is None:
    source = os.environ.get("APV_WHEEL", "apv_edu @ git+REPOSITORY")
    found = {each.name: each.version for each in distributions()}
    kept = " ".join(f"{name}=={found[name]}" for name in ("numpy", "torch") if name in found)
    %pip install -q "{source}" {kept}
    %pip install -q --no-deps DM_CONTROL

from apv_edu import colab

colab.set_up()"""
)


def repository(root: Path = ROOT) -> str:
    """The project's address, such as ``https://github.com/OWNER/NAME``.

    Raises:
        InputError: if ``pyproject.toml`` names none, or one that Colab cannot open.
    """
    path = root / "pyproject.toml"
    urls = tomllib.loads(path.read_text("utf-8")).get("project", {}).get("urls", {})
    address = urls.get("Repository", "")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise InputError(
            f"{path}: Repository under [project.urls] is {address!r}, and Colab opens notebooks "
            "of GitHub only: write https://github.com/OWNER/NAME."
        )
    return address


def in_colab(notebook: str, root: Path = ROOT) -> str:
    """The address that opens a notebook, such as ``notebooks/01_first.ipynb``, in Colab."""
    name = repository(root).removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{name}/blob/{BRANCH}/{notebook}"


def first_cell(root: Path = ROOT) -> str:
    """The source of the first code cell of every notebook.

    It installs the package from its address, or from what ``APV_WHEEL`` names instead (a path or
    anything else that pip takes), and leaves the rest to :func:`apv_edu.colab.set_up`.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    (control,) = (need for need in project["dependencies"] if need.startswith("dm_control"))
    cell = CELL.replace("REPOSITORY", repository(root))
    return cell.replace("DM_CONTROL", control.partition(";")[0])


def current(root: Path = ROOT) -> dict[Path, str]:
    """What every file with an address should hold, by path."""
    name = repository(root).removeprefix("https://github.com/")
    texts = {
        path: path.read_text("utf-8")
        for path in [
            *(root / each for each in ("pyproject.toml", "_config.yml", "README.md")),
            *sorted(root.glob("book/**/*.md")),
            *sorted(root.glob("notebooks/**/*.ipynb")),
        ]
        if ".ipynb_checkpoints" not in path.parts
    }
    for path, text in texts.items():
        for start, middle in FORMS:
            old = rf"({re.escape(start)})[\w.-]+/[\w.-]+{re.escape(middle)}[\w.-]+"
            text = re.sub(old, rf"\g<1>{name}{middle}{BRANCH}", text)
        texts[path] = _with_first_cell(text, first_cell(root)) if path.suffix == ".ipynb" else text
    return texts


def _with_first_cell(text: str, cell: str) -> str:
    """A stored notebook whose first cell, where it has one, is ``cell``."""
    page = json.loads(text)
    for each in page["cells"]:
        if each["cell_type"] == "code" and "".join(each["source"]).startswith(MARK):
            each["source"] = cell.splitlines(keepends=True)
    return json.dumps(page, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Bring addresses and first cells up to date.")
    parser.add_argument("--write", action="store_true", help="write the files that differ")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the project")
    arguments = parser.parse_args()
    try:
        texts = current(arguments.root)
        stale = [path for path, text in texts.items() if path.read_text("utf-8") != text]
        for path in stale:
            if arguments.write:
                write_atomically(path, texts[path].encode())
            print(f"{path}: {'written' if arguments.write else 'differs'}")
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if stale and not arguments.write:
        print("Bring these up to date with: python book/addresses.py --write", file=sys.stderr)
    return int(bool(stale) and not arguments.write)


if __name__ == "__main__":
    sys.exit(main())
