"""Train an action-free video model on videos, in a way that no kill can hurt.

Step n takes its batch and its noise from (seed, n) alone, and a checkpoint holds weights, Adam's
moments and n. So a run that was killed at any moment and started again ends with the very weights
of a run that was left alone (same machine, same number of threads).

Under ``torchrun`` several processes train one model: each takes its rows of the same batch and the
same noise, so that their number changes nothing but the rounding of sums.
"""

import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from apv_edu import checkpoint
from apv_edu.config import PretrainConfig, check_seed
from apv_edu.data.video import VideoDataset
from apv_edu.device import choose_precision
from apv_edu.distributed import together
from apv_edu.errors import InputError
from apv_edu.files import locked, remove_leftovers
from apv_edu.finite import check_losses, check_weights
from apv_edu.logger import Logger, folder_logger
from apv_edu.optimizer import DecoupledAdam
from apv_edu.pretrain_step import TrainingState, choose_step
from apv_edu.validation import Validation
from apv_edu.video_model import ActionFreeVideoModel

CHECKPOINT, MODEL = "checkpoint.safetensors", "model.safetensors"


def pretrain(
    dataset: VideoDataset,
    config: PretrainConfig,
    out: Path | str,
    *,
    seed: int = 0,
    progress: bool = True,
    logger: Logger | None = None,
    initial: Path | str | None = None,
    device: str = "auto",
    threads: int | None = None,
    command: str = "apv_edu.pretrain.pretrain",
) -> ActionFreeVideoModel:
    """Pre-train a video model, resuming where ``out`` holds a checkpoint of the same settings.

    ``out`` receives ``checkpoint.safetensors`` (weights, moments, step), ``metrics.csv``, grids of
    truth, prediction and error as mp4, ``tensorboard/``, and at the end ``model.safetensors``.

    Called by every process that ``torchrun`` started, it trains one model in all of them: each
    takes an equal share of the batch, and the first alone writes to ``out``. Any number of
    processes may go on with what another number began.

    Args:
        dataset: videos of the size ``config.model.image_size``.
        config: sizes and settings; more ``steps`` than before extend a finished run.
        out: the folder of the run.
        seed: of the first weights, batches, noise and validation.
        progress: show a bar with the time left.
        logger: receives numbers and videos instead of the CSV and TensorBoard.
        initial: weights to start from (``model.safetensors`` of another run) with fresh moments.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ...; see ``together``.
        threads: of torch on the CPU during the run, in each process; None leaves torch's own.
        command: what to note in the model file as the command that made it.

    Raises:
        InputError: for settings that do not fit the data or the checkpoint in ``out``, a damaged
            checkpoint, a full disk, a loss that is not finite (the last good checkpoint stays), a
            folder that another run trains in, or a batch that the processes cannot share equally.

    Source: APV section 3.1 and appendix; official config ``metaworld_pretrain``.
    """
    out = Path(out)
    logger = folder_logger(out) if logger is None else logger
    threads_before = torch.get_num_threads()
    with together(device) as processes, ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads_before)
        stack.callback(logger.close)
        with processes.agree():
            _check(dataset, config, seed, threads)
            processes.share(config.batch_size)
            torch.set_num_threads(threads or threads_before)
            precision = choose_precision(config.precision, processes.device)
            settings = run_settings(dataset, config, precision, seed, initial)
            if processes.first:
                stack.enter_context(locked(out))
                remove_leftovers(out)
        with processes.agree():
            model = _model(config, seed, initial).to(processes.device).train()
            optimizer = DecoupledAdam(model.parameters(), config.optimizer)
            if processes.first:
                step = resume(model, optimizer, out / CHECKPOINT, settings, config.steps)
                logger.resume(step)
        processes.broadcast(run_tensors(model, optimizer))
        state = TrainingState(model, optimizer, int(optimizer.steps), processes)
        _train(state, dataset, config, out, logger, settings, progress)

        def publish() -> None:
            logger.close()
            made = checkpoint.provenance(command, seed=seed, steps=state.step)
            checkpoint.save_video_model(out / MODEL, model, made | {"settings": settings})

        processes.first_does(publish)
    return model.eval()


def run_settings(
    dataset: VideoDataset,
    config: PretrainConfig,
    precision: str,
    seed: int,
    initial: Path | str | None = None,
) -> dict[str, Any]:
    """What decides the weights after n steps; a run is resumed only with the very same.

    Data and ``initial`` weights count by their SHA-256, whatever their paths.

    Raises:
        InputError: when ``initial`` is missing or damaged.
    """
    return {
        "model": asdict(config.model),
        "optimizer": asdict(config.optimizer),
        "loss": asdict(config.loss),
        "batch_size": config.batch_size,
        "sequence_length": config.sequence_length,
        "precision": precision,
        "fast": config.fast,
        "seed": seed,
        "dataset": dataset.manifest["sha256"],
        "initial": checkpoint.digest(initial) if initial else None,
    }


