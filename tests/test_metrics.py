from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from apv_edu import metrics
from apv_edu.config import ModelSize
from apv_edu.errors import InputError
from apv_edu.video_model import ActionFreeVideoModel

CONTEXT, HORIZON = 3, 4


@pytest.fixture
def clips() -> np.ndarray:
    """Smooth moving squares on grey, so that a part of the pixels changes."""
    rng = np.random.default_rng(0)
    clips = np.full((5, 9, 32, 32, 3), 90, np.uint8)
    for clip in clips:
        y, x = rng.integers(0, 12, 2)
        for t, frame in enumerate(clip):
            frame[y + t : y + t + 8, x + t : x + t + 8] = rng.integers(150, 170, (8, 8, 3))
    return clips


@pytest.fixture(scope="module")
def model() -> ActionFreeVideoModel:
    torch.manual_seed(0)
    return ActionFreeVideoModel(ModelSize(32, depth=2, deter=8, hidden=8, stoch=2, classes=2))


def rows_of(table: list[metrics.Row], method: str) -> list[metrics.Row]:
    return [row for row in table if row.method == method]


def test_table_has_a_row_for_each_method_and_horizon(model, clips):
    table = metrics.open_loop_table(model, clips, context=CONTEXT, horizon=HORIZON)
    assert [(row.method, row.horizon) for row in table] == [
        (method, h)
        for method in ("model", "last frame", "mean of context")
        for h in range(1, HORIZON + 1)
    ]
    assert {row.clips for row in table} == {len(clips)}
    for row in table:
        for name in ("mse", "psnr", "ssim", "changed_mse"):
            low, middle, high = (getattr(row, name + end) for end in ("_low", "", "_high"))
            assert low <= middle <= high


def test_last_frame_scores_are_those_computed_by_hand(clips):
    context, truth = metrics.split_clips(clips, CONTEXT, HORIZON)
    prediction = metrics.baselines(context, HORIZON)["last frame"]
    rows = metrics.score("last frame", prediction, context, truth)
    for row in rows:
        h = CONTEXT + row.horizon - 1
        errors, psnrs, ssims, changed_errors, share = [], [], [], [], []
        for clip in clips:
            last, frame = clip[CONTEXT - 1] / 255, clip[h] / 255
            errors.append(np.mean((last - frame) ** 2))
            psnrs.append(peak_signal_noise_ratio(frame, last, data_range=1))
            ssims.append(structural_similarity(frame, last, data_range=1, channel_axis=-1))
            changed = (np.abs(last - frame) > 16 / 255 + 1e-9).any(-1)
            changed_errors += list(((last - frame) ** 2)[changed])
            share.append(changed.mean())
        np.testing.assert_allclose(row.mse, np.mean(errors), rtol=1e-6)
        np.testing.assert_allclose(row.psnr, np.mean(psnrs), rtol=1e-6)
        np.testing.assert_allclose(row.ssim, np.mean(ssims), rtol=1e-6)
        np.testing.assert_allclose(row.changed_mse, np.mean(changed_errors), rtol=1e-6)
        np.testing.assert_allclose(row.changed_pixels, np.mean(share), rtol=1e-9)
        assert row.changed_mse > 3 * row.mse


def test_a_perfect_prediction(clips):
    context, truth = metrics.split_clips(clips, CONTEXT, HORIZON)
    for row in metrics.score("oracle", truth / np.float32(255), context, truth):
        assert row.mse == row.changed_mse == 0
        assert row.ssim == pytest.approx(1)
        assert row.psnr == pytest.approx(58.92, abs=0.01)


def test_mean_of_context_is_the_mean(clips):
    context, _ = metrics.split_clips(clips, CONTEXT, HORIZON)
    mean = metrics.baselines(context, HORIZON)["mean of context"]
    assert mean.shape == (len(clips), HORIZON, 32, 32, 3)
    np.testing.assert_allclose(mean[:, 2], clips[:, :CONTEXT].mean(1) / 255, rtol=1e-6)


@pytest.mark.parametrize(("difference", "changed"), [(16, False), (17, True), (-17, True)])
def test_changed_means_more_than_16_in_any_channel(difference: int, changed: bool):
    last = np.full((1, 1, 1, 3), 100, np.uint8)
    truth = last[:, None].copy()
    truth[..., 1] = 100 + difference
    assert metrics.changed_pixels(last, truth).all() == changed


