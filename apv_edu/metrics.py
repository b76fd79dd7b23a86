"""How good is an open-loop prediction? MSE, PSNR and SSIM at each horizon, beside two baselines.

Pixels are in [0, 1]. A changed pixel differs by more than 16/255 from the last context frame, in
any channel: where something moved, and where repeating that frame must fail.
"""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from skimage.metrics import structural_similarity

from apv_edu.config import check_seed
from apv_edu.errors import InputError
from apv_edu.files import write_atomically
from apv_edu.video_model import ActionFreeVideoModel

CHANGE = 16
"""Of 255: a pixel that differs by more has changed."""
LEAST_MSE = (1 / 255) ** 2 / 12
"""The error of rounding to 8 bits: the floor under a PSNR, which therefore ends at 58.9 dB."""

Frames = Float[np.ndarray, "clips time height width 3"]


@dataclass(frozen=True)
class Row:
    """One method at one horizon: means over clips with 95% bootstrap intervals over clips."""

    horizon: int
    """Frames after the last context frame, from 1."""
    method: str
    """``model``, ``last frame`` or ``mean of context``."""
    clips: int
    mse: float
    mse_low: float
    mse_high: float
    psnr: float
    """Decibels: the mean over clips of each frame's."""
    psnr_low: float
    psnr_high: float
    ssim: float
    ssim_low: float
    ssim_high: float
    changed_mse: float
    """Over the changed pixels of all clips together; NaN where nothing changed."""
    changed_mse_low: float
    changed_mse_high: float
    changed_pixels: float
    """The share of pixels that changed."""


def open_loop_table(
    model: ActionFreeVideoModel,
    clips: UInt8[np.ndarray, "clips time height width 3"],
    *,
    context: int = 5,
    horizon: int = 15,
    seed: int = 0,
    batch: int = 32,
) -> list[Row]:
    """Compare the model's open-loop prediction, one sample a clip, with two that need no model.

    Args:
        model: the video model.
        clips: held-out clips of at least ``context + horizon`` frames.
        context: frames shown.
        horizon: frames predicted.
        seed: of the model's sampling noise and of the bootstrap.
        batch: clips predicted at a time; the result does not depend on the noise of others.

    Returns:
        A row for each method and horizon.

    Raises:
        InputError: when the clips are too short or none, ``context`` or ``horizon`` below 1, or
            the seed is negative.
    """
    check_seed(seed)
    seen, truth = split_clips(clips, context, horizon)
    predictions = {
        "model": predict_clips(model, seen, horizon, seed=seed, batch=batch),
        **baselines(seen, horizon),
    }
    return [
        row
        for method, prediction in predictions.items()
        for row in score(method, prediction, seen, truth, seed=seed)
    ]


def split_clips(
    clips: UInt8[np.ndarray, "clips time height width 3"], context: int, horizon: int
) -> tuple[
    UInt8[np.ndarray, "clips context height width 3"],
    UInt8[np.ndarray, "clips horizon height width 3"],
]:
    """The context frames, and the ``horizon`` frames after them.

    Raises:
        InputError: when the clips are too short or none, or ``context`` or ``horizon`` below 1.
    """
    if min(context, horizon) < 1:
        raise InputError(
            f"{context} context frames and {horizon} predicted ones are too few: "
            "ask for at least one of each."
        )
    if len(clips) == 0 or clips.shape[1] < context + horizon:
        raise InputError(
            f"{len(clips)} clips of {clips.shape[1]} frames are too few for {context} context "
            f"frames and {horizon} predicted ones: pass at least one clip of {context + horizon}."
        )
    return clips[:, :context], clips[:, context : context + horizon]


def score(
    method: str,
    prediction: Frames,
    context: UInt8[np.ndarray, "clips context height width 3"],
    truth: UInt8[np.ndarray, "clips horizon height width 3"],
    *,
    seed: int = 0,
) -> list[Row]:
    """A row for each horizon of one method's prediction; ``seed`` is the bootstrap's."""
    clips, horizon = truth.shape[:2]
    real = truth.astype(np.float32) / 255
    pixel_error = ((prediction - real) ** 2).mean(-1, dtype=np.float64)
    mse = pixel_error.mean((2, 3))
    changed = changed_pixels(context[:, -1], truth)
    frames = (clips * horizon, *truth.shape[2:])
    similarity = ssim(prediction.reshape(frames), real.reshape(frames)).reshape(clips, horizon)
    error_there, count = (pixel_error * changed).sum((2, 3)), changed.sum((2, 3)).astype(float)

    # How often each clip is drawn in each of 1000 resamples, as weights of one matrix product.
    draws = np.random.default_rng(seed).multinomial(clips, [1 / clips] * clips, 1000) / clips

    def mean(values: np.ndarray) -> np.ndarray:  # (3, horizon): mean, low, high
        return np.stack([values.mean(0), *np.percentile(draws @ values, (2.5, 97.5), axis=0)])

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = (draws @ above) / (draws @ below)
            middle = above.sum(0) / below.sum(0)
        bounds = np.stack([_percentile(column) for column in spread.T], 1)
        return np.concatenate([middle[None], bounds])

    tables = [mean(mse), mean(psnr(mse)), mean(similarity), ratio(error_there, count)]
    return [
        Row(h + 1, method, clips, *(float(value) for value in numbers))
        for h, numbers in enumerate(np.concatenate([*tables, changed.mean((0, 2, 3))[None]]).T)
    ]


