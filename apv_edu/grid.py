"""A sweep as it is declared: tasks x methods x seeds, and the videos and models that they need.

A grid is a TOML file::

    preset = "laptop"
    tasks = ["tabletop:reach"]
    seeds = 10                    # 0 to 9, or a list
    [finetune]                    # settings of every method, as `apv-edu finetune` names them
    steps = 12_000
    [videos.push]                 # arguments of `apv-edu collect`
    env = ["tabletop:push"]
    videos = 600
    [pretrain.push]               # settings of `apv-edu pretrain`
    videos = ["push"]             # names from above, or folders of your own
    stride = 1                    # keep every n-th frame
    seeds = 2                     # models: run s starts from model s mod 2; else one for each run
    steps = 2600
    [methods.dreamer]             # settings of this method; also tasks and seeds of its own
    agent.variant = "dreamer"
    agent.bonus.beta = 0
    [methods.apv]
    pretrain = "push"

The video models have the size that fine-tuning asks for (``agent.model``), and so have the frames.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from apv_edu.agent_config import VARIANTS
from apv_edu.config import PRETRAIN, ModelSize, PretrainConfig, updated
from apv_edu.envs import check_name
from apv_edu.errors import InputError
from apv_edu.finetune_config import FinetuneConfig, finetune_config

SMOKE_VIDEOS = 4
"""Videos of each world when a grid is only tried out."""
_TABLES = ("preset", "tasks", "seeds", "finetune", "videos", "pretrain", "methods")


@dataclass(frozen=True)
class Pretraining:
    """Video models, one for each seed, of one kind of videos."""

    videos: tuple[str, ...]
    """Names of video sets, or folders of videos."""
    config: PretrainConfig
    seeds: int | None = None
    """Models: run s starts from model s mod ``seeds``; None is one for each run."""
    stride: int = 1
    """Of each video every n-th frame is kept."""


@dataclass(frozen=True)
class Cell:
    """One run: a task, a method, a seed."""

    task: str
    method: str
    seed: int
    config: FinetuneConfig
    pretrain: str | None = None
    """The pre-training that it starts from."""


@dataclass(frozen=True)
class Grid:
    """All that a sweep has to do."""

    cells: tuple[Cell, ...]
    """Seed by seed, so that a sweep that was stopped has some of everything."""
    pretrainings: dict[str, Pretraining] = field(default_factory=dict)
    videos: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Arguments of ``collect`` for each video set."""

    def chosen(
        self,
        *,
        tasks: Sequence[str] = (),
        methods: Sequence[str] = (),
        seeds: Sequence[int] = (),
    ) -> "Grid":
        """The part of the grid with these tasks, methods and seeds; without any, all of them.

        Raises:
            InputError: for one that the grid does not have.
        """
        cells = self.cells
        for key, wanted in {"task": tasks, "method": methods, "seed": seeds}.items():
            known = {getattr(cell, key) for cell in self.cells}
            for value in wanted:
                if value not in known:
                    names = ", ".join(map(str, sorted(known)))
                    raise InputError(f"The grid has no {key} {value!r}: it has {names}.")
            cells = tuple(c for c in cells if not wanted or getattr(c, key) in wanted)
        return replace(self, cells=cells)


def read_grid(path: Path | str, *, smoke: bool = False) -> Grid:
    """The grid that a TOML file declares.

    With ``smoke`` it is only tried out: sizes, steps and videos are those of the preset ``smoke``,
    and of all settings only the methods' own are kept.

    Raises:
        InputError: when the file is missing or no TOML, or for a name, setting or number in it
            that makes no sense; it names the place.
    """
    path = Path(path)
    try:
        declared = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a grid file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML ({error}): mend it there.") from error
    try:
        return _grid(declared, smoke)
    except (InputError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from error


def _grid(declared: dict[str, Any], smoke: bool) -> Grid:
    for name in declared.keys() - set(_TABLES):
        raise InputError(f"{name} is no part of a grid: choose of {', '.join(_TABLES)}.")
    preset = "smoke" if smoke else declared.get("preset", "laptop")
    videos = {name: _videos(name, set_, smoke) for name, set_ in declared.get("videos", {}).items()}
    methods, tasks = declared.get("methods", {}), declared.get("tasks", [])
    if not methods or not tasks:
        raise InputError("it declares no runs: give tasks = [...] and a [methods.NAME] for each.")
    pretrainings: dict[str, Pretraining] = {}
    cells = []
    for name, method in methods.items():
        method = dict(method)
        seeds = _seeds(method.pop("seeds", declared.get("seeds", 1)))
        pretrain = method.pop("pretrain", None)
        for task in method.pop("tasks", tasks):
            check_name(task)
            general = {} if smoke else declared.get("finetune", {})
            config = updated(finetune_config(preset, task), general, "finetune")
            config = updated(config, method, f"methods.{name}")
            if VARIANTS[config.agent.variant].pretrained != (pretrain is not None):
                raise InputError(
                    f"methods.{name} has the variant {config.agent.variant!r} and "
                    f"{'no pretrain' if pretrain is None else f'pretrain = {pretrain!r}'}: apv, "
                    "naive and frozen start from a pre-training, the others from none."
                )
            if pretrain is not None:
                model = config.agent.model
                pretrainings[pretrain] = _pretraining(pretrain, declared, preset, model, smoke)
            cells += [Cell(task, name, seed, config, pretrain) for seed in seeds]
    for pretrain in {cell.pretrain for cell in cells} - {None}:
        sizes = {cell.config.agent.model for cell in cells if cell.pretrain == pretrain}
        if len(sizes) > 1:
            raise InputError(f"pretrain.{pretrain} serves models of different sizes: declare two.")
    order = {seed: index for index, seed in enumerate(dict.fromkeys(c.seed for c in cells))}
    cells.sort(key=lambda cell: order[cell.seed])
    return Grid(tuple(cells), pretrainings, videos)


def _videos(name: str, options: dict[str, Any], smoke: bool) -> dict[str, Any]:
    if not {"env", "videos"} <= options.keys():
        raise InputError(f"videos.{name} lacks env or videos: give both, as to `apv-edu collect`.")
    return options | ({"videos": SMOKE_VIDEOS} if smoke else {})


def _pretraining(
    name: str, declared: dict[str, Any], preset: str, model: ModelSize, smoke: bool
) -> Pretraining:
    if name not in declared.get("pretrain", {}):
        raise InputError(f"there is no [pretrain.{name}]: declare it, or name another.")
    options = dict(declared["pretrain"][name])
    sources = tuple(options.pop("videos", ()))
    seeds, stride = options.pop("seeds", None), options.pop("stride", 1)
    if not sources or any(type(n) is not int or n < 1 for n in (seeds or 1, stride)) or seeds == 0:
        raise InputError(
            f"pretrain.{name} is not right: give videos = [...], and whole numbers from 1 on as "
            "seeds and stride."
        )
    config = replace(PRETRAIN[preset], model=model)
    config = updated(config, {} if smoke else options, f"pretrain.{name}")
    return Pretraining(sources, config, seeds, stride)


def _seeds(declared: Any) -> list[int]:
    """``5`` is 0 to 4; a list is itself."""
    seeds = list(range(declared)) if type(declared) is int else declared
    if not (isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds)):
        raise InputError(f"seeds = {declared!r} is no number or list of seeds: give one.")
    return seeds