def run_tensors(model: ActionFreeVideoModel, optimizer: DecoupledAdam) -> dict[str, Tensor]:
    """What a checkpoint holds and every process must have alike (shared, not copied)."""
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    return weights | {f"optimizer.{k}": value for k, value in optimizer.state_dict().items()}


def resume(
    model: ActionFreeVideoModel,
    optimizer: DecoupledAdam,
    path: Path,
    settings: dict[str, Any],
    steps: int,
) -> int:
    """Load the checkpoint at ``path`` if there is one, and return the steps it has done.

    Raises:
        InputError: when it is damaged, of other settings, or beyond ``steps`` already.
    """
    if not path.exists():
        return 0
    stored, metadata = checkpoint.load(path)
    checkpoint.check_resumable(path, metadata, "pretraining", settings, steps)
    kinds: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
    for name, tensor in stored.items():
        kind, _, rest = name.partition(".")
        kinds[kind][rest] = tensor
    checkpoint.load_weights(model, kinds["model"], path)
    optimizer.load_state_dict(kinds["optimizer"])
    return metadata["step"]


def _check(dataset: VideoDataset, config: PretrainConfig, seed: int, threads: int | None) -> None:
    if dataset.image_size != config.model.image_size:
        raise InputError(
            f"{dataset.path} holds frames of {dataset.image_size} pixels but the model takes "
            f"{config.model.image_size}: pack the videos again or set model.image_size."
        )
    if not dataset.split("validation"):
        raise InputError(
            f"{dataset.path} holds no video out for validation ({len(dataset.videos)} in all): "
            "pack more videos, or with a larger validation_fraction."
        )
    check_seed(seed)
    if threads is not None and threads < 1:
        raise InputError(f"threads={threads} is too small: give at least 1, or leave it out.")


def _model(config: PretrainConfig, seed: int, initial: Path | str | None) -> ActionFreeVideoModel:
    if initial:
        return checkpoint.load_video_model(initial, config.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ActionFreeVideoModel(config.model)


def _train(
    state: TrainingState,
    dataset: VideoDataset,
    config: PretrainConfig,
    out: Path,
    logger: Logger,
    settings: dict[str, Any],
    progress: bool,
) -> None:
    model, processes, seed = state.model, state.processes, settings["seed"]
    with processes.agree():
        validation = Validation(dataset, config, seed)
        step = choose_step(state, dataset, config, seed, settings["precision"])
    kept = state.step  # the step of the checkpoint on disk
    quiet = not (progress and processes.first)
    bar = tqdm(total=config.steps, initial=kept, desc="pretrain", unit="step", disable=quiet)
    began, timed = time.perf_counter(), state.step

    def log() -> None:
        numbers = {f"train/{name}": float(value) for name, value in values.items()}
        pace = (time.perf_counter() - began) / (state.step - timed)
        logger.scalars(state.step, numbers | {"time/seconds_per_step": pace})
        loss, kl = numbers["train/model_loss"], numbers["train/model_kl"]
        bar.set_postfix(loss=f"{loss:.1f}", kl=f"{kl:.2f}", refresh=False)

    def validate() -> None:
        model.eval()
        numbers, grid = validation(model)
        model.train()
        named = {f"validation/{name}": value for name, value in numbers.items()}
        logger.scalars(state.step, named)
        logger.video(state.step, "validation/open_loop", grid)

    def save() -> None:
        check_weights(model, state.step, kept, out)
        story = {"kind": "pretraining", "step": state.step, "settings": settings}
        checkpoint.save(out / CHECKPOINT, run_tensors(model, state.optimizer), story)

    def due(every: int) -> bool:
        return state.step % every == 0 or state.step == config.steps

    with bar:
        while state.step < config.steps:
            values = step()
            # On a GPU to look at a number is to wait for it.
            if due(config.log_every) or processes.device.type == "cpu":
                check_losses(values, state.step, kept, out)
            bar.update()
            if due(config.log_every):
                processes.first_does(log)
                began, timed = time.perf_counter(), state.step
            if due(config.validate_every):
                paused = time.perf_counter()
                processes.first_does(validate)
                began += time.perf_counter() - paused
            if due(config.checkpoint_every):
                processes.first_does(save)
                kept = state.step
