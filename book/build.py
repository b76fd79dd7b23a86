"""Build the book: execute the notebooks, stage the pages, render them, all without a network.

    python book/build.py --preset laptop --out _build

What is under ``--out`` afterwards:

    cache/           executed notebooks, kept until what they depend on changes, and a runtime
    dream/           the model that one page runs in the browser
    source/          the pages as Sphinx read them, with executed notebooks
    html/            the book; html/index.html opens it
    run_times.json   how long each notebook took
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import nbformat
import run_times
import yaml
from addresses import in_colab
from run_times import PRESETS, Run, duration

from apv_edu.files import write_atomically

ROOT = Path(__file__).resolve().parent.parent
ACCOUNT = Path(__file__).with_name("reproducibility.py")
"""Makes the page of the same name, in a book that has it."""
DREAM = Path(__file__).with_name("dream.py")
"""Makes the scripts of the page of the same name, in a book that has it."""
TOOLS = "apv_edu torch numpy matplotlib gymnasium mujoco dm_control metaworld"
"""Packages that compute or draw what a notebook shows."""


class BuildError(RuntimeError):
    """The book could not be built; the message says which step, why, and what helps."""


def pages(root: Path) -> list[str]:
    """The pages of the table of contents, in order."""
    toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    return [page["file"] for part in toc["parts"] for page in part["chapters"]]


def chapters(root: Path) -> list[Path]:
    """The notebooks of the table of contents, in order."""
    found = [root / f"{page}.ipynb" for page in pages(root) if page.startswith("notebooks/")]
    for path in found:
        if not path.is_file():
            raise BuildError(f"_toc.yml names {path}, which does not exist: add it or its line.")
    return found


def fingerprint(root: Path, notebook: Path, preset: str, seed: int) -> str:
    """A checksum of all that a notebook's outputs depend on."""
    files = [path for path in (root / "apv_edu").rglob("*") if path.suffix in _SOURCES]
    files += [path for path in (root / "assets").rglob("*") if path.is_file()]
    files += [root / "requirements.txt", root / "pyproject.toml", notebook]
    digest = hashlib.sha256(f"{preset} {seed} {sys.version} {_cores()}".encode())
    digest.update(Path(__file__).read_bytes())
    for path in sorted(set(files)):
        if path.is_file():
            digest.update(f"\0{path.relative_to(root)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


_SOURCES = {".py", ".js", ".css", ".json", ".html"}


def execute(notebook: Path, *, preset: str, seed: int, cache: Path, root: Path = ROOT) -> Path:
    """Run ``notebook`` in a fresh kernel and an empty folder; return the executed copy.

    A copy made earlier from the same inputs is used again. Beside it lies a JSON file with its Run.

    Raises:
        BuildError: if a cell fails.
    """
    key = fingerprint(root, notebook, preset, seed)
    done = cache / f"{notebook.stem}.{preset}.{seed}.{key}.ipynb"
    if done.is_file() and done.with_suffix(".json").is_file():
        seconds = json.loads(done.with_suffix(".json").read_text("utf-8"))["seconds"]
        print(f"  {notebook.stem}: unchanged, ran {duration(seconds)}", flush=True)
        return done
    cache.mkdir(parents=True, exist_ok=True)
    print(f"  {notebook.stem}: running at preset {preset} ...", end=" ", flush=True)
    with tempfile.TemporaryDirectory(prefix="apv-book-") as folder:
        work = Path(folder, "work")
        work.mkdir()
        copy = Path(folder, notebook.name)
        start, cpu = time.perf_counter(), _cpu_seconds()
        command = [sys.executable, "-m", "papermill", str(notebook), str(copy), "--cwd", str(work)]
        options = ["-k", "python3", "-p", "PRESET", preset, "-p", "SEED", str(seed)]
        result = subprocess.run(
            [*command, *options, "--no-progress-bar", "--log-level", "ERROR"],
            env={**os.environ, "APV_STATIC": "1", "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        if result.returncode:
            tail = "\n".join((result.stdout + result.stderr).strip().splitlines()[-25:])
            raise BuildError(f"{notebook.name} failed at preset {preset}; its last words:\n{tail}")
        page = _tidy(nbformat.read(copy, as_version=4))
        run = Run(
            name=notebook.stem,
            title=_title(page, notebook.stem),
            preset=preset,
            seed=seed,
            seconds=round(seconds, 1),
            cpu_seconds=round(_cpu_seconds() - cpu, 1),
            cores=_cores(),
            command=_by_hand(notebook, options),
            versions=_versions(),
        )
        for old in cache.glob(f"{notebook.stem}.{preset}.{seed}.*"):
            old.unlink(missing_ok=True)
        _write(done.with_suffix(".json"), json.dumps(asdict(run), indent=2) + "\n")
        _write(done, nbformat.writes(page))
    print(duration(seconds), flush=True)
    return done


def stage(root: Path, source: Path, executed: list[Path]) -> list[Run]:
    """Copy the pages and the executed notebooks to ``source`` and write the run times there."""
    shutil.rmtree(source, ignore_errors=True)
    scripts = [path.name for path in (root / "book").glob("*.py")]
    ignored = shutil.ignore_patterns(
        "__pycache__", *scripts, "*.sh", "pdf.js", "*.csv", ".ipynb_checkpoints"
    )
    shutil.copytree(root / "book", source / "book", ignore=ignored)
    shutil.copy(root / "_config.yml", source)
    shutil.copy(root / "_toc.yml", source)
    for grid in root.glob("assets/results/*.toml"):  # pages quote them
        copy = source / grid.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(grid, copy)
    (source / "notebooks").mkdir()
    runs = [Run(**json.loads(path.with_suffix(".json").read_text("utf-8"))) for path in executed]
    rows = run_times.read(root)
    for run, path in zip(runs, executed, strict=True):
        page = nbformat.read(path, as_version=4)
        link = in_colab(f"notebooks/{run.name}.ipynb", root)
        button = f"{{bdg-link-primary}}`Open in Colab <{link}>`"
        label = f"{run_times.label(run, rows)}\n\n{button}"
        page.cells.insert(1, nbformat.v4.new_markdown_cell(label))
        nbformat.write(page, source / "notebooks" / f"{run.name}.ipynb")
    _write(source / "book" / "run_times.md", run_times.table(runs, rows))
    return runs


def account(root: Path, *arguments: str) -> None:
    """Run the script that tells how figures and shipped files were made, if the book has its page.

    Raises:
        BuildError: with the script's own sentence, for a figure or a file without a command.
    """
    if "book/reproducibility" in pages(root):
        _make(ACCOUNT, "--root", str(root), *arguments)


def dream(root: Path, cache: Path, folder: Path) -> None:
    """Make the scripts of the page that dreams in ``folder``, if the book has it.

    Raises:
        BuildError: with the script's own sentence, when its runtime cannot be had.
    """
    shutil.rmtree(folder, ignore_errors=True)
    if "book/dream" in pages(root):
        _make(DREAM, "--cache", str(cache), "--out", str(folder))


def _make(script: Path, *arguments: str) -> None:
    command = [sys.executable, str(script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"The page {script.stem}: {result.stderr.strip()}")


def render(source: Path, html: Path) -> None:
    """Render the staged pages; the old book is replaced only by one without a warning.

    Raises:
        BuildError: if Sphinx reports a warning or an error.
    """
    work = html.with_name("render")
    shutil.rmtree(work, ignore_errors=True)
    script = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "build", str(source), "--path-output", str(work)]
    command += ["--all", "-n", "-W", "--keep-going"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"Jupyter Book stopped:\n{_complaints(result.stdout + result.stderr)}")
    old = html.with_name("html.old")
    shutil.rmtree(old, ignore_errors=True)
    if html.exists():
        html.rename(old)
    (work / "_build" / "html").rename(html)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)


def build(
    *,
    preset: str = "laptop",
    seed: int = 0,
    out: Path,
    cache: Path | None = None,
    root: Path = ROOT,
    record: bool = False,
) -> Path:
    """Execute, stage and render; return the path of the book's index.html.

    With ``record``, the run times are kept in ``book/run_times.csv`` for other builds to show.

    Raises:
        BuildError: naming the step that failed.
    """
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    cache = cache or out / "cache"
    account(root, "--check")
    dream(root, cache, out / "dream")
    print(f"Notebooks, preset {preset}:", flush=True)
    executed = [
        execute(path, preset=preset, seed=seed, cache=cache, root=root) for path in chapters(root)
    ]
    runs = stage(root, out / "source", executed)
    if (out / "dream").is_dir():
        shutil.copytree(out / "dream", out / "source/book/style/dream", dirs_exist_ok=True)
    if record:
        run_times.record(root, runs)
    _write(out / "run_times.json", json.dumps([asdict(run) for run in runs], indent=2) + "\n")
    account(root, "--out", str(out))
    print("Pages: rendering ...", end=" ", flush=True)
    begin = time.perf_counter()
    render(out / "source", out / "html")
    print(duration(time.perf_counter() - begin), flush=True)
    print(f"The book took {duration(time.perf_counter() - start)}. Open this file in a browser:")
    return out / "html" / "index.html"


def _tidy(page: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop papermill's notes (paths and times of this machine) and hide its own cell."""
    page.metadata.pop("papermill", None)
    for cell in page.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.metadata["tags"] = ["injected-parameters", "remove-cell"]
    return page


def _by_hand(notebook: Path, options: list[str]) -> str:
    """The command line that executes a notebook as this script does: in an empty folder."""
    names = f"{notebook.parent.name}/{notebook.name} /tmp/{notebook.name}"
    words = f'APV_STATIC=1 .venv/bin/papermill {names} --cwd "$(mktemp -d)"'
    return " ".join([words, *options])


def _versions() -> dict[str, str]:
    """Versions of Python and of what draws and computes, as far as it is installed."""
    found = {"python": sys.version.split()[0]}
    for tool in TOOLS.split():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[tool] = importlib.metadata.version(tool)
    return found


def _title(page: nbformat.NotebookNode, otherwise: str) -> str:
    lines = (line for cell in page.cells for line in cell.source.splitlines())
    return next((line[2:].strip() for line in lines if line.startswith("# ")), otherwise)


def _complaints(output: str) -> str:
    """The lines of Sphinx's output that say what is wrong, else its end."""
    lines = output.strip().splitlines()
    loud = [line for line in lines if "WARNING" in line or "ERROR" in line or "Error" in line]
    return "\n".join(loud or lines[-25:])


def _cpu_seconds() -> float:
    """Processor time of all processes started here that have ended, their children included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode())


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the book.")
    parser.add_argument("--preset", choices=PRESETS, default="laptop", help="size of every run")
    parser.add_argument("--seed", type=int, default=0, help="seed of every run")
    parser.add_argument("--out", type=Path, default=ROOT / "_build", help="folder for the result")
    parser.add_argument("--record", action="store_true", help="keep the run times in the book")
    given = parser.parse_args()
    try:
        print(build(preset=given.preset, seed=given.seed, out=given.out, record=given.record))
    except BuildError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
