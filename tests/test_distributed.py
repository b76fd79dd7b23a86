"""Pre-training in two processes that ``torchrun`` starts; they also run this file as a script."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from apv_edu import checkpoint
from apv_edu.cli import main
from apv_edu.config import ModelSize, OptimizerConfig, PretrainConfig
from apv_edu.data.video import VideoDataset, pack_videos
from apv_edu.distributed import ALONE, Processes, together
from apv_edu.errors import InputError
from apv_edu.files import locked
from apv_edu.finite import check_losses
from apv_edu.logger import read_csv
from apv_edu.optimizer import DecoupledAdam
from apv_edu.pretrain import run_tensors
from apv_edu.pretrain_step import TrainingState, batch_of_step, train_step
from apv_edu.video_model import ActionFreeVideoModel

SEED, STEPS = 5, 8
CONFIG = PretrainConfig(
    model=ModelSize(image_size=32, depth=4, deter=32, hidden=32, stoch=4, classes=4),
    optimizer=OptimizerConfig(learning_rate=1e-3, clip=380.0),
    batch_size=4,
    sequence_length=10,
)
OPTIONS = (
    "--preset smoke --model.image-size 32 --horizon 2 --validation-videos 2 --validate-every 6 "
    f"--checkpoint-every 3 --log-every 1 --device cpu --seed {SEED} --no-progress --threads 1"
).split()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> VideoDataset:
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for index in range(6):
        video = np.cumsum(rng.integers(0, 20, (14, 32, 32, 3)), axis=0).astype(np.uint8)
        np.savez(folder / f"noise-{index}-14.npz", image=video)
    return pack_videos(folder, folder / "data", image_size=32, min_length=10, progress=False)


def five_steps(
    dataset: VideoDataset, processes: Processes
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """The weights and moments after five steps in double precision, and the numbers of each."""
    torch.manual_seed(processes.rank)  # the others' first weights must not matter
    model = ActionFreeVideoModel(CONFIG.model).double()
    optimizer = DecoupledAdam(model.parameters(), CONFIG.optimizer)
    state = TrainingState(model, optimizer, processes=processes)
    numbers = []
    for step in range(5):
        frames, noise = batch_of_step(model, dataset, CONFIG, SEED, step, processes)
        values = train_step(state, frames, CONFIG, noise, "fp32")
        numbers.append({name: float(value) for name, value in values.items()})
    return run_tensors(model, optimizer), numbers


def script(data: str, out: str) -> None:
    """What each process does under ``torchrun``."""
    torch.set_num_threads(1)
    with together("cpu") as processes:
        tensors, numbers = five_steps(VideoDataset.open(data), processes)
        story = {"numbers": numbers, "sentences": []}
        try:
            with processes.agree():
                if not processes.first:
                    raise InputError("The second has no disk: buy one.")
        except InputError as error:
            story["sentences"].append(str(error))
        loss = torch.tensor(1.0 if processes.first else float("nan"))
        try:
            check_losses(processes.mean({"model_loss": loss}), 7, 0, Path(out))
        except InputError as error:
            story["sentences"].append(str(error))
        story["turns"] = processes.in_turn(lambda: sorted(os.listdir(out)))
        processes.in_turn(lambda: (Path(out) / f"turn{processes.rank}").touch())
        checkpoint.save(Path(out) / f"rank{processes.rank}.safetensors", tensors, story)


def torchrun(*arguments: object) -> subprocess.Popen[str]:
    """Two processes with these arguments to Python."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pretrain_together(data: Path, out: Path, *more: object) -> subprocess.Popen[str]:
    options = ("pretrain", "--data", data, "--out", out, *OPTIONS, *more)
    return torchrun("-m", "apv_edu.cli", *options)


def pretrain_alone(data: Path, out: Path, *more: object) -> None:
    options = ("pretrain", "--data", data, "--out", out, *OPTIONS, *more)
    assert main([str(option) for option in options]) == 0


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and stderr; a hang is an error, and leaves no process behind."""
    try:
        error = process.communicate(timeout=120)[1]
    finally:
        if process.poll() is None:
            process.terminate()  # torchrun ends its processes and itself
            process.communicate(timeout=60)
    return process.returncode, error


def worker(process: subprocess.Popen[str], rank: int) -> int:
    """The process id of that rank under ``torchrun``."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


def assert_close(one: Path, other: Path) -> None:
    """Two safetensors files with the same weights (and moments) but for fp32 rounding."""
    mine, theirs = checkpoint.load(one)[0], checkpoint.load(other)[0]
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-2, atol=1e-4, msg=name)


