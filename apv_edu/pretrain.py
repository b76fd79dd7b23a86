"""Train an action-free video model on videos, in a way that no kill can hurt.

Step n takes its batch and its noise from (seed, n) alone, and a checkpoint holds weights, Adam's
moments and n. So a run that was killed at any moment and started again ends with the very weights
of a run that was left alone (same machine, same number of threads).
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from apv_edu import checkpoint, metrics
from apv_edu.config import PretrainConfig, check_seed
from apv_edu.data.video import VideoDataset
from apv_edu.device import choose_device, choose_precision
from apv_edu.errors import InputError
from apv_edu.files import locked, remove_leftovers
from apv_edu.finite import check_losses, check_weights
from apv_edu.logger import Logger, folder_logger
from apv_edu.optimizer import DecoupledAdam
from apv_edu.seeds import stream
from apv_edu.video_model import ActionFreeVideoModel

CHECKPOINT, MODEL = "checkpoint.safetensors", "model.safetensors"
BATCH, NOISE, VALIDATION = range(3)  # streams of randomness under one seed
GRID_CLIPS = 6


@dataclass
class TrainingState:
    """All that a step changes; what a checkpoint holds."""

    model: ActionFreeVideoModel
    optimizer: DecoupledAdam
    step: int = 0
    """Gradient steps done."""


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

    Args:
        dataset: videos of the size ``config.model.image_size``.
        config: sizes and settings; more ``steps`` than before extend a finished run.
        out: the folder of the run.
        seed: of the first weights, batches, noise and validation.
        progress: show a bar with the time left.
        logger: receives numbers and videos instead of the CSV and TensorBoard.
        initial: weights to start from (``model.safetensors`` of another run) with fresh moments.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ...
        threads: of torch on the CPU during the run; None leaves torch's own.
        command: what to note in the model file as the command that made it.

    Raises:
        InputError: for settings that do not fit the data or the checkpoint in ``out``, a damaged
            checkpoint, a full disk, a loss that is not finite (the last good checkpoint stays), or
            a folder that another process trains in.

    Source: APV section 3.1 and appendix; official config ``metaworld_pretrain``.
    """
    out = Path(out)
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
    place = choose_device(device)
    precision = choose_precision(config.precision, place)
    settings = run_settings(dataset, config, precision, seed, initial)
    logger = folder_logger(out) if logger is None else logger
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads or threads_before)
    try:
        with locked(out):
            remove_leftovers(out)
            state = _start(config, seed, initial, place)
            _resume(state, out / CHECKPOINT, settings, config.steps)
            logger.resume(state.step)
            _train(state, dataset, config, out, logger, settings, progress)
            logger.close()
            made = checkpoint.provenance(command, seed=seed, steps=state.step)
            checkpoint.save_video_model(out / MODEL, state.model, made | {"settings": settings})
    finally:
        logger.close()
        torch.set_num_threads(threads_before)
    return state.model.eval()


def train_step(
    state: TrainingState,
    frames: UInt8[Tensor, "batch time height width 3"],
    config: PretrainConfig,
    noise: Tensor,
    precision: str,
) -> dict[str, Tensor]:
    """One gradient step in place; returns the loss's parts and the gradient norm as scalars."""
    with torch.autocast(frames.device.type, torch.bfloat16, enabled=precision == "bf16"):
        loss, parts = state.model.loss(frames, config=config.loss, noise=noise)
    state.optimizer.zero_grad()
    loss.backward()
    norm = state.optimizer.step()
    state.step += 1
    return parts | {"grad_norm": norm}


def batch_of_step(
    model: ActionFreeVideoModel,
    dataset: VideoDataset,
    config: PretrainConfig,
    seed: int,
    step: int,
) -> tuple[UInt8[Tensor, "batch time height width 3"], Float[Tensor, "batch time stoch classes"]]:
    """The frames and the noise of a step, from ``(seed, step)`` alone, on the model's device.

    Frames are in 0..255, the noise is standard Gumbel.

    Raises:
        InputError: when no training video has ``config.sequence_length`` frames.
    """
    shape = (config.batch_size, config.sequence_length)
    frames = dataset.sample(*shape, np.random.default_rng((seed, BATCH, step)))
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(stream(seed, NOISE, step))
    return torch.from_numpy(frames).to(device), model.noise(*shape, generator)


