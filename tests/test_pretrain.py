import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from apv_edu import checkpoint, metrics
from apv_edu.config import PretrainConfig, pretrain_config
from apv_edu.data.video import VideoDataset, pack_videos
from apv_edu.device import choose_device, choose_precision
from apv_edu.errors import InputError
from apv_edu.logger import read_csv
from apv_edu.pretrain import pretrain
from apv_edu.seeds import stream
from apv_edu.validation import Validation
from apv_edu.video_model import ActionFreeVideoModel

SIZE = dataclasses.replace(pretrain_config("smoke").model, image_size=32)


def quick(**changes) -> PretrainConfig:
    settings = {"steps": 6, "checkpoint_every": 2, "validate_every": 3, "log_every": 1}
    sizes = {"horizon": 3, "validation_videos": 2, "model": SIZE}
    return pretrain_config("smoke", **(settings | sizes | changes))


class Recorder:
    """A logger that keeps what it is told, and may fail at a given step."""

    def __init__(self, stop_at: int | None = None):
        self.resumed: list[int] = []
        self.numbers: dict[int, dict[str, float]] = {}
        self.videos: list[tuple[int, str, tuple]] = []
        self.closed, self.stop_at = False, stop_at

    def resume(self, step: int) -> None:
        self.resumed.append(step)

    def scalars(self, step, values) -> None:
        self.numbers.setdefault(step, {}).update(values)
        if step == self.stop_at:
            raise KeyboardInterrupt

    def video(self, step, name, frames) -> None:
        self.videos.append((step, name, frames.shape))

    def close(self) -> None:
        self.closed = True


def bouncing(folder: Path, count: int, size: int = 32, length: int = 20) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        video = np.full((length, size, size, 3), 60, np.uint8)
        y, x = rng.integers(0, size - 8, 2)
        for t, frame in enumerate(video):
            at = (x + 2 * t) % (size - 8)
            frame[y : y + 8, at : at + 8] = (220, 180, 40)
        np.savez(folder / f"bounce-{index}-{length}.npz", image=video)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> VideoDataset:
    folder = tmp_path_factory.mktemp("bouncing")
    source = bouncing(folder / "videos", 8)
    return pack_videos(
        source, folder / "data", image_size=32, min_length=10, validation_fraction=0.25,
        progress=False,
    )  # fmt: skip


def run(dataset: VideoDataset, out: Path, **changes) -> ActionFreeVideoModel:
    keys = ("seed", "progress", "logger", "initial", "device", "threads", "command")
    arguments = {key: changes.pop(key) for key in keys if key in changes}
    arguments = {"progress": False, "device": "cpu", "threads": 1} | arguments
    return pretrain(dataset, quick(**changes), out, **arguments)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_run_leaves_everything_it_promises(dataset: VideoDataset, tmp_path: Path):
    model = run(dataset, tmp_path, command="apv-edu pretrain --me")
    assert not model.training
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "checkpoint.safetensors",
        "model.safetensors",
        "metrics.csv",
        "tensorboard",
        "validation_open_loop_0000003.mp4",
        "validation_open_loop_0000006.mp4",
    }
    loaded = checkpoint.load_video_model(tmp_path / "model.safetensors", SIZE)
    assert same(model, loaded)
    story = checkpoint.load(tmp_path / "model.safetensors")[1]
    assert story["command"] == "apv-edu pretrain --me"
    assert (story["seed"], story["steps"]) == (0, 6)
    rows = read_csv(tmp_path / "metrics.csv")
    assert [step for step, name, _ in rows if name == "train/model_loss"] == [1, 2, 3, 4, 5, 6]
    validated = {name for step, name, _ in rows if step == 3 and name.startswith("validation")}
    measures = ("mse", "psnr", "ssim")
    assert validated == {
        *(f"validation/{m}/h{h:02d}" for m in measures for h in (1, 2, 3)),
        *(
            f"validation/{m}/{method}"
            for m in (*measures, "changed_mse")
            for method in ("model", "last_frame", "mean_of_context")
        ),
    }


def test_it_learns(dataset: VideoDataset, tmp_path: Path):
    logger = Recorder()
    optimizer = dataclasses.replace(quick().optimizer, learning_rate=2e-3)
    run(dataset, tmp_path, steps=40, validate_every=40, logger=logger, optimizer=optimizer)
    losses = [logger.numbers[step]["train/model_loss"] for step in range(1, 41)]
    constant = 32 * 32 * 3 / 2 * np.log(2 * np.pi)  # what no training removes
    assert np.mean(losses[-5:]) - constant < 0.5 * (np.mean(losses[:2]) - constant)
    assert logger.closed


def test_same_seed_same_weights_other_seed_others(dataset: VideoDataset, tmp_path: Path):
    state = torch.random.get_rng_state()
    one, two, other = (run(dataset, tmp_path / str(i), seed=s) for i, s in enumerate((1, 1, 2)))
    assert same(one, two)
    assert not same(one, other)
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's randomness is touched