def test_each_takes_its_rows_of_one_batch_and_one_noise(dataset: VideoDataset):
    model = ActionFreeVideoModel(CONFIG.model)
    whole = batch_of_step(model, dataset, CONFIG, SEED, 3)
    company = [Processes(rank, 2) for rank in (0, 1)]
    shares = [batch_of_step(model, dataset, CONFIG, SEED, 3, one) for one in company]
    for joint, *parts in zip(whole, *shares, strict=True):
        assert [len(part) for part in parts] == [2, 2]
        assert torch.equal(joint, torch.cat(parts))
        assert not torch.equal(*parts)
    with pytest.raises(InputError, match=r"batch_size=4 cannot be shared equally by 3 .* of 3"):
        batch_of_step(model, dataset, CONFIG, SEED, 3, Processes(0, 3))


def test_outside_torchrun_there_is_one_process():
    with together("cpu") as processes:
        assert processes == ALONE
        assert processes.in_turn(lambda: 3) == 3
    with pytest.raises(InputError, match="no device 'abacus'"), together("abacus"):
        pass


def test_two_processes_do_the_joint_batchs_steps(dataset: VideoDataset, tmp_path: Path):
    status, error = finish(torchrun(__file__, dataset.path, tmp_path))
    assert status == 0, error
    files = [checkpoint.load(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1)]
    tensors, numbers = five_steps(dataset, ALONE)
    for joint, story in files:
        assert joint.keys() == tensors.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(joint[name], tensor, rtol=1e-8, atol=1e-8, msg=name)
        for mine, theirs in zip(numbers, story["numbers"], strict=True):
            assert theirs == pytest.approx(mine, rel=1e-8)
        disk, nan = story["sentences"]
        assert disk == "The second has no disk: buy one."
        assert nan.startswith("The model_loss is nan at step 7")
    clipped = {step["grad_norm"] > CONFIG.optimizer.clip for step in numbers}
    assert clipped == {True, False}  # or a sum of gradients might look like a mean
    for name, tensor in files[0][0].items():
        assert torch.equal(tensor, files[1][0][name]), name


def test_the_command_trains_one_model_in_two_processes(dataset: VideoDataset, tmp_path: Path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    pretrain_alone(dataset.path, alone, "--steps", STEPS)
    status, error = finish(pretrain_together(dataset.path, both, "--steps", STEPS))
    assert status == 0, error
    assert {path.name for path in both.iterdir()} == {path.name for path in alone.iterdir()}
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert_close(alone / name, both / name)
    logs = [read_csv(folder / "metrics.csv") for folder in (alone, both)]
    one, two = ([row for row in log if "time" not in row[1]] for log in logs)
    assert [row[:2] for row in two] == [row[:2] for row in one]  # one row a number, not two
    assert [row[2] for row in two] == pytest.approx([row[2] for row in one], rel=1e-3)
    assert "Traceback" not in error


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.long)])
def test_one_process_goes_on_when_one_of_two_was_killed(
    dataset: VideoDataset, tmp_path: Path, rank: int
):
    out, alone = tmp_path / "killed", tmp_path / "alone"
    process = pretrain_together(dataset.path, out, "--steps", 10_000)
    while process.poll() is None and not (out / "checkpoint.safetensors").exists():
        time.sleep(0.01)
    os.kill(worker(process, rank), signal.SIGKILL)
    status, error = finish(process)
    assert status != 0
    assert "Signal 9" in error
    done = checkpoint.load(out / "checkpoint.safetensors")[1]["step"]
    assert done % 3 == 0
    for folder in (out, alone):
        pretrain_alone(dataset.path, folder, "--steps", done + 2)
    assert_close(alone / "checkpoint.safetensors", out / "checkpoint.safetensors")


def test_two_processes_go_on_where_one_stopped(dataset: VideoDataset, tmp_path: Path):
    out, alone = tmp_path / "run", tmp_path / "alone"
    pretrain_alone(dataset.path, out, "--steps", 3)
    pretrain_alone(dataset.path, alone, "--steps", STEPS)
    status, error = finish(pretrain_together(dataset.path, out, "--steps", STEPS))
    assert status == 0, error
    assert_close(alone / "checkpoint.safetensors", out / "checkpoint.safetensors")
    logged = [row[0] for row in read_csv(out / "metrics.csv") if row[1] == "train/model_loss"]
    assert logged == list(range(1, STEPS + 1))


@pytest.mark.parametrize(
    ("batch_size", "sentence"),
    [
        (4, r"apv-edu: Another process is writing to .*run: wait for it or choose another folder"),
        pytest.param(
            5,
            r"apv-edu: batch_size=5 cannot be shared equally by 2 processes: give a multiple of 2",
            marks=pytest.mark.long,
        ),
    ],
)
def test_what_stops_both_is_told_once(
    dataset: VideoDataset, tmp_path: Path, batch_size: int, sentence: str
):
    with locked(tmp_path / "run"):
        process = pretrain_together(dataset.path, tmp_path / "run", "--batch-size", batch_size)
        status, error = finish(process)
    assert status != 0
    assert len(re.findall(sentence, error)) == error.count("apv-edu: ") == 1
    assert error.count("Traceback") <= 1  # torchrun's own
    assert "exitcode  : 2" in error


if __name__ == "__main__":
    script(*sys.argv[1:])
