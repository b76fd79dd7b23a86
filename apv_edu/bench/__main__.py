"""Measure speed: print a table, and keep it as JSON or CSV.

``all`` runs every bench, which takes about half an hour, and holds the promises of
``apv_edu.bench.bars`` against the figures. ``bars`` does the latter with tables that are there
already, some of them from a machine with a GPU.
"""

import argparse
import csv
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from inspect import signature
from pathlib import Path

from apv_edu.bench.bars import BARS, held_against
from apv_edu.errors import InputError
from apv_edu.files import write_atomically

BENCHES = {
    "pretrain": "apv_edu.bench.pretrain:bench_pretrain",
    "finetune": "apv_edu.bench.finetune:bench_finetune",
    "policy": "apv_edu.bench.finetune:bench_policy",
    "gpu": "apv_edu.bench.gpu:bench_gpu",
    "kernels": "apv_edu.bench.kernels:bench_kernels",
    "memory": "apv_edu.bench.memory:bench_memory",
    "replay": "apv_edu.bench.replay:bench_replay",
    "render": "apv_edu.bench.render:bench_render",
    "data": "apv_edu.bench.data:bench_data",
    "profile": "apv_edu.bench.profile:bench_profile",
    "tricks": "apv_edu.bench.tricks:bench_tricks",
    "scaling": "apv_edu.bench.scaling:bench_scaling",
}
"""Each loads what it measures only when asked for: MuJoCo or torch."""
SIZES = ("smoke", "small", "colab", "paper")


def load(what: str) -> Callable[..., list[dict]]:
    """The function behind a name of ``BENCHES``."""
    module, _, name = BENCHES[what].partition(":")
    return getattr(import_module(module), name)


def run(what: str, sizes: Sequence[str] | None = None) -> list[dict]:
    """The rows of one bench, at its own sizes or at ``sizes``.

    Raises:
        InputError: for sizes that the bench does not know.
    """
    bench = load(what)
    if not sizes:
        return bench()
    if "sizes" not in signature(bench).parameters:
        raise InputError(f"{what} measures no model: leave --sizes out.")
    return bench(tuple(sizes))


def table(rows: Sequence[dict]) -> str:
    """Rows of equal keys as aligned text; numbers with three significant digits."""
    cells = [list(rows[0])] + [list(map(_cell, row.values())) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.rjust, line, widths)) for line in cells)
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_csv(path: Path, rows: Sequence[dict]) -> None:
    """Rows of equal keys as CSV; numbers with five significant digits, None as nothing.

    Raises:
        InputError: when the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(f"{v:.5g}" if isinstance(v, float) else v for v in row.values())
    write_atomically(path, text.getvalue().encode())


def read_tables(path: Path | None) -> dict[str, list[dict]]:
    """What ``all`` wrote: ``speed.csv`` finds the rows of ``speed_render.csv`` and its like.

    Raises:
        InputError: without a name, or where there is no such table.
    """
    if path is None:
        raise InputError("bars reads the tables beside --csv: name it, such as assets/speed.csv.")
    tables = {}
    for what in BENCHES:
        with suppress(FileNotFoundError), path.with_stem(f"{path.stem}_{what}").open() as file:
            tables[what] = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
    if not tables:
        example = path.with_stem(f"{path.stem}_render")
        raise InputError(f"There is no table such as {example}: make them with `bench all` first.")
    return tables


def _number(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one bench or all; the exit status is 2 where the reader can mend what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m apv_edu.bench", description=__doc__)
    parser.add_argument("what", choices=[*BENCHES, "all", "bars"])
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, help="of the models; each bench has its own default"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all rows as JSON")
    parser.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="also write the rows as CSV; for all, one file each: speed.csv gives speed_render.csv",
    )
    options = parser.parse_args(arguments)
    try:
        with _said_on_stderr():
            if options.what == "all":
                content = run_all(options.sizes)
                files = {f"_{what}": rows for what, rows in content.items()}
            elif options.what == "bars":
                content = held_against(BARS, read_tables(options.csv))
                print(table(content))
                files = {"_bars": content}
            else:
                content = run(options.what, options.sizes)
                print(table(content))
                files = {"": content}
            if options.json:
                write_atomically(options.json, json.dumps(content, indent=1).encode())
            for suffix, rows in files.items() if options.csv else ():
                write_csv(options.csv.with_stem(options.csv.stem + suffix), rows)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run_all(sizes: Sequence[str] | None = None) -> dict[str, list[dict]]:
    """Rows by the name of their bench, and those of ``bars`` and ``machine``; printed as they come.

    A bench that is impossible here, such as drawing without OpenGL, says so and is left out.
    """
    from apv_edu.bench.measure import machine

    tables = {}
    for what in BENCHES:
        knows = "sizes" in signature(load(what)).parameters
        try:
            tables[what] = run(what, sizes if knows else None)
        except InputError as error:
            print(f"{what} is left out: {error}", file=sys.stderr)
            continue
        print(f"{what}\n{table(tables[what])}\n", flush=True)
    tables |= {"bars": held_against(BARS, tables), "machine": [machine()]}
    for what in ("bars", "machine"):
        print(f"{what}\n{table(tables[what])}\n")
    return tables


@contextmanager
def _said_on_stderr() -> Iterator[None]:
    """Let a long bench say on stderr which part it has come to."""
    logger, handler = logging.getLogger("apv_edu.bench"), logging.StreamHandler(sys.stderr)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # some simulators print whatever reaches the root
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


if __name__ == "__main__":
    sys.exit(main())
