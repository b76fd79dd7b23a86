import mmap
import os

import numpy as np
import pytest
import torch

from apv_edu.bench import memory, scaling
from apv_edu.bench.data import bench_data, sparse_dataset
from apv_edu.bench.measure import MIB, apart, interleaved, machine, private_bytes, threads
from apv_edu.data.video import VideoDataset


def test_tasks_take_turns_and_the_first_turn_does_not_count(monkeypatch):
    clock, order = [0.0], []
    durations = {"a": iter([100.0, 1.0, 3.0, 8.0]), "b": iter([100.0, 2.0, 2.0, 9.0])}

    def task(name):
        order.append(name)
        clock[0] += next(durations[name])

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("time.process_time", lambda: clock[0] / 2)
    seconds = interleaved({"a": lambda: task("a"), "b": lambda: task("b")}, 3)
    assert order == ["a", "b"] * 4
    assert seconds == {"a": (3.0, 1.5), "b": (2.0, 1.0)}


def test_threads_are_as_before_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def _pid() -> dict:
    return {"pid": os.getpid()}


def test_apart_is_in_another_process():
    assert apart(_pid)["pid"] != os.getpid()


def test_private_memory_counts_what_is_held_and_no_mapped_file(tmp_path):
    np.save(tmp_path / "big.npy", np.ones(2**25, np.uint8))
    before = private_bytes()
    mapped = np.load(tmp_path / "big.npy", mmap_mode="r")
    assert mapped.sum() == 2**25
    assert private_bytes() - before < 8 * MIB
    # Fresh memory of the system: NumPy might be given some that this process holds already.
    held = np.frombuffer(mmap.mmap(-1, 2**25, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    held.fill(1)
    assert private_bytes() - before > 24 * MIB, held.shape


def test_the_machine_is_described():
    about = machine()
    assert about["torch"] == torch.__version__.partition("+")[0] or about["torch"]
    assert about["cpu"] and about["threads"] == torch.get_num_threads()


def test_memory_rows_tell_batches_apart():
    """A batch of 64 x 40 frames alone is 30 MiB, and its images as numbers 120 MiB."""
    rows = memory.bench_memory(
        ("smoke",), pretraining=((2, 5), (64, 40)), finetuning=((2, 8),), updates=1
    )
    assert [(row["size"], row["update"], row["batch"]) for row in rows] == [
        ("smoke", "pretraining", "2x5"),
        ("smoke", "pretraining", "64x40"),
        ("smoke", "fine-tuning", "2x8"),
    ]
    little, much, _ = rows
    assert all(0.05 < row["imports_gib"] < row["peak_gib"] for row in rows)
    assert 0.15 < much["peak_gib"] - little["peak_gib"] < 3


def test_data_rows():
    (row,) = bench_data(videos=40, frames=30, image_size=8, batches=20)
    assert row["videos"] == 40 and row["batches"] == 20
    assert row["gb"] == pytest.approx(40 * 30 * 8 * 8 * 3 / 1e9)
    assert row["open_s"] > 0 and row["batch_ms"] > 0 and row["before_mib"] > 10
    assert row["grown_mib"] == pytest.approx(row["after_mib"] - row["before_mib"])


def test_the_sparse_dataset_is_a_dataset_and_takes_no_room(tmp_path):
    dataset = VideoDataset.open(sparse_dataset(tmp_path, videos=300, frames=30))
    assert len(dataset.split("train")) == 300
    assert dataset.sample(2, 25, np.random.default_rng(0)).shape == (2, 25, 64, 64, 3)
    assert (tmp_path / "frames.npy").stat().st_blocks * 512 < 0.1 * dataset.frames.nbytes


def test_scaling_rows():
    rows = scaling.bench_scaling(
        ("smoke",),
        models=("smoke",),
        batches=(1, 2),
        lengths=(6,),
        videos=(3,),
        worlds=(1, 2),
        scenes=("tabletop:reach",),
        counts=(1,),
        steps=3,
        rounds=1,
    )
    kinds = ("pretraining", "fine-tuning")
    expected = [("batch", value, kind) for value in (1, 2) for kind in kinds]
    expected += [("length", 6, kind) for kind in kinds] + [("model", "smoke", "pretraining")]
    expected += [("threads", 1, kind) for kind in kinds] + [("videos", 3, "sampled batch")]
    expected += [("worlds", 1, "step"), ("worlds", 2, "step")]
    assert [(row["against"], row["value"], row["what"]) for row in rows] == expected
    for row in rows:
        assert row["wall_s"] > 0 and row["cpu_s"] > 0
        assert (row["gflops"] is None) == (row["what"] not in kinds)
    units = {"batch": 25, "length": 16 * 6, "model": 400, "threads": 400, "videos": 400}
    for row in rows:
        count = row["value"] * units["batch"] if row["against"] == "batch" else None
        count = count or units.get(row["against"]) or row["value"]
        assert row["per_s"] * row["wall_s"] == pytest.approx(count)
    work = scaling.flops_per_step(scaling.SIZES["smoke"], 2, 25)
    assert rows[2]["gflops"] * rows[2]["cpu_s"] == pytest.approx(work / 1e9)
