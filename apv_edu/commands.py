"""The commands of ``apv-edu``, one frozen dataclass each: its fields are the options."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from apv_edu.config import PresetName, PretrainConfig, check_seed
from apv_edu.errors import InputError

if TYPE_CHECKING:
    from apv_edu.data.video import VideoDataset

# Whatever imports torch or a simulator is imported by the command that needs it: --help is quick.


@dataclass(frozen=True)
class Collect:
    """Record videos without actions from simulated worlds, several processes at a time.

    Run it again to go on after an interruption: a video that is on disk is not made again.
    """

    env: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="ENV...")]
    """Names or patterns: metaworld:lever-pull, "metaworld:*", dmc:walker-walk, tabletop:push."""
    out: Path
    """Folder for the videos (npz files)."""
    videos: int
    """Videos of each environment."""
    exclude: tuple[str, ...] = ()
    """Environments or patterns to leave out."""
    seed: int = 0
    """Of the whole collection."""
    image_size: int = 64
    """Height and width in pixels."""
    action_repeat: int = 1
    """Simulator steps an action is held."""
    rendering: Literal["fast", "exact"] = "fast"
    """fast leaves out shadows, reflections, and detail finer than a pixel."""
    behaviour: Literal["expert", "noisy-expert", "smooth-random"] = "expert"
    """Who acts: the scripted expert (not in dmc), the same with noise, or smooth random motion."""
    noise: float | None = None
    """Standard deviation of Gaussian noise on every action; None is the behaviour's own."""
    min_length: int = 30
    """Success does not end a video before this many frames."""
    max_length: int | None = None
    """Most frames of a video; None is the environment's time limit."""
    after_success: int | None = 20
    """Steps recorded after the first success; None goes on to the end."""
    look: str | None = None
    """Of the tabletop: a look's name, or random for new colours in each video."""
    distractors: int | None = None
    """Of the tabletop: shapes painted on the table."""
    workers: int = 2
    """Processes."""

    def run(self, command: str) -> None:
        """Record."""
        if not self.env:
            raise InputError('No environment is named: name one, such as tabletop:push or "dmc:*".')
        from apv_edu.data.collect import collect

        special = {"look": self.look, "distractors": self.distractors}
        done = collect(
            self.env,
            self.out,
            videos=self.videos,
            seed=self.seed,
            image_size=self.image_size,
            action_repeat=self.action_repeat,
            rendering=self.rendering,
            behaviour=self.behaviour,
            noise=self.noise,
            min_length=self.min_length,
            max_length=self.max_length,
            after_success=self.after_success,
            exclude=self.exclude,
            workers=self.workers,
            **{name: value for name, value in special.items() if value is not None},
        )
        print(f"{self.out}: {done.made} videos made, {done.present} were there before")


@dataclass(frozen=True)
class Pack:
    """Pack videos of any form into one dataset that training reads at full speed.

    Reads npz episodes, mp4, webm, avi, gif, and folders of image frames.
    """

    source: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SOURCE...")]
    """Folders of videos."""
    out: Path
    """Folder for the dataset."""
    image_size: int = 64
    """Height and width to resize to, in pixels."""
    stride: int = 1
    """Keep every n-th frame."""
    min_length: int = 25
    """Shorter videos are left out, and named."""
    validation_fraction: float = 0.1
    """Share of the videos that is held out."""
    seed: int = 0
    """Of the split."""

    def run(self, command: str) -> None:
        """Pack."""
        if not self.source:
            raise InputError("No folder of videos is named: name at least one.")
        from apv_edu.data.video import pack_videos

        dataset = pack_videos(
            self.source,
            self.out,
            image_size=self.image_size,
            stride=self.stride,
            min_length=self.min_length,
            validation_fraction=self.validation_fraction,
            seed=self.seed,
        )
        print(f"{self.out}: {len(dataset.videos)} videos, {len(dataset.frames)} frames")


@dataclass(frozen=True)
class Pretrain:
    """Train the action-free video model on videos.

    Stopped or killed, it goes on where it was: run the same command again.
    Started by torchrun, any number of processes that divides the batch size trains one model
    together; a run may go on with another number.
    """

    data: Path
    """A packed dataset, or a folder of videos (which is then packed under OUT/dataset)."""
    out: Path
    """Folder of the run: checkpoint, metrics.csv, tensorboard/, videos, model.safetensors."""
    preset: PresetName = "laptop"
    """Sizes and settings to start from; the options below change single ones."""
    seed: int = 0
    """Of the first weights, batches, noise and validation."""
    initial: Path | None = None
    """Start from the weights of this model.safetensors."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda. To use several devices, or processes on a CPU:
    torchrun --nproc-per-node 2 -m apv_edu.cli pretrain ..."""
    threads: int | None = None
    """CPU threads of torch, in each process."""
    progress: bool = True
    """Show a bar with the time left."""
    config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = field(
        default_factory=PretrainConfig
    )

    def run(self, command: str) -> None:
        """Train."""
        from apv_edu.distributed import together
        from apv_edu.pretrain import MODEL, pretrain

        packed = self.out / "dataset"
        with together(self.device) as processes:
            pretrain(
                processes.in_turn(
                    lambda: open_or_pack(self.data, packed, self.config, self.progress)
                ),
                self.config,
                self.out,
                seed=self.seed,
                progress=self.progress,
                initial=self.initial,
                device=self.device,
                threads=self.threads,
                command=command,
            )
            if processes.first:
                print(self.out / MODEL)