def test_still_clips_have_no_changed_error(model):
    still = np.full((2, 9, 32, 32, 3), 7, np.uint8)
    for row in metrics.open_loop_table(model, still, context=CONTEXT, horizon=HORIZON):
        assert row.changed_pixels == 0
        assert np.isnan(row.changed_mse)


@pytest.mark.parametrize("contrast", [1.0, 0.01, 0.0])
def test_ssim_of_many_is_scikit_images_of_each(contrast: float):
    rng = np.random.default_rng(0)
    frames = rng.random((70, 9, 11, 3), np.float32)
    others = frames * (1 - contrast) + contrast * rng.random(frames.shape, np.float32)
    each = [
        structural_similarity(a.astype(float), b.astype(float), data_range=1, channel_axis=-1)
        for a, b in zip(frames, others, strict=True)
    ]
    np.testing.assert_allclose(metrics.ssim(frames, others), each, atol=1e-9)


def test_predictions_depend_on_the_seed_and_not_on_the_batch(model, clips):
    context, _ = metrics.split_clips(clips, CONTEXT, HORIZON)
    one, two, other = (
        metrics.predict_clips(model, context, HORIZON, seed=seed, batch=batch)
        for seed, batch in ((1, 2), (1, 5), (2, 5))
    )
    np.testing.assert_allclose(one, two, atol=1e-5)
    assert np.abs(one - other).max() > 1e-4
    assert (one >= 0).all()
    assert (one <= 1).all()


def test_interval_narrows_with_clips():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 255, (400, 1, 8, 8, 3), dtype=np.uint8)
    guess = (truth / 255 + rng.normal(0, 1, (400, 1, 1, 1, 1))).astype(np.float32)
    widths = []
    for count in (25, 400):
        (row,) = metrics.score("x", guess[:count], truth[:count], truth[:count])
        widths.append(row.mse_high - row.mse_low)
        spread = ((guess - truth / 255)[:count] ** 2).mean((1, 2, 3, 4)).std() / count**0.5
        assert widths[-1] == pytest.approx(2 * 1.96 * spread, rel=0.25)
    assert widths[1] < 0.5 * widths[0]


def test_summary_weighs_changed_pixels(clips):
    context, truth = metrics.split_clips(clips, CONTEXT, HORIZON)
    prediction = metrics.baselines(context, HORIZON)["last frame"]
    rows = metrics.score("last frame", prediction, context, truth)
    means = metrics.summary(rows, first_horizon=2)["last frame"]
    changed = metrics.changed_pixels(context[:, -1], truth)[:, 1:]
    error = ((prediction - truth / 255) ** 2).mean(-1)[:, 1:]
    assert means["changed_mse"] == pytest.approx(error[changed].mean())
    assert means["mse"] == pytest.approx(error.mean())


def test_csv_round_trip(clips, tmp_path: Path):
    context, truth = metrics.split_clips(clips, CONTEXT, HORIZON)
    still = np.repeat(context[:, -1:], HORIZON, axis=1)
    rows = metrics.score("x", still / np.float32(255), context, truth)
    rows += metrics.score("still", still / np.float32(255), context, still)
    metrics.write_rows(tmp_path / "t.csv", rows)
    back = metrics.read_rows(tmp_path / "t.csv")
    assert [(r.horizon, r.method, r.clips) for r in back] == [
        (r.horizon, r.method, r.clips) for r in rows
    ]
    assert [r.mse for r in back] == pytest.approx([r.mse for r in rows], rel=1e-5)
    assert np.isnan(back[-1].changed_mse)


def test_clips_that_are_too_short_are_refused(model, clips):
    with pytest.raises(InputError, match=r"5 clips of 6 frames .* at least one clip of 7"):
        metrics.open_loop_table(model, clips[:, :6], context=CONTEXT, horizon=HORIZON)


def test_grid_shows_truth_prediction_and_error(clips):
    context, truth = metrics.split_clips(clips, CONTEXT, HORIZON)
    grid = metrics.prediction_grid(context, truth, (255 - truth) / np.float32(255), scale=2)
    assert grid.shape == (CONTEXT + HORIZON, 3 * 64, len(clips) * 64, 3)
    small = grid[:, ::2, ::2]
    np.testing.assert_array_equal(small[:, :32, 32:64], clips[1, : CONTEXT + HORIZON])
    np.testing.assert_array_equal(small[CONTEXT:, 32:64, 32:64], 255 - truth[1])
    error = np.abs(255 - 2 * truth[1].astype(int)).max(-1)
    np.testing.assert_array_equal(small[CONTEXT:, 64:, 32:64, 0], error)
    assert (small[:CONTEXT, 64:] == 0).all()
