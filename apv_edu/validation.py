"""How well a video model predicts held-out clips, measured again and again as it trains."""

import numpy as np
from jaxtyping import UInt8

from apv_edu import metrics
from apv_edu.config import PretrainConfig
from apv_edu.data.video import VideoDataset
from apv_edu.seeds import stream
from apv_edu.video_model import ActionFreeVideoModel

VALIDATION = 2  # the stream of randomness beside those of pre-training's batches and noise
GRID_CLIPS = 6


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
