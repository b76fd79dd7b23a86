"""What the project promises of its speed, held against what was measured."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

Rows = Sequence[dict]


class Bar(NamedTuple):
    """A promise about one column of one bench: in every row that ``where`` fits."""

    bench: str
    where: dict[str, str]
    column: str
    sign: Literal[">=", "<="]
    limit: float


def _bars() -> Iterator[Bar]:
    for step, limits in {"apv_edu": (0.36, 0.50, 0.50), "fast": (0.42, 0.56, 0.56)}.items():
        small, paper, finetuning = limits
        share = ("share_of_peak", ">=")
        yield Bar("pretrain", {"size": "small", "step": step}, *share, small)
        yield Bar("pretrain", {"size": "paper", "step": step}, *share, paper)
        yield Bar("finetune", {"update": step}, *share, finetuning)
    yield Bar("pretrain", {"step": "apv_edu"}, "times_naive", ">=", 1.6)
    yield Bar("finetune", {"update": "apv_edu"}, "times_naive", ">=", 1.6)
    yield Bar("finetune", {"update": "apv_edu"}, "times_matmul", ">=", 1.3)
    yield Bar("replay", {"from": "ring"}, "times_official", ">=", 3.0)
    yield Bar("replay", {"from": "ring"}, "gb_of_250k", "<=", 3.3)
    yield Bar("render", {}, "ratio", ">=", 10.0)
    yield Bar("render", {}, "difference", "<=", 12.0)
    yield Bar("render", {}, "outline_shift_px", "<=", 1.0)
    yield Bar("policy", {"size": "small"}, "cpu_ms", "<=", 2.0)
    update = {"size": "paper", "update": "fine-tuning"}
    yield Bar("memory", update | {"batch": "16x50"}, "peak_gib", "<=", 4.0)
    yield Bar("memory", update | {"batch": "50x50"}, "peak_gib", "<=", 8.0)
    yield Bar("data", {}, "open_s", "<=", 1.0)
    # A batch is 5 MiB; if memory grew with all that is read, this would be GiBs.
    yield Bar("data", {}, "grown_mib", "<=", 8.0)
    yield Bar("gpu", {"way": "graph"}, "times_naive", ">=", 5.0)
    yield Bar("gpu", {"way": "graph"}, "times_careful", ">=", 2.5)


BARS = tuple(_bars())
"""What is promised. The size ``smoke`` is for tests and counts for nothing."""


def held_against(bars: Sequence[Bar], measured: Mapping[str, Rows]) -> list[dict]:
    """One row a bar: what it promises, the worst that was measured, and whether it holds.

    A bar of which nothing was measured holds nothing, and says so.
    """
    return [_verdict(bar, measured.get(bar.bench, [])) for bar in bars]


def _verdict(bar: Bar, rows: Rows) -> dict:
    fitting = [
        row[bar.column]
        for row in rows
        if bar.column in row
        and row.get("size") != "smoke"
        and all(row.get(key) == value for key, value in bar.where.items())
    ]
    worst, verdict = None, "not measured"
    if fitting:
        worst = min(fitting) if bar.sign == ">=" else max(fitting)
        holds = worst >= bar.limit if bar.sign == ">=" else worst <= bar.limit
        verdict = "holds" if holds else "misses"
    return {
        "bench": bar.bench,
        "where": " ".join(bar.where.values()) or "all",
        "column": bar.column,
        "promised": f"{bar.sign} {bar.limit:g}",
        "measured": worst,
        "verdict": verdict,
    }
