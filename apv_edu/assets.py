"""Small shipped files (models, clips, result tables): found in a checkout, else fetched once.

``assets.json`` in the package names each with its size, SHA-256, what it is and the command that
made it. ``python -m apv_edu.assets`` brings sizes and checksums up to date with ``assets/``.
"""

import hashlib
import http.client
import importlib.metadata
import json
import os
import sys
import urllib.parse
import urllib.request
from difflib import get_close_matches
from pathlib import Path
from typing import TypedDict

from apv_edu.errors import InputError
from apv_edu.files import write_atomically

PACKAGE = Path(__file__).parent
TABLE = PACKAGE / "assets.json"


class Asset(TypedDict):
    """What the table says of one file."""

    sha256: str
    bytes: int
    about: str
    """What it is, in a sentence."""
    command: str
    """The command that made it."""


def read_table(path: Path = TABLE) -> dict[str, Asset]:
    """The table of shipped files, by name (a path relative to ``assets/``)."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def asset_path(name: str) -> Path:
    """Where the shipped file ``name`` lies on this machine; fetched and verified if need be.

    In a checkout it is the file in ``assets/``. Elsewhere it is fetched once from the project's
    ``Assets`` address (``APV_ASSETS_URL`` takes its place: http, https or file) into a cache
    (``APV_CACHE`` names another folder).

    Raises:
        InputError: for an unknown name, an address that does not answer, or content whose
            checksum is not the one in the table.
    """
    folder = checkout_assets()
    if folder is not None and (folder / name).is_file() and name in list_files(folder):
        return folder / name
    table = read_table()
    if name not in table:
        known = sorted(table)
        near = get_close_matches(name, known, n=3, cutoff=0.3) or known
        raise InputError(
            f"There is no file or asset {name!r}: the nearest are {', '.join(near)}."
            if near
            else f"There is no file or asset {name!r}: none are listed in {TABLE.name}."
        )
    asset = table[name]
    path = cache_folder() / name
    if not (path.is_file() and _sha256(path.read_bytes()) == asset["sha256"]):
        write_atomically(path, _fetch(name, asset))
    return path


def find_file(name: str) -> Path:
    """The file ``name`` on this machine, or the shipped file of that name.

    Raises:
        InputError: as ``asset_path``, for a bare name that is no file here.
    """
    path = Path(name)
    return path if path.exists() or path.parent != Path() else asset_path(name)


def checkout_assets() -> Path | None:
    """The folder ``assets/`` of the checkout this package runs from, or None outside one."""
    folder = PACKAGE.parent / "assets"
    return folder if folder.is_dir() and (PACKAGE.parent / "pyproject.toml").is_file() else None


def cache_folder() -> Path:
    """Where fetched files stay: ``APV_CACHE``, or this platform's folder for caches."""
    if chosen := os.environ.get("APV_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "apv_edu"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")
        return Path(local) / "apv_edu" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "apv_edu"


def assets_url() -> str:
    """The one address that files are fetched from, without a slash at its end.

    Raises:
        InputError: when neither ``APV_ASSETS_URL`` nor the package's metadata names one.
    """
    if chosen := os.environ.get("APV_ASSETS_URL"):
        return chosen.rstrip("/")
    try:
        entries = importlib.metadata.metadata("apv_edu").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        entries = []
    for label, _, url in (entry.partition(",") for entry in entries):
        if label.strip().lower() == "assets":
            return url.strip().rstrip("/")
    raise InputError(
        "No address for assets is configured: set APV_ASSETS_URL to the folder that holds them "
        "(file:///... or https://...)."
    )


def list_files(folder: Path) -> list[str]:
    """The names of the assets in a folder: every file but hidden ones and READMEs."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.name.startswith("README")
    )


def make_table(folder: Path, before: dict[str, Asset]) -> dict[str, Asset]:
    """The table of the files in ``folder``; keeps the words about those it knew ``before``.

    A checkpoint that is new to the table brings its command in its own metadata.
    """
    table: dict[str, Asset] = {}
    for name in list_files(folder):
        data = (folder / name).read_bytes()
        known = before.get(name)
        table[name] = {
            "sha256": _sha256(data),
            "bytes": len(data),
            "about": known["about"] if known else "",
            "command": (known["command"] if known else "") or _own_command(name, data),
        }
    return table


def update_table(folder: Path, path: Path = TABLE) -> list[str]:
    """Rewrite the table at ``path`` from ``folder``; returns the names that still lack a word.

    Raises:
        InputError: when the disk is full or the table cannot be written.
    """
    table = make_table(folder, read_table(path))
    write_atomically(path, (json.dumps(table, indent=2) + "\n").encode())
    return [name for name, asset in table.items() if not (asset["about"] and asset["command"])]


def _fetch(name: str, asset: Asset) -> bytes:
    url = f"{assets_url()}/{urllib.parse.quote(name)}"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            data = answer.read()
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        raise InputError(
            f"Cannot fetch the asset {name!r} from {url} ({error}): check the network, or set "
            "APV_ASSETS_URL to a folder that holds it."
        ) from error
    if _sha256(data) != asset["sha256"]:
        raise InputError(
            f"The asset {name!r} from {url} is damaged ({len(data)} bytes with another checksum; "
            f"{asset['bytes']} expected) and was not kept: fetch it again, or set APV_ASSETS_URL "
            "to a folder with the right file."
        )
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _own_command(name: str, data: bytes) -> str:
    """The command in the header of a safetensors file (8 bytes of length, then JSON), or ''."""
    if not name.endswith(".safetensors"):
        return ""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    story = json.loads(header.get("__metadata__", {}).get("apv_edu", "{}"))
    return story.get("metadata", {}).get("command", "")


def main() -> None:
    """Bring the table up to date with the checkout's ``assets/``."""
    folder = checkout_assets()
    if folder is None:
        sys.exit("There is no assets/ folder beside the package: run this in a checkout.")
    lacking = update_table(folder)
    print(f"{TABLE}: {len(read_table())} assets")
    for name in lacking:
        print(f"  {name}: say what it is (about) and how it was made (command) in {TABLE.name}")


if __name__ == "__main__":
    main()