class Validation:
    """Open-loop prediction of fixed held-out clips, always with the same noise."""

    def __init__(self, dataset: VideoDataset, config: PretrainConfig, seed: int):
        length = config.context + config.horizon
        clips = dataset.clips(config.validation_videos, length, "validation", seed=seed)
        self.context, self.truth = metrics.split_clips(clips, config.context, config.horizon)
        self.seed = stream(seed, VALIDATION, 0)
        self.baselines: list[metrics.Row] = []

    def __call__(
        self, model: ActionFreeVideoModel
    ) -> tuple[dict[str, float], UInt8[np.ndarray, "time rows columns 3"]]:
        """Named errors, and a video grid of some clips.

        ``mse/model`` is a mean over horizons (also psnr, ssim, changed_mse; also of the
        baselines); ``mse/h03`` is the model's at horizon 3 (also psnr, ssim).
        """
        context, truth, seed = self.context, self.truth, self.seed
        prediction = metrics.predict_clips(model, context, truth.shape[1], seed=seed)
        rows = metrics.score("model", prediction, context, truth, seed=seed)
        values = {
            f"{measure}/h{row.horizon:02d}": getattr(row, measure)
            for row in rows
            for measure in ("mse", "psnr", "ssim")
        }
        if not self.baselines:  # they never change, and SSIM takes seconds
            for name, frames in metrics.baselines(context, truth.shape[1]).items():
                self.baselines += metrics.score(name, frames, context, truth, seed=seed)
        for method, means in metrics.summary(rows + self.baselines).items():
            values |= {f"{measure}/{method.replace(' ', '_')}": v for measure, v in means.items()}
        some = slice(0, GRID_CLIPS)
        return values, metrics.prediction_grid(context[some], truth[some], prediction[some])


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
        "seed": seed,
        "dataset": dataset.manifest["sha256"],
        "initial": checkpoint.digest(initial) if initial else None,
    }


def _start(
    config: PretrainConfig, seed: int, initial: Path | str | None, device: torch.device
) -> TrainingState:
    if initial:
        model = checkpoint.load_video_model(initial, config.model)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ActionFreeVideoModel(config.model)
    model.to(device).train()
    return TrainingState(model, DecoupledAdam(model.parameters(), config.optimizer))


def _tensors(state: TrainingState) -> dict[str, Tensor]:
    weights = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    moments = {f"optimizer.{k}": value for k, value in state.optimizer.state_dict().items()}
    return weights | moments


def _resume(state: TrainingState, path: Path, settings: dict[str, Any], steps: int) -> None:
    """Load the checkpoint into ``state`` if there is one."""
    if not path.exists():
        return
    tensors, metadata = checkpoint.load(path)
    checkpoint.check_resumable(path, metadata, "pretraining", settings, steps)
    kinds: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        kinds[kind][rest] = tensor
    checkpoint.load_weights(state.model, kinds["model"], path)
    state.optimizer.load_state_dict(kinds["optimizer"])
    state.step = metadata["step"]


def _train(
    state: TrainingState,
    dataset: VideoDataset,
    config: PretrainConfig,
    out: Path,
    logger: Logger,
    settings: dict[str, Any],
    progress: bool,
) -> None:
    model, seed = state.model, settings["seed"]
    validation = Validation(dataset, config, seed)
    kept = state.step  # the step of the checkpoint on disk

    def due(every: int) -> bool:
        return state.step % every == 0 or state.step == config.steps

    bar = tqdm(total=config.steps, initial=kept, desc="pretrain", unit="step", disable=not progress)
    with bar:
        began, timed = time.perf_counter(), state.step
        while state.step < config.steps:
            frames, noise = batch_of_step(model, dataset, config, seed, state.step)
            values = train_step(state, frames, config, noise, settings["precision"])
            check_losses(values, state.step, kept, out)
            bar.update()
            if due(config.log_every):
                numbers = {f"train/{name}": float(value) for name, value in values.items()}
                pace = (time.perf_counter() - began) / (state.step - timed)
                logger.scalars(state.step, numbers | {"time/seconds_per_step": pace})
                loss, kl = numbers["train/model_loss"], numbers["train/model_kl"]
                bar.set_postfix(loss=f"{loss:.1f}", kl=f"{kl:.2f}", refresh=False)
                began, timed = time.perf_counter(), state.step
            if due(config.validate_every):
                paused = time.perf_counter()
                model.eval()
                numbers, grid = validation(model)
                model.train()
                named = {f"validation/{name}": value for name, value in numbers.items()}
                logger.scalars(state.step, named)
                logger.video(state.step, "validation/open_loop", grid)
                began += time.perf_counter() - paused
            if due(config.checkpoint_every):
                check_weights(model, state.step, kept, out)
                story = {"kind": "pretraining", "step": state.step, "settings": settings}
                checkpoint.save(out / CHECKPOINT, _tensors(state), story)
                kept = state.step
