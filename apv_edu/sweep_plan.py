"""What a grid unfolds into: the jobs of its runs, and of the videos and models that they need."""

from dataclasses import asdict
from pathlib import Path

from apv_edu.errors import InputError
from apv_edu.grid import Grid
from apv_edu.sweep_jobs import FinetuneJob, Job, PackJob, PretrainJob, RecordJob


def plan(grid: Grid, out: Path) -> list[Job]:
    """All jobs of ``grid``, those that others need first.

    Raises:
        InputError: when a folder of videos is missing.
    """
    jobs: dict[Path, Job] = {}
    for cell in grid.cells:
        folder = out / "runs" / cell.task.replace(":", "_") / cell.method / str(cell.seed)
        needs: tuple[Path, ...] = ()
        settings = {"task": cell.task, "seed": cell.seed, **asdict(cell.config)}
        if cell.pretrain is not None:
            pretraining = grid.pretrainings[cell.pretrain]
            model = cell.seed % pretraining.seeds if pretraining.seeds else cell.seed
            settings["pretrain"] = f"{cell.pretrain}/{model}"
            needs = (_pretrain(grid, cell.pretrain, model, out, jobs),)
        updates = cell.config.updates_due(cell.config.steps)
        jobs[folder] = FinetuneJob(
            folder=folder, settings=settings, needs=needs, updates=updates, cell=cell
        )
    return list(jobs.values())


def _pretrain(grid: Grid, name: str, seed: int, out: Path, jobs: dict[Path, Job]) -> Path:
    """Add the jobs that make a video model; the folder that will hold it."""
    folder, packed = out / "models" / name / str(seed), out / "datasets" / name
    if folder in jobs:
        return folder
    pretraining = grid.pretrainings[name]
    config, sources, needs = pretraining.config, [], []
    for source in pretraining.videos:
        if source not in grid.videos:
            if not Path(source).exists():
                raise InputError(
                    f"pretrain.{name}: there is no [videos.{source}] and no folder {source}: "
                    "declare the videos, or mend the name."
                )
            sources.append(Path(source).resolve())
            continue
        recorded = out / "videos" / source
        options = {"image_size": config.model.image_size, **grid.videos[source]}
        jobs.setdefault(recorded, RecordJob(folder=recorded, settings=options))
        sources.append(recorded / "videos")
        needs.append(recorded)
    packing = {
        "videos": list(pretraining.videos),
        "image_size": config.model.image_size,
        "stride": pretraining.stride,
        "min_length": max(config.sequence_length, config.context + config.horizon),
    }
    pack = PackJob(folder=packed, settings=packing, needs=tuple(needs), sources=tuple(sources))
    jobs.setdefault(packed, pack)
    jobs[folder] = PretrainJob(
        folder=folder,
        settings={"seed": seed, "videos": list(pretraining.videos), **asdict(config)},
        needs=(packed,),
        updates=config.steps,
        config=config,
        seed=seed,
    )
    return folder
