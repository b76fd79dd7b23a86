"""``python -m apv_edu.bench WHAT [--json FILE]``: print a table of measured speed."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from apv_edu.errors import InputError
from apv_edu.files import write_atomically


def table(rows: Sequence[dict]) -> str:
    """Rows of equal keys as aligned text; numbers with three significant digits."""
    cells = [list(rows[0])] + [
        [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.rjust, line, widths)) for line in cells)
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one bench; the exit status is 2 where the reader can mend what went wrong."""
    parser = argparse.ArgumentParser(prog="python -m apv_edu.bench", description=__doc__)
    parser.add_argument(
        "what", choices=["pretrain", "finetune", "policy", "memory", "replay", "render"]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")
    options = parser.parse_args(arguments)
    try:
        # Each bench loads what it measures only when asked for: MuJoCo or torch.
        if options.what == "pretrain":
            from apv_edu.bench.pretrain import bench_pretrain as bench
        elif options.what == "finetune":
            from apv_edu.bench.finetune import bench_finetune as bench
        elif options.what == "policy":
            from apv_edu.bench.finetune import bench_policy as bench
        elif options.what == "memory":
            from apv_edu.bench.finetune import bench_memory as bench
        elif options.what == "replay":
            from apv_edu.bench.replay import bench_replay as bench
        else:
            from apv_edu.bench.render import bench_render as bench
        rows = bench()
        print(table(rows))
        if options.json:
            write_atomically(options.json, json.dumps(rows, indent=1).encode())
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