def test_an_interrupted_run_goes_on_where_it_was(dataset: VideoDataset, tmp_path: Path):
    whole = run(dataset, tmp_path / "whole")
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "cut", logger=Recorder(stop_at=5))
    assert torch.get_num_threads() == threads
    assert checkpoint.load(tmp_path / "cut" / "checkpoint.safetensors")[1]["step"] == 4
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    logger = Recorder()
    assert same(whole, run(dataset, tmp_path / "cut", logger=logger))
    assert logger.resumed == [4]
    assert sorted(logger.numbers) == [5, 6]
    assert [(step, name) for step, name, _ in logger.videos] == [(6, "validation/open_loop")]


def test_a_finished_run_can_be_extended(dataset: VideoDataset, tmp_path: Path):
    whole = run(dataset, tmp_path / "whole", steps=7)
    run(dataset, tmp_path / "parts", steps=3)
    assert same(whole, run(dataset, tmp_path / "parts", steps=7))


def test_other_settings_are_refused_by_name(dataset: VideoDataset, tmp_path: Path):
    run(dataset, tmp_path / "run", steps=2, validate_every=9)
    loss = dataclasses.replace(quick().loss, kl_scale=0.5)
    with pytest.raises(InputError, match=r"\(loss\.kl_scale: 0\.1 there, 0\.5 now; seed: 0 there"):
        run(dataset, tmp_path / "run", loss=loss, seed=3)
    other = pack_videos(
        bouncing(tmp_path / "other", 4, length=21), tmp_path / "data", image_size=32,
        min_length=10, progress=False,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"other settings \(dataset: .*another folder"):
        run(other, tmp_path / "run")
    with pytest.raises(InputError, match=r"at step 2 already, beyond the 1 asked for"):
        run(dataset, tmp_path / "run", steps=1)


def test_frames_of_another_size_are_refused(dataset: VideoDataset, tmp_path: Path):
    with pytest.raises(InputError, match=r"frames of 32 pixels but the model takes 64"):
        run(dataset, tmp_path, model=pretrain_config("smoke").model)


def test_videos_too_short_for_validation_are_refused_at_once(dataset, tmp_path: Path):
    logger = Recorder()
    with pytest.raises(InputError, match=r"no validation video of 28 frames"):
        run(dataset, tmp_path, horizon=23, logger=logger)
    assert not logger.numbers


def test_a_model_in_the_checkpoints_place_is_refused(dataset: VideoDataset, tmp_path: Path):
    run(dataset, tmp_path, steps=1)
    (tmp_path / "model.safetensors").replace(tmp_path / "checkpoint.safetensors")
    with pytest.raises(InputError, match=r"no checkpoint to resume \(a 'video_model'\): move it"):
        run(dataset, tmp_path)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("seed", -1, "seed=-1 is out of range"),
        ("threads", 0, "threads=0 is too small"),
        ("threads", -1, "threads=-1 is too small"),
    ],
)
def test_seeds_and_threads_out_of_range_are_refused(
    dataset: VideoDataset, tmp_path: Path, argument: str, value: int, message: str
):
    with pytest.raises(InputError, match=message):
        run(dataset, tmp_path / "run", **{argument: value})
    assert not (tmp_path / "run").exists()


def test_a_dataset_without_held_out_videos_is_named(tmp_path: Path):
    single = pack_videos(
        bouncing(tmp_path / "one", 1), tmp_path / "data", image_size=32, min_length=10,
        progress=False,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"no video out for validation \(1 in all\): pack more"):
        run(single, tmp_path / "run")


