"""The loops over time for long runs: few kernels a step, and weights' gradients at the end.

They compute what ``RSSM.observe`` and ``behavior.imagine`` compute, which are the ones to read. Two
things differ. One step of a loop is one function, so that a compiler can melt its kernels together.
And autograd would, at every step, make a small product for the gradient of each weight, then add
it to a sum as large as the weight; here the inputs of all steps are kept, and one product makes
the gradient of them all. Weights are rounded once, too, and not at each step.
"""

from collections.abc import Callable, Iterable
from itertools import repeat

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from apv_edu.behavior import ImaginationNoise, Trajectory
from apv_edu.nets.distributions import straight_through
from apv_edu.nets.heads import Actor, policy
from apv_edu.nets.layers import LayerNormGRU
from apv_edu.nets.rssm import RSSM, Rollout, State
from apv_edu.nets.truncated_normal import TruncatedNormal

Tensors = tuple[Tensor, ...]


class _Late(torch.autograd.Function):
    """``offset``, to which each step adds its input times ``weight``; that product is not recorded.

    ``inputs`` is a list that the steps fill. By the time of the backward pass it holds all of them.
    """

    @staticmethod
    def forward(ctx, offset: Tensor, weight: Tensor, inputs: list[Tensor]) -> Tensor:
        ctx.inputs = inputs
        return offset.view_as(offset)

    @staticmethod
    def backward(ctx, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        if not ctx.needs_input_grad[1]:
            return grad, None, None
        x = torch.stack(ctx.inputs, 1).flatten(0, 1)
        product = grad.flatten(0, 1).to(x.dtype).T @ x
        return grad, product.to(grad.dtype), None


class _Layers:
    """Linear layers that every step uses: rounded weights, an offset for each step, kept inputs."""

    def __init__(self, layers: Iterable[tuple[Tensor, Tensor]], dtype: torch.dtype):
        layers = list(layers)
        self.weights: Tensors = tuple(weight.detach().to(dtype) for weight, _ in layers)
        self.inputs: list[list[Tensor]] = [[] for _ in layers]
        late = (
            _Late.apply(offset, weight, kept).unbind(1)
            for (weight, offset), kept in zip(layers, self.inputs, strict=True)
        )
        self.offsets: list[Tensors] = list(zip(*late, strict=True))

    def keep(self, inputs: Tensors) -> None:
        """Remember what a step multiplied its weights with."""
        for kept, x in zip(self.inputs, inputs, strict=True):
            kept.append(x)


def _affine(x: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    return F.linear(x, weight).to(offset.dtype) + offset


def _remember(
    x: Tensor, deter: Tensor, layers: tuple[Tensors, Tensors], norm: Tensors, update_bias: float
) -> tuple[Tensor, Tensors]:
    """The memory one step later, from the flat latent and action; and both products' inputs."""
    (into, gates), (into_offset, gates_offset) = layers
    first = x.to(into.dtype)
    x = F.elu(_affine(first, into, into_offset))
    second = torch.cat([x.to(gates.dtype), deter.to(gates.dtype)], -1)
    given = _affine(second, gates, gates_offset)
    gain, shift = norm
    given = F.layer_norm(given, given.shape[-1:], gain, shift, LayerNormGRU.EPS)
    return LayerNormGRU.move(given, deter, update_bias), (first, second)


def see(
    weights: Tensors,
    offsets: Tensors,
    norm: Tensors,
    update_bias: float,
    state: State,
    action: Tensor | None,
    keep: Tensor | None,
    noise: Tensor | None,
) -> tuple[State, Tensor, Tensors]:
    """One step of ``observe``: the posterior state, its logits, and the inputs of the products."""
    deter, stoch = state
    x = stoch.flatten(-2)
    if action is not None:
        x = torch.cat([x, action], -1)
    if keep is not None:
        x, deter = x * keep, deter * keep
    deter, inputs = _remember(x, deter, (weights[:2], offsets[:2]), norm, update_bias)
    third = deter.to(weights[2].dtype)
    fourth = F.elu(_affine(third, weights[2], offsets[2])).to(weights[3].dtype)
    logits = _affine(fourth, weights[3], offsets[3]).unflatten(-1, stoch.shape[-2:])
    state = State(deter, straight_through(logits, noise))
    return state, logits, tuple(x.detach() for x in (*inputs, third, fourth))


def observe(
    rssm: RSSM,
    embed: Float[Tensor, "batch time embed"],
    state: State | None = None,
    *,
    actions: Float[Tensor, "batch time action"] | None = None,
    is_first: Bool[Tensor, "batch time"] | None = None,
    noise: Float[Tensor, "batch time stoch classes"] | None = None,
    step: Callable[..., tuple[State, Tensor, Tensors]] = see,
) -> Rollout:
    """As ``rssm.observe``; ``step`` is ``see``, as it is or compiled."""
    batch, length = embed.shape[:2]
    state = state or rssm.initial(batch)
    last = rssm.posterior_hidden
    weight_deter, weight_embed = last.weight.split([rssm.deter, rssm.embed], dim=1)
    evidence = F.linear(embed, weight_embed, last.bias).to(weight_deter.dtype)

    layers = _Layers(
        [
            _of(rssm.gru_input, batch, length),
            _of(rssm.gru.gates, batch, length),
            (weight_deter, evidence),
            _of(rssm.posterior_logits, batch, length),
        ],
        _precision(embed, rssm),
    )
    keep = None if is_first is None else (~is_first).to(weight_deter.dtype)[..., None]
    deters, stochs, posteriors = [], [], []
    for offsets, norm, action, kept, luck in zip(
        layers.offsets, _norms(rssm, length), *map(_steps, (actions, keep, noise)), strict=False
    ):
        state, logits, inputs = step(
            layers.weights, offsets, norm, rssm.gru.update_bias, state, action, kept, luck
        )
        layers.keep(inputs)
        deters.append(state.deter)
        stochs.append(state.stoch)
        posteriors.append(logits)
    deter = torch.stack(deters, 1)
    return Rollout(deter, torch.stack(stochs, 1), torch.stack(posteriors, 1), rssm.prior(deter))


def dream(
    weights: Tensors,
    offsets: Tensors,
    world: tuple[Tensors, Tensors],
    norm: Tensors,
    update_bias: float,
    state: State,
    latent_noise: Tensor | None,
    action_noise: Tensor | None,
) -> tuple[State, Tensor, Tensor, Tensor, Tensors]:
    """One imagined step: state, action, the policy's loc and scale, the inputs of its products."""
    deter, stoch = state
    x, inputs = state.features.detach(), []
    for weight, offset in zip(weights[:-2], offsets[:-2], strict=True):
        inputs.append(x.to(weight.dtype))
        x = F.elu(_affine(inputs[-1], weight, offset))
    last = x.to(weights[-1].dtype)
    chosen = policy(*(_affine(last, w, o) for w, o in zip(weights[-2:], offsets[-2:], strict=True)))
    action = chosen.sample(action_noise)
    x = torch.cat([stoch.flatten(-2), action], -1)
    into, biases = world
    deter, _ = _remember(x, deter, (into[:2], biases[:2]), norm, update_bias)
    hidden = F.elu(_affine(deter.to(into[2].dtype), into[2], biases[2]))
    logits = _affine(hidden.to(into[3].dtype), into[3], biases[3]).unflatten(-1, stoch.shape[-2:])
    state = State(deter, straight_through(logits, latent_noise))
    kept = tuple(x.detach() for x in (*inputs, last, last))
    return state, action, chosen.loc, chosen.scale, kept


def imagine(
    actor: Actor,
    rssm: RSSM,
    start: State,
    horizon: int,
    noise: ImaginationNoise | None = None,
    *,
    step: Callable[..., tuple[State, Tensor, Tensor, Tensor, Tensors]] = dream,
) -> Trajectory:
    """As ``behavior.imagine``, with gradients for the actor only; ``step`` is ``dream``."""
    batch, dtype = len(start.deter), _precision(start.deter, rssm)
    own = (layer for layer in (*actor.layers, actor.out, actor.std) if isinstance(layer, nn.Linear))
    layers = _Layers((_of(layer, batch, horizon) for layer in own), dtype)
    known = (rssm.gru_input, rssm.gru.gates, rssm.prior_hidden, rssm.prior_logits)
    world = (
        tuple(layer.weight.detach().to(dtype) for layer in known),
        tuple(layer.bias.detach() for layer in known),
    )
    norm = rssm.gru.norm.weight.detach(), rssm.gru.norm.bias.detach()
    state, states = start, [start]
    actions, locs, scales = [start.deter.new_zeros(batch, rssm.action_dim)], [], []
    lucks = (None, None) if noise is None else noise
    for offsets, *luck in zip(layers.offsets, *map(_steps, lucks), strict=False):
        state, action, loc, scale, inputs = step(
            layers.weights, offsets, world, norm, rssm.gru.update_bias, state, *luck
        )
        layers.keep(inputs)
        states.append(state)
        actions.append(action)
        locs.append(loc)
        scales.append(scale)
    over_time = State(*(torch.stack(values, 1) for values in zip(*states, strict=True)))
    chosen = TruncatedNormal(torch.stack(locs, 1), torch.stack(scales, 1))
    return Trajectory(over_time, torch.stack(actions, 1), chosen)


def _precision(like: Tensor, rssm: RSSM) -> torch.dtype:
    """What products are computed in: autocast's type where it is on, else the weights' own."""
    kind = like.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return rssm.gru_input.weight.dtype


def _of(layer: nn.Linear, batch: int, length: int) -> tuple[Tensor, Tensor]:
    """Its weight, and its bias at every step."""
    return layer.weight, layer.bias.expand(batch, length, -1)


def _norms(rssm: RSSM, length: int) -> Iterable[Tensors]:
    """Gain and shift of the gates' norm, a view for each step: their gradients meet at the end."""
    parts = (rssm.gru.norm.weight, rssm.gru.norm.bias)
    return zip(*(part.expand(length, -1).unbind() for part in parts), strict=True)


def _steps(tensor: Tensor | None) -> Iterable[Tensor | None]:
    return repeat(None) if tensor is None else tensor.unbind(1)
