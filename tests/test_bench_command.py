import csv
import json
import logging
import sys

import pytest

from apv_edu.bench import __main__ as command
from apv_edu.bench.bars import BARS, Bar, held_against
from apv_edu.bench.measure import SIZES
from apv_edu.errors import InputError

ROWS = [
    {"size": "small", "step": "apv_edu", "share_of_peak": 0.4, "cpu_s": 0.123456789, "note": None},
    {"size": "paper", "step": "apv_edu", "share_of_peak": 0.5, "cpu_s": 2.0, "note": None},
]


@pytest.fixture
def pretend(monkeypatch):
    """Let every bench be a function that returns rows at once."""
    asked = {}

    def load(what):
        def with_sizes(sizes=("small",)):
            asked[what] = sizes
            return [dict(row) for row in ROWS]

        def without():
            asked[what] = None
            return [{"ratio": 12.0}]

        return without if what in ("replay", "render", "data") else with_sizes

    monkeypatch.setattr(command, "load", load)
    return asked


def test_a_table_is_printed_and_kept(pretend, tmp_path, capsys):
    files = {name: tmp_path / f"out.{name}" for name in ("json", "csv")}
    arguments = ["pretrain", "--json", str(files["json"]), "--csv", str(files["csv"])]
    assert command.main(arguments) == 0
    assert pretend == {"pretrain": ("small",)}
    assert json.loads(files["json"].read_text()) == ROWS
    with files["csv"].open() as file:
        first, second = csv.DictReader(file)
    assert first == {k: "" if v is None else str(v) for k, v in ROWS[0].items()} | {
        "cpu_s": "0.12346"
    }
    assert second["size"] == "paper"
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == list(ROWS[0])
    assert printed[1].split() == ["small", "apv_edu", "0.4", "0.123", "-"]


def test_sizes_are_passed_on_and_refused_where_there_are_none(pretend, capsys):
    assert command.main(["policy", "--sizes", "paper", "smoke"]) == 0
    assert pretend == {"policy": ("paper", "smoke")}
    assert command.main(["replay", "--sizes", "paper"]) == 2
    assert "leave --sizes out" in capsys.readouterr().err


def test_all_runs_everything_and_keeps_bars_and_machine(pretend, tmp_path, capsys):
    out = tmp_path / "speed"
    assert command.main(["all", "--json", f"{out}.json", "--csv", f"{out}.csv"]) == 0
    content = json.loads((tmp_path / "speed.json").read_text())
    assert list(content) == [*command.BENCHES, "bars", "machine"]
    assert set(pretend) == set(command.BENCHES)
    files = {path.name for path in tmp_path.iterdir()} - {"speed.json"}
    assert files == {f"speed_{what}.csv" for what in content}
    assert {"cpu", "threads", "torch", "python", "apv_edu"} <= content["machine"][0].keys()
    printed = capsys.readouterr().out
    assert all(f"{what}\n" in printed for what in content)
    assert "holds" in printed and "misses" not in printed and "not measured" in printed


def test_all_goes_on_without_a_bench_that_is_impossible_here(pretend, monkeypatch, capsys):
    load = command.load

    def refusing():
        raise InputError("No OpenGL: install it.")

    monkeypatch.setattr(command, "load", lambda what: refusing if what == "render" else load(what))
    tables = command.run_all(["small"])
    assert "render" not in tables and "scaling" in tables
    assert "render is left out: No OpenGL" in capsys.readouterr().err
    assert pretend["scaling"] == ("small",) and pretend["data"] is None


def test_bars_of_tables_that_several_machines_made(pretend, tmp_path, capsys):
    table = str(tmp_path / "speed.csv")
    command.main(["all", "--csv", table])
    before = (tmp_path / "speed_bars.csv").read_bytes()
    (tmp_path / "speed_bars.csv").unlink()
    assert command.main(["bars", "--csv", table]) == 0
    assert (tmp_path / "speed_bars.csv").read_bytes() == before
    (tmp_path / "speed_gpu.csv").unlink()
    capsys.readouterr()
    assert command.main(["bars", "--csv", table]) == 0
    assert "not measured" in capsys.readouterr().out