def test_two_processes_do_not_share_a_folder(dataset: VideoDataset, tmp_path: Path):
    code = (
        "import sys, pathlib; from apv_edu.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('mine', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "mine\n"
    logger = Recorder()
    with pytest.raises(InputError, match=r"Another process is writing to .*another folder"):
        run(dataset, tmp_path, logger=logger)
    assert not logger.numbers
    assert logger.closed
    other.kill()  # the kernel lets go of the lock
    other.communicate()
    run(dataset, tmp_path, steps=1)
    assert (tmp_path / "model.safetensors").exists()


def test_progress_shows_the_time_left(dataset: VideoDataset, tmp_path: Path, capsys):
    run(dataset, tmp_path, progress=True, logger=Recorder())
    error = capsys.readouterr().err
    assert re.search(r"6/6 \[\d\d:\d\d<\d\d:\d\d", error)
    assert re.search(r"loss=\d+", error)


def test_a_damaged_checkpoint_is_refused(dataset: VideoDataset, tmp_path: Path):
    run(dataset, tmp_path, steps=2, validate_every=9)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"checkpoint\.safetensors is damaged"):
        run(dataset, tmp_path)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    dataset: VideoDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
):
    honest, calls = ActionFreeVideoModel.loss, []

    def broken(self, *arguments, **options):
        loss, parts = honest(self, *arguments, **options)
        calls.append(loss)
        if len(calls) == 4:  # step 4, before the second checkpoint
            weight = next(self.parameters())
            if what == "loss":
                return loss * float("nan"), parts | {"model_loss": loss.detach() * float("nan")}
            return loss + (weight * 0).abs().sqrt().sum(), parts  # its slope at 0 is infinite
        return loss, parts

    monkeypatch.setattr(ActionFreeVideoModel, "loss", broken)
    name = {"loss": "model_loss", "gradient": "grad_norm"}[what]
    match = rf"{name} is nan at step 4, .*checkpoint of step 2 .* is kept.*lower optimizer"
    with pytest.raises(InputError, match=match):
        run(dataset, tmp_path, logger=Recorder())
    tensors, story = checkpoint.load(tmp_path / "checkpoint.safetensors")
    assert story["step"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_weights_that_are_not_finite_are_never_saved(dataset: VideoDataset, tmp_path: Path):
    optimizer = dataclasses.replace(quick().optimizer, learning_rate=1e39)
    with pytest.raises(InputError, match=r"The weight .* at step 1, .*nothing was saved"):
        run(dataset, tmp_path, optimizer=optimizer, checkpoint_every=1)
    assert not list(tmp_path.glob("*.safetensors"))


def test_starting_from_other_weights(dataset: VideoDataset, tmp_path: Path):
    first = run(dataset, tmp_path / "first", steps=3)
    initial = tmp_path / "first" / "model.safetensors"
    optimizer = dataclasses.replace(quick().optimizer, learning_rate=0.0, weight_decay=0.0)
    again = run(dataset, tmp_path / "again", initial=initial, optimizer=optimizer)
    assert same(first, again)
    again_with = {"optimizer": optimizer, "steps": 7}
    with pytest.raises(InputError, match=r"\(initial: [0-9a-f]{64} there, None now"):
        run(dataset, tmp_path / "again", **again_with)
    tensors, story = checkpoint.load(initial)  # the same story, other weights
    others = {name: tensor + 1 for name, tensor in tensors.items()}
    checkpoint.save(tmp_path / "other.safetensors", others, story)
    with pytest.raises(InputError, match=r"\(initial: [0-9a-f]{64} there, [0-9a-f]{64} now\)"):
        run(dataset, tmp_path / "again", initial=tmp_path / "other.safetensors", **again_with)
    moved = initial.rename(tmp_path / "moved.safetensors")  # a path is no identity
    initial = moved
    assert same(first, run(dataset, tmp_path / "again", initial=moved, **again_with))
    larger = dataclasses.replace(SIZE, deter=48)
    with pytest.raises(InputError, match=r"other sizes \(deter=32\) than asked for \(deter=48\)"):
        run(dataset, tmp_path / "larger", initial=initial, model=larger)


def test_validation_is_the_open_loop_table(dataset: VideoDataset):
    torch.manual_seed(0)
    model, config = ActionFreeVideoModel(SIZE), quick()
    numbers, grid = Validation(dataset, config, seed=3)(model)
    clips = dataset.clips(2, 8, "validation", seed=3)
    noise_seed = stream(3, 2)
    table = metrics.open_loop_table(model, clips, context=5, horizon=3, seed=noise_seed)
    by_key = {(row.method, row.horizon): row for row in table}
    assert numbers["psnr/h02"] == by_key["model", 2].psnr
    assert numbers["changed_mse/last_frame"] == metrics.summary(table)["last frame"]["changed_mse"]
    assert grid.shape == (8, 3 * 64, 2 * 64, 3)


def test_streams_differ():
    seeds = {stream(*key) for key in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1))}
    assert len(seeds) == 5


def test_devices_and_precision():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="no device 'abacus'"):
        choose_device("abacus")
    assert choose_precision("auto", torch.device("cpu")) == "fp32"
    assert choose_precision("bf16", torch.device("cpu")) == "bf16"


def test_bf16_trains_close_to_fp32(dataset: VideoDataset, tmp_path: Path):
    losses = {}
    for precision in ("fp32", "bf16"):
        logger = Recorder()
        model = run(dataset, tmp_path / precision, precision=precision, steps=3, logger=logger)
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        losses[precision] = logger.numbers[3]["train/image_loss"]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.01)


@pytest.mark.gpu
def test_a_gpu_trains_and_resumes(dataset: VideoDataset, tmp_path: Path):
    run(dataset, tmp_path, steps=3, device="auto")
    logger = Recorder()
    model = run(dataset, tmp_path, device="auto", logger=logger)
    assert next(model.parameters()).is_cuda
    settings = checkpoint.load(tmp_path / "checkpoint.safetensors")[1]["settings"]
    assert settings["precision"] == choose_precision("auto", torch.device("cuda"))
    assert logger.resumed == [3]
    assert np.isfinite(logger.numbers[6]["train/model_loss"])