def predict_clips(
    model: ActionFreeVideoModel,
    context: UInt8[np.ndarray, "clips context height width 3"],
    horizon: int,
    *,
    seed: int = 0,
    batch: int = 32,
) -> Float[np.ndarray, "clips horizon height width 3"]:
    """One sampled open-loop prediction for each clip, in [0, 1].

    The noise is drawn for all clips at once, so ``batch`` changes nothing but the memory used.

    Raises:
        InputError: for frames of another kind or size than the model's.

    Source: APV section 3.1; as DreamerV2's ``WorldModel.video_pred``.
    """
    device = next(model.parameters()).device
    clips, length = context.shape[:2]
    noise = model.noise(clips, length + horizon, torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        parts = [
            model.predict(
                torch.from_numpy(np.array(context[part])).to(device),
                horizon,
                noise[part].to(device),
            )
            for part in (slice(i, i + batch) for i in range(0, clips, batch))
        ]
    return torch.cat(parts).float().cpu().numpy()


def baselines(
    context: UInt8[np.ndarray, "clips context height width 3"], horizon: int
) -> dict[str, Frames]:
    """Predictions without a model, in [0, 1]: repeat the last frame, or the mean of the context."""
    still = {
        "last frame": context[:, -1:].astype(np.float32) / 255,
        "mean of context": context.mean(1, keepdims=True, dtype=np.float32) / 255,
    }
    return {name: np.repeat(frame, horizon, axis=1) for name, frame in still.items()}


def changed_pixels(
    last: UInt8[np.ndarray, "clips height width 3"],
    truth: UInt8[np.ndarray, "clips horizon height width 3"],
) -> Bool[np.ndarray, "clips horizon height width"]:
    """Where ``truth`` differs from ``last`` (context frame) by more than 16 of 255, any channel."""
    difference = np.abs(truth.astype(np.int16) - last[:, None].astype(np.int16))
    return np.any(difference > CHANGE, axis=-1)


def psnr(mse: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Peak signal-to-noise ratio in decibels of a frame's mean squared error, pixels in [0, 1].

    Source: the definition, -10 log10(MSE), with ``LEAST_MSE`` as the least error.
    """
    return -10 * np.log10(np.maximum(mse, LEAST_MSE))


def ssim(
    a: Float[np.ndarray, "frames height width 3"], b: Float[np.ndarray, "frames height width 3"]
) -> Float[np.ndarray, " frames"]:
    """Structural similarity of pairs of frames in [0, 1] (window 7, as scikit-image).

    The frames go through scikit-image as tall pictures: windows that would reach into a
    neighbour lie in the border of 3 pixels, which it leaves out of a frame's mean anyway.

    Source: Wang et al., "Image quality assessment: from error visibility to structural
    similarity", IEEE Transactions on Image Processing, 2004.
    """
    result = []
    for start in range(0, len(a), 32):  # a picture that fits into the processor's cache
        part = (frames[start : start + 32].astype(np.float64) for frames in (a, b))
        tall = (np.concatenate(list(frames)) for frames in part)
        similar = structural_similarity(*tall, data_range=1.0, channel_axis=-1, full=True)[1]
        frames = np.asarray(similar).reshape(-1, *a.shape[1:])
        result.append(frames[:, 3:-3, 3:-3].mean((1, 2, 3)))
    return np.concatenate(result)


def summary(rows: Sequence[Row], first_horizon: int = 1) -> dict[str, dict[str, float]]:
    """Each method's means over the horizons from ``first_horizon`` on.

    ``changed_mse`` weighs each horizon by its changed pixels, so it is a mean over pixels.
    """
    result = {}
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method and row.horizon >= first_horizon]
        moving = [row for row in mine if row.changed_pixels > 0]
        weight = sum(row.changed_pixels for row in moving)
        result[method] = {
            name: float(np.mean([getattr(row, name) for row in mine]))
            for name in ("mse", "psnr", "ssim")
        } | {
            "changed_mse": sum(row.changed_mse * row.changed_pixels for row in moving) / weight
            if moving
            else float("nan")
        }
    return result


def write_rows(path: Path | str, rows: Iterable[Row]) -> None:
    """Write the table as CSV, atomically.

    Raises:
        InputError: when the disk is full or the folder cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in asdict(row).items()}
        )
    write_atomically(path, text.getvalue().encode())


def read_rows(path: Path | str) -> list[Row]:
    """Read a table that ``write_rows`` wrote."""
    kinds: dict[str, Callable] = {"horizon": int, "clips": int, "method": str}
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [
            Row(**{name: kinds.get(name, float)(text) for name, text in line.items()})
            for line in csv.DictReader(file)
        ]


def prediction_grid(
    context: UInt8[np.ndarray, "clips context height width 3"],
    truth: UInt8[np.ndarray, "clips horizon height width 3"],
    prediction: Frames,
    *,
    scale: int = 2,
) -> UInt8[np.ndarray, "time rows columns 3"]:
    """A video with a column for each clip and the rows truth, prediction, and absolute error.

    During the context the prediction row repeats the truth, under a white line; the error is grey.
    """
    real = np.concatenate([context, truth], 1)
    made = np.concatenate([context, np.rint(prediction * 255).astype(np.uint8)], 1)
    error = np.abs(real.astype(np.int16) - made.astype(np.int16)).max(-1, keepdims=True)
    error = np.repeat(error.astype(np.uint8), 3, axis=-1)
    rows = np.stack([real, made, error])  # rows, clips, time, height, width, 3
    grid = np.kron(rows, np.ones((1, 1, 1, scale, scale, 1), np.uint8))
    grid[1, :, : context.shape[1], :scale] = 255
    kinds, clips, time, height, width, _ = grid.shape
    return grid.transpose(2, 0, 3, 1, 4, 5).reshape(time, kinds * height, clips * width, 3)


def _percentile(values: np.ndarray) -> np.ndarray:
    values = values[np.isfinite(values)]  # a resample may have drawn only clips without change
    return np.percentile(values, (2.5, 97.5)) if len(values) else np.full(2, np.nan)