def test_bars_want_tables(tmp_path, capsys):
    assert command.main(["bars"]) == 2
    assert "bars reads the tables beside --csv: name it" in capsys.readouterr().err
    assert command.main(["bars", "--csv", str(tmp_path / "speed.csv")]) == 2
    assert "no table such as" in capsys.readouterr().err


def test_an_unwritable_file_is_named(pretend, tmp_path, capsys):
    for option in ("--json", "--csv"):
        assert command.main(["pretrain", option, str(tmp_path)]) == 2
        assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize("what", command.BENCHES)
def test_every_bench_is_there(what):
    assert command.load(what).__name__ == f"bench_{what}"


def test_sizes_of_the_command_are_those_of_the_benches():
    assert list(command.SIZES) == list(SIZES)


def test_progress_goes_to_stderr_and_only_there(monkeypatch, capsys):
    from apv_edu.bench.measure import log

    monkeypatch.setattr(command, "load", lambda what: lambda: log.info("half-way") or ROWS)
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler(sys.stderr)])
    assert command.main(["pretrain"]) == 0
    out, err = capsys.readouterr()
    assert err == "half-way\n" and "half-way" not in out
    log.info("later")
    assert capsys.readouterr().err == ""


def test_the_worst_fitting_row_decides():
    least = Bar("pretrain", {"step": "apv_edu"}, "share_of_peak", ">=", 0.4)
    most = Bar("pretrain", {"step": "apv_edu"}, "cpu_s", "<=", 1.0)
    elsewhere = Bar("pretrain", {"size": "small"}, "cpu_s", "<=", 1.0)
    smoke = ROWS[0] | {"size": "smoke", "share_of_peak": 0.01, "cpu_s": 99.0}
    held, missed, alone = held_against([least, most, elsewhere], {"pretrain": [*ROWS, smoke]})
    assert (held["measured"], held["verdict"], held["promised"]) == (0.4, "holds", ">= 0.4")
    assert (missed["measured"], missed["verdict"]) == (2.0, "misses")
    assert (alone["measured"], alone["verdict"], alone["where"]) == (0.123456789, "holds", "small")
    for nothing in ({}, {"pretrain": [smoke]}, {"pretrain": []}):
        (row,) = held_against([least], nothing)
        assert (row["measured"], row["verdict"]) == (None, "not measured")


def test_bars_are_of_columns_that_exist(monkeypatch):
    """A bar of a column that a bench has not would never be measured."""
    from apv_edu.bench import data, finetune, gpu, measure, memory, pretrain, replay

    monkeypatch.setattr(gpu, "compile_parts", lambda *_: None)
    monkeypatch.setattr(measure, "GEMM", 64)
    for module in (pretrain, finetune):
        monkeypatch.setattr(module, "compiled", lambda model, step: 1.0)
    monkeypatch.setattr(memory, "apart", lambda task, *arguments: task(*arguments))
    monkeypatch.setattr(data, "apart", lambda task, *arguments: task(*arguments))
    monkeypatch.setattr(replay, "BATCHES", ((2, 5),))
    small = {"batch": 1, "length": 6, "rounds": 1}
    measured = {
        "pretrain": pretrain.bench_pretrain(("smoke",), **small),
        "finetune": finetune.bench_finetune(("smoke",), **{**small, "batch": 2}),
        "policy": finetune.bench_policy(("smoke",), rounds=1),
        "memory": memory.bench_memory(("smoke",), finetuning=((2, 6),), updates=1),
        "replay": replay.bench_replay(frames=60, episode=20, image_size=8, rounds=1),
        "data": data.bench_data(videos=2, image_size=8, batches=2),
        "gpu": gpu.bench_gpu(
            ("smoke",), shapes=(("pre-training", 2, 4),), device="cpu", rounds=1, product=16
        ),
    }
    for bar in (bar for bar in BARS if bar.bench != "render"):
        assert bar.column in measured[bar.bench][0]
        for key, value in bar.where.items():
            known = {row[key] for row in measured[bar.bench]} | {
                *("small", "paper", "16x50", "50x50")
            }
            assert value in known