@dataclass(frozen=True)
class Predict:
    """Predict held-out clips open-loop and tabulate the errors beside two baselines."""

    model: str
    """A model.safetensors, or the name of a shipped model."""
    data: Path
    """A packed dataset."""
    out: Path
    """The table, a CSV."""
    video: Path | None = None
    """Also write truth, prediction and error as mp4, or as gif if the name says so."""
    keep: Path | None = None
    """Also write twelve of the clips as an npz with the one array ``clips``."""
    split: Literal["validation", "train"] = "validation"
    """Which videos the clips come from."""
    clips: int = 100
    """Clips, spread evenly over the videos."""
    context: int = 5
    """Frames shown."""
    horizon: int = 15
    """Frames predicted."""
    seed: int = 0
    """Of the choice of clips and the model's noise."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda."""

    def run(self, command: str) -> None:
        """Predict."""
        check_seed(self.seed)
        if self.clips < 1:
            raise InputError(f"clips={self.clips} is too small: give a whole number of at least 1.")
        import numpy as np

        from apv_edu import metrics
        from apv_edu.assets import find_file
        from apv_edu.checkpoint import load_video_model
        from apv_edu.data.video import VideoDataset
        from apv_edu.device import choose_device
        from apv_edu.files import write_atomically
        from apv_edu.logger import encode_video

        model = load_video_model(find_file(self.model)).to(choose_device(self.device))
        dataset = VideoDataset.open(self.data, verify=True)
        if dataset.image_size != (size := model.size.image_size):
            raise InputError(
                f"{self.data} holds frames of {dataset.image_size} pixels, not the {size} that "
                f"{self.model} predicts: pack the videos with --image-size {size}."
            )
        clips = dataset.clips(self.clips, self.context + self.horizon, self.split, seed=self.seed)
        rows = metrics.open_loop_table(
            model, clips, context=self.context, horizon=self.horizon, seed=self.seed
        )
        metrics.write_rows(self.out, rows)
        for method, means in metrics.summary(rows).items():
            print(f"{method:16}", "  ".join(f"{name} {value:.5g}" for name, value in means.items()))
        if self.keep is not None:
            content = io.BytesIO()
            np.savez_compressed(content, clips=clips[:: max(1, len(clips) // 12)][:12])
            write_atomically(self.keep, content.getvalue())
        if self.video is not None:
            some = clips[:: max(1, len(clips) // 8)][:8]
            context, truth = metrics.split_clips(some, self.context, self.horizon)
            prediction = metrics.predict_clips(model, context, self.horizon, seed=self.seed)
            grid = metrics.prediction_grid(context, truth, prediction)
            write_atomically(self.video, encode_video(self.video, grid))
        print(self.out)


@dataclass(frozen=True)
class Export:
    """Write a trained model at half precision, to ship it: half the bytes, the same story."""

    model: Path
    """A model.safetensors or agent.safetensors."""
    out: Path
    """The smaller file."""

    def run(self, command: str) -> None:
        """Convert."""
        import torch

        from apv_edu.agent_files import load_agent, save_agent
        from apv_edu.checkpoint import load, load_video_model, save_video_model

        story = load(self.model)[1]
        if story.get("kind") == "agent":
            save_agent(self.out, load_agent(self.model)[0], story, torch.float16)
        else:
            save_video_model(self.out, load_video_model(self.model), story, torch.float16)
        print(f"{self.out}: {self.out.stat().st_size / 1e6:.1f} MB")


def open_or_pack(
    data: Path, packed: Path, config: PretrainConfig, progress: bool = True
) -> "VideoDataset":
    """The packed dataset at ``data``, or that of the videos in ``data``, packed once at ``packed``.

    Raises:
        InputError: when ``data`` holds neither, or a damaged dataset.
    """
    from apv_edu.data.video import VideoDataset, pack_videos

    if (data / "manifest.json").exists():
        return VideoDataset.open(data, verify=True)
    return pack_videos(
        data,
        packed,
        image_size=config.model.image_size,
        min_length=max(config.sequence_length, config.context + config.horizon),
        progress=progress,
    )
