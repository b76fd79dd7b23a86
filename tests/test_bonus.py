import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from apv_edu.agent_config import BonusConfig
from apv_edu.bonus import VideoBonus
from apv_edu.errors import InputError

SMALL = BonusConfig(window=3, queue=20, dim=5, neighbours=2)


def build(config=SMALL, features=7) -> VideoBonus:
    return VideoBonus(features, config, torch.Generator().manual_seed(0)).double()


def features(batch=2, length=6, width=7, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, width, dtype=torch.float64, generator=generator)


class ByHand:
    """The bonus as the paper tells it, with loops, in float64."""

    def __init__(self, bonus: VideoBonus):
        self.projection, self.config = bonus.projection.numpy().copy(), bonus.config
        self.queue, self.magnitude = [], 1.0

    def __call__(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        c, (batch, length, _) = self.config, features.shape
        steps = length - c.window + 1
        moments = np.zeros((batch, steps, c.dim))
        for b in range(batch):
            for t in range(steps):
                moments[b, t] = features[b, t : t + c.window].mean(0) @ self.projection
        self.queue = [*moments.reshape(-1, c.dim), *self.queue][: c.queue]
        raw = np.zeros((batch, steps))
        for b in range(batch):
            for t in range(steps):
                distances = sorted(np.sqrt(((moments[b, t] - q) ** 2).sum()) for q in self.queue)
                raw[b, t] = np.mean(distances[: c.neighbours])
        self.magnitude = c.momentum * self.magnitude + (1 - c.momentum) * np.abs(raw).mean()
        return raw, raw / (self.magnitude + 1e-8)


@pytest.mark.parametrize("momentum", [0.99, 0.5, 1.0])
def test_successive_calls_by_hand(momentum):
    bonus = build(BonusConfig(window=3, queue=20, dim=5, neighbours=3, momentum=momentum))
    hand = ByHand(bonus)
    for call in range(5):
        x = features(seed=call)
        for ours, theirs in zip(bonus(x), hand(x.numpy()), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)
        held = len(hand.queue)
        assert bonus.filled == held == min(20, 8 * (call + 1))
        np.testing.assert_allclose(bonus.queue[:held], hand.queue, rtol=1e-12)
        assert bonus.magnitude.item() == pytest.approx(hand.magnitude, rel=1e-12)


def test_a_moment_is_remembered_before_the_search():
    bonus = build(BonusConfig(window=3, queue=20, dim=5, neighbours=1))
    raw, normed = bonus(features())
    assert not raw.any() and not normed.any()  # each found itself


def test_what_was_seen_before_is_worth_less():
    bonus, seen, new = build(), features(seed=1), features(seed=2)
    first, _ = bonus(seen)
    again, _ = bonus(seen)
    other, _ = bonus(new)
    assert first.min() > 0 and not again.any()  # now each has two copies, its two neighbours
    assert other.min() > 0


def test_the_oldest_moments_fall_out_in_batch_order():
    bonus = build(BonusConfig(window=3, queue=10, dim=5, neighbours=2))
    x, y = features(seed=1), features(seed=2)
    bonus(x)
    assert bonus.filled == 8 and not bonus.queue[8:].any()
    bonus(y)
    newest, older = bonus.moments(y).flatten(0, 1), bonus.moments(x).flatten(0, 1)
    assert torch.equal(bonus.queue, torch.cat([newest, older[:2]]))


def test_a_batch_larger_than_the_queue_keeps_its_first_moments():
    bonus = build(BonusConfig(window=3, queue=4, dim=5, neighbours=2))
    x = features()
    bonus(x)
    assert torch.equal(bonus.queue, bonus.moments(x).flatten(0, 1)[:4])
    assert bonus.filled == 4


def test_a_moment_looks_at_its_window_and_nothing_else():
    bonus, x = build(), features()
    changed = x.clone()
    changed[:, 4] += 1
    same = (bonus.moments(changed) == bonus.moments(x)).all(-1)
    assert same.tolist() == [[True, True, False, False]] * 2
    constant = torch.ones(1, 6, 7, dtype=torch.float64) * torch.arange(7)
    torch.testing.assert_close(
        bonus.moments(constant), (constant @ bonus.projection)[:, :4], rtol=1e-12, atol=0
    )


def test_the_projection_is_small_fixed_and_no_parameter():
    bonus = VideoBonus(400, BonusConfig(dim=64), torch.Generator().manual_seed(0))
    assert bonus.projection.std().item() == pytest.approx(1 / 64, rel=0.02)
    assert not list(bonus.parameters())
    before = bonus.projection.clone()
    bonus(torch.randn(2, 25, 400, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(bonus.projection, before)


def test_no_gradient_reaches_the_features():
    x = features().requires_grad_()
    raw, normed = build()(x)
    assert not raw.requires_grad and not normed.requires_grad


def test_the_state_is_in_the_checkpoint():
    bonus = build()
    bonus(features(seed=1))
    state = {name: value.clone() for name, value in bonus.state_dict().items()}
    assert set(state) == {"queue", "projection", "filled", "magnitude"}
    other = VideoBonus(7, SMALL).double()
    other.load_state_dict(state)
    for ours, theirs in zip(bonus(features(seed=2)), other(features(seed=2)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3])
def test_neighbours_are_right_where_all_moments_are_alike(spread):
    """In float32, distances that are small beside the vectors must not drown in rounding."""
    config = BonusConfig(window=3, queue=600, dim=64, neighbours=8)
    generator = torch.Generator().manual_seed(0)
    bonus = VideoBonus(128, config, generator)
    place = torch.randn(128, generator=generator)
    moves = spread * torch.randn(3, 10, 22, 128, generator=generator)
    raw, _ = [bonus(place + move) for move in moves][-1]
    queue = bonus.queue.double()
    distance = (queue[:200, None] - queue).norm(dim=-1)
    nearest = distance.topk(8, largest=False).values.mean(-1)
    np.testing.assert_allclose(raw.flatten(), nearest, rtol=1e-4)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // 4)
        return out


@pytest.mark.parametrize("queue", [512, 2048])
def test_memory_is_linear_in_the_queue(queue):
    bonus = VideoBonus(48, BonusConfig(queue=queue, dim=128, neighbours=16))
    x = torch.randn(4, 44, 48)  # 160 moments
    with Largest() as largest:
        bonus(x)
    distances, found = 160 * queue, 160 * 16 * 128
    assert largest.elements <= 2 * max(distances, found) < 160 * queue * 128 / 4


def test_sequences_shorter_than_the_window_are_refused():
    bonus = build()
    with pytest.raises(InputError, match=r"3 frames and the sequences have 2: give longer"):
        bonus(features(length=2))
    assert bonus.filled == 0 and bonus(features(length=3))[0].shape == (2, 1)


def test_fewer_moments_than_neighbours_are_refused():
    bonus = build(BonusConfig(window=3, queue=20, dim=5, neighbours=9))
    with pytest.raises(InputError, match=r"averages 9 neighbours and has seen only 8 moments"):
        bonus(features())
    with pytest.raises(InputError, match=r"neighbours=5 is more than queue=4 holds"):
        BonusConfig(queue=4, neighbours=5)
