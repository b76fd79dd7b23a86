"""The commands of ``apv-edu`` for agents, one frozen dataclass each: its fields are the options."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from apv_edu.config import PresetName, check_seed
from apv_edu.errors import InputError
from apv_edu.finetune_config import FinetuneConfig

# Whatever imports torch or a simulator is imported by the command that needs it: --help is quick.


@dataclass(frozen=True)
class Finetune:
    """Train an agent by reinforcement learning, on top of a video model or from scratch.

    Stopped or killed, it goes on where it was: run the same command again. For an agent from
    scratch say --agent.variant dreamer --agent.bonus.beta 0.
    """

    task: Annotated[str, tyro.conf.Positional]
    """A world, such as tabletop:reach; its suite decides the preset's settings."""
    out: Path
    """Folder of the run: checkpoint, replay/, metrics.csv, tensorboard/, agent.safetensors."""
    video_model: str | None = None
    """A model.safetensors of a pre-training run, or the name of a shipped model."""
    preset: PresetName = "laptop"
    """Sizes and settings to start from; the options below change single ones."""
    seed: int = 0
    """Of the first weights, the worlds, the exploration and the updates."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda."""
    threads: int | None = None
    """CPU threads of torch."""
    progress: bool = True
    """Show a bar with the time left."""
    config: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = field(
        default_factory=FinetuneConfig
    )

    def run(self, command: str) -> None:
        """Train."""
        from apv_edu.assets import find_file
        from apv_edu.finetune import AGENT, finetune

        finetune(
            self.task,
            self.config,
            self.out,
            video_model=find_file(self.video_model) if self.video_model else None,
            seed=self.seed,
            progress=self.progress,
            device=self.device,
            threads=self.threads,
            command=command,
        )
        print(self.out / AGENT)


@dataclass(frozen=True)
class Evaluate:
    """Play episodes with a trained agent and report return and success with 95% intervals."""

    agent: str
    """An agent.safetensors, or the name of a shipped agent."""
    task: str | None = None
    """Another world than the agent's own."""
    episodes: int = 10
    """How many."""
    seed: int = 0
    """Of starting positions and latents."""
    random: bool = False
    """Let the random policy play instead, from the same starting positions."""
    out: Path | None = None
    """Also write a CSV with a row for each episode."""
    video: Path | None = None
    """Also write the episodes as one mp4 (or gif)."""
    dream: Path | None = None
    """Also write what the agent imagined of the first episode beside the truth, as mp4 or gif."""

    def run(self, command: str) -> None:
        """Play."""
        check_seed(self.seed)
        if self.episodes < 1:
            raise InputError(f"episodes={self.episodes} is too small: give at least 1.")
        import numpy as np

        from apv_edu.agent_files import load_agent, world_config
        from apv_edu.assets import find_file
        from apv_edu.envs import tells_success
        from apv_edu.envs.vector import EnvironmentCrash
        from apv_edu.evaluate import dream, evaluate, write_episodes
        from apv_edu.evaluate import world as one_world
        from apv_edu.files import write_atomically
        from apv_edu.logger import encode_video
        from apv_edu.statistics import bootstrap_interval, wilson_interval

        agent, story = load_agent(find_file(self.agent))
        task = self.task or story["task"]
        world = one_world(task, world_config(story), agent.config.model.image_size)
        try:
            played = evaluate(
                world, None if self.random else agent, episodes=self.episodes, seed=self.seed
            )
        except EnvironmentCrash as crash:
            what = f"The world {task} crashed ({crash})"
            raise InputError(f"{what}: mend it, or name another.") from crash
        finally:
            world.close()
        totals = np.array([episode.total for episode in played])
        solved = sum(episode.success for episode in played)
        told = {"return": bootstrap_interval(totals, seed=self.seed)}
        if tells_success(task):
            told["success"] = wilson_interval(solved, len(played))
        for name, (mean, low, high) in told.items():
            print(f"{name:8} {mean:.3g}  (95% interval {low:.3g} to {high:.3g})")
        if self.out is not None:
            write_episodes(self.out, played)
            print(self.out)
        if self.video is not None:
            frames = np.concatenate([episode.frames for episode in played])
            write_atomically(self.video, encode_video(self.video, frames, fps=20))
            print(self.video)
        if self.dream is not None:
            write_atomically(self.dream, encode_video(self.dream, dream(agent, played[0])))
            print(self.dream)


@dataclass(frozen=True)
class ImportOfficial:
    """Turn the authors' released checkpoint into a model.safetensors; nothing in it is executed."""

    folder: Path
    """With rssm_variables.pkl, encoder_variables.pkl and decoder_variables.pkl."""
    out: Path
    """The file to write."""
    classes: int | None = None
    """Classes of each latent variable; None is the square root of all logits, as released."""

    def run(self, command: str) -> None:
        """Convert."""
        from apv_edu.official_files import import_official

        import_official(self.folder, self.out, command, self.classes)
        print(self.out)


@dataclass(frozen=True)
class ExportOnnx:
    """Write an agent's dream as ONNX, to run it elsewhere, with real moments to start from.

    The folder then holds step.onnx, decode.onnx and dream.json.
    """

    agent: str
    """An agent.safetensors, or the name of a shipped agent."""
    out: Path
    """The folder."""
    starts: int = 6
    """Real moments."""
    context: int = 6
    """Frames that the model watches before each."""
    seed: int = 0
    """Of the moments, and of the trace in dream.json that other runtimes can repeat."""

    def run(self, command: str) -> None:
        """Export."""
        check_seed(self.seed)
        from apv_edu.agent_files import load_agent
        from apv_edu.assets import find_file
        from apv_edu.onnx_export import export_dream

        agent, story = load_agent(find_file(self.agent))
        export_dream(
            agent, story, self.out, starts=self.starts, context=self.context, seed=self.seed
        )
        print(self.out)


@dataclass(frozen=True)
class Curves:
    """Gather the curves of fine-tuning runs, finished or not, in one tidy CSV."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders that `apv-edu finetune` wrote."""
    out: Path
    """The CSV: task, variant, seed, step, cpu_seconds, name, value."""

    def run(self, command: str) -> None:
        """Gather."""
        if not self.runs:
            raise InputError("No run is named: name at least one folder.")
        from apv_edu.learning_curves import read_run, write_points

        points = [point for folder in self.runs for point in read_run(folder)]
        write_points(self.out, points)
        print(f"{self.out}: {len(points)} numbers of {len(self.runs)} runs")
