import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from apv_edu import checkpoint, cli, commands
from apv_edu.config import PRETRAIN
from apv_edu.data.video import VideoDataset
from apv_edu.metrics import read_rows

RUN = shlex.split(
    "--preset smoke --steps 2 --checkpoint-every 2 --validate-every 2 --horizon 2 "
    "--validation-videos 1 --model.image-size 32 --device cpu --threads 1 --no-progress"
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "videos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        frames = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
        np.savez(folder / f"noise-{index}-12.npz", image=frames)
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main([str(argument) for argument in arguments])
    out, error = capsys.readouterr()
    return status, out, error


def test_from_videos_to_a_table(videos: Path, tmp_path: Path, capsys):
    run, table, grid = tmp_path / "run", tmp_path / "table.csv", tmp_path / "grid.mp4"
    status, out, _ = call(capsys, "pretrain", "--data", videos, "--out", run, *RUN)
    assert (status, out.strip()) == (0, str(run / "model.safetensors"))
    story = checkpoint.load(run / "model.safetensors")[1]
    assert story["command"].startswith("apv-edu pretrain --data ")
    assert story["size"]["image_size"] == 32
    arguments = ["--clips", 2, "--context", 3, "--horizon", 2, "--device", "cpu"]
    status, out, _ = call(
        capsys, "predict", "--model", run / "model.safetensors", "--data", run / "dataset",
        "--out", table, "--video", grid, *arguments,
    )  # fmt: skip
    assert status == 0
    assert "last frame" in out
    assert [row.horizon for row in read_rows(table) if row.method == "model"] == [1, 2]
    with av.open(str(grid), "r") as container:
        frame = next(container.decode(video=0))
    assert (frame.height, frame.width) == (3 * 64, 2 * 64)


def test_pack_then_pretrain_on_the_dataset(videos: Path, tmp_path: Path, capsys):
    data, run = tmp_path / "data", tmp_path / "run"
    packing = ["--image-size", 32, "--stride", 1, "--min-length", 10]
    assert call(capsys, "pack", videos, "--out", data, *packing)[0] == 0
    assert len(VideoDataset.open(data).videos) == 3
    assert call(capsys, "pretrain", "--data", data, "--out", run, *RUN)[0] == 0
    assert not (run / "dataset").exists()


def test_collect_passes_everything_on(tmp_path: Path, capsys):
    out = tmp_path / "videos"
    status, text, _ = call(
        capsys, "collect", "tabletop:*", "--exclude", "tabletop:push", "--out", out, "--videos", 2,
        "--image-size", 32, "--max-length", 12, "--behaviour", "smooth-random", "--workers", 0,
    )  # fmt: skip
    assert (status, text.strip()) == (0, f"{out}: 2 videos made, 0 were there before")
    files = sorted(out.glob("*.npz"))
    assert [file.name.split("-")[0] for file in files] == ["tabletop_reach"] * 2
    assert np.load(files[0])["image"].shape[1:] == (32, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("predict --model nothing.safetensors --data d --out t.csv", "nothing.safetensors"),
        ("predict --model nothing.safetensors --data d --out t.csv", "There is no file or asset"),
        ("predict --model m --data d --out t.csv --seed -1", "seed=-1 is out of range"),
        ("predict --model m --data d --out t.csv --clips -1", "clips=-1 is too small"),
        ("pretrain --data nowhere --out run", "nowhere"),
        ("pretrain --data d --out run --model.image-size 48", "image_size=48 fits no model"),
        ("pretrain --data d --out run --optimizer.clip 0", "clip=0"),
        ("pretrain --data d --out run --steps 0", "steps=0 is too small"),
        ("pretrain --data d --out run --preset=huge", "Unknown preset 'huge'"),
        ("collect --out d --videos 1", "No environment is named"),
        ("collect tabletop:pull --out d --videos 1", "tabletop:pu"),
        ("pack --out d", "No folder of videos"),
        ("export --model m --out o", "There is no checkpoint m"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, error = call(capsys, *arguments.split())
    assert (status, out) == (2, "")
    assert error.startswith("apv-edu: ")
    assert error.count("\n") == 1
    assert message in error
    assert not any(tmp_path.rglob("*.*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [("--seed -1", "seed=-1 is out of range"), ("--threads 0", "threads=0 is too small")],
)
def test_pretraining_out_of_range_is_one_line(videos, tmp_path, capsys, options, message):
    run = tmp_path / "run"
    arguments = ["--data", videos, "--out", run, *RUN, *options.split()]
    status, _, error = call(capsys, "pretrain", *arguments)
    assert status == 2
    assert message in error


def test_predicting_nothing_or_from_damaged_frames_is_refused(videos, tmp_path: Path, capsys):
    run, table = tmp_path / "run", tmp_path / "t.csv"
    call(capsys, "pretrain", "--data", videos, "--out", run, *RUN)
    data = run / "dataset"
    predict = ["predict", "--model", run / "model.safetensors", "--data", data, "--out", table]
    for option in ("--context", "--horizon"):
        other = {"--context": "--horizon", "--horizon": "--context"}[option]
        status, _, error = call(capsys, *predict, option, 0, other, 2)
        assert status == 2
        assert "are too few: ask for at least one of each" in error
    with (data / "frames.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    for command in (predict, ["pretrain", "--data", data, "--out", tmp_path / "again", *RUN]):
        status, _, error = call(capsys, *command)
        assert status == 2
        assert "does not match the checksum" in error
    assert not table.exists()


def test_predicting_other_sizes_names_the_remedy(videos: Path, tmp_path: Path, capsys):
    run, data = tmp_path / "run", tmp_path / "data"
    call(capsys, "pretrain", "--data", videos, "--out", run, *RUN)
    call(capsys, "pack", videos, "--out", data, "--image-size", 16, "--min-length", 10)
    model = run / "model.safetensors"
    status, _, error = call(
        capsys, "predict", "--model", model, "--data", data, "--out", tmp_path / "t.csv"
    )
    assert status == 2
    assert "frames of 16 pixels, not the 32" in error
    assert "--image-size 32" in error


def test_export_halves_a_model_and_keeps_its_story(videos: Path, tmp_path: Path, capsys):
    run, small = tmp_path / "run", tmp_path / "small.safetensors"
    call(capsys, "pretrain", "--data", videos, "--out", run, *RUN)
    model = run / "model.safetensors"
    assert call(capsys, "export", "--model", model, "--out", small)[0] == 0
    assert small.stat().st_size < 0.55 * model.stat().st_size
    assert checkpoint.load(small)[1] == checkpoint.load(model)[1]
    assert checkpoint.load_video_model(small).size == checkpoint.load_video_model(model).size


def test_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys):
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "open_or_pack", interrupted)
    status, _, error = call(capsys, "pretrain", "--data", "a b", "--out", "run")
    assert status == 130
    assert error == "\nInterrupted. To go on: apv-edu pretrain --data 'a b' --out run\n"


def test_arguments_that_do_not_parse_are_named(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["pretrain", "--data", "d", "--out", "o", "--stepz", "3"])
    assert stop.value.code == 2
    assert "--stepz" in capsys.readouterr().err


@pytest.mark.parametrize("preset", PRETRAIN)
@pytest.mark.parametrize("form", ["--preset {}", "--preset={}"])
def test_a_preset_sets_the_defaults_of_the_other_options(preset: str, form: str):
    arguments = f"pretrain --data d --out o {form.format(preset)} --model.depth 7".split()
    command = cli.parse(arguments)
    assert isinstance(command, cli.Pretrain)
    assert command.config.steps == PRETRAIN[preset].steps
    assert command.config.model.deter == PRETRAIN[preset].model.deter
    assert command.config.model.depth == 7


@pytest.mark.parametrize("name", ["", *cli.COMMANDS])
def test_help_explains_every_option(name: str, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    if not name:
        assert all(f"• {command}" in text for command in cli.COMMANDS)
        return
    assert (cli.COMMANDS[name].__doc__ or "").split(".\n")[0] in text
    for option in re.split(" --(?=[a-z])", text.partition("-h, --help ")[2])[1:]:
        _, *about = re.split(r"\((default|required)", option)[0].split(" ", 1)
        assert re.search("[a-z]{4}", re.sub("{.*?}", "", "".join(about))) or "," in option, option


def test_help_needs_neither_torch_nor_a_simulator():
    code = (
        "import sys; from apv_edu.cli import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    try: main([command, '--help'])\n"
        "    except SystemExit: pass\n"
        "print([m for m in ('torch', 'mujoco', 'av', 'gymnasium') if m in sys.modules])"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines()[-1] == "[]"
