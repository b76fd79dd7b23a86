"""Pairs of ways to compute one thing: as it is usually written, and as this package does.

Both ways of a pair return the same tensors (results, and gradients where there are any), so that
a test can hold them against each other. Each does the work of one update at the sizes of a
``Work``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apv_edu.agent_config import AgentConfig
from apv_edu.bench import naive
from apv_edu.bonus import VideoBonus
from apv_edu.config import LossConfig, OptimizerConfig
from apv_edu.nets.distributions import balanced_kl, gumbel, kl_divergence, straight_through
from apv_edu.nets.rssm import RSSM, State
from apv_edu.nets.vision import Encoder, scale_pixels
from apv_edu.optimizer import BETA1, BETA2, DecoupledAdam
from apv_edu.video_model import ActionFreeVideoModel

Tensors = tuple[Tensor, ...]
Way = Callable[[], Tensors]


class Pair(NamedTuple):
    """Two ways to the same tensors."""

    part: str
    plain_name: str
    our_name: str
    update: Literal["pretraining", "fine-tuning"]
    """Of which both are a part, once in each."""
    plain: Way
    ours: Way


@dataclass(frozen=True)
class Work:
    """The sizes of an update: sequences, and their frames in pre-training and fine-tuning."""

    config: AgentConfig
    batch: int = 16
    pretrain_length: int = 25
    finetune_length: int = 50

    @property
    def images(self) -> int:
        """Frames of a pre-training step."""
        return self.batch * self.pretrain_length

    @property
    def beliefs(self) -> int:
        """Frames of a fine-tuning update, which are the starts of imagination."""
        return self.batch * self.finetune_length

    def model(self) -> ActionFreeVideoModel:
        """A fresh video model."""
        return ActionFreeVideoModel(self.config.model)


def with_gradients(output: Tensor, *inputs: Tensor) -> Tensors:
    """``output``, and the gradients of half its squares for ``inputs``."""
    return (output.detach(), *torch.autograd.grad(output, inputs, output.detach()))


def first_layer(work: Work) -> Pair:
    """The decoder's first layer paints one pixel as a patch: it is a matrix product."""
    layer = work.model().decoder.patch
    kernel = layer.weight.detach().permute(3, 2, 0, 1).contiguous().requires_grad_()
    x = torch.randn(work.images, kernel.shape[0], requires_grad=True)

    def plain() -> Tensors:
        y = F.conv_transpose2d(x[..., None, None], kernel, layer.bias, stride=2)
        y, by_x, by_kernel, by_bias = with_gradients(y, x, kernel, layer.bias)
        return y, by_x, by_kernel.permute(2, 3, 1, 0), by_bias

    ours = lambda: with_gradients(layer(x), x, layer.weight, layer.bias)
    names = ("decoder's first layer", "transposed convolution", "matrix product")
    return Pair(*names, "pretraining", plain, ours)


def last_layer(work: Work) -> Pair:
    """The decoder's last layer makes few channels: blocks of pixels can be channels instead."""
    layer = work.model().decoder.convs[-1]
    weights = list(layer.parameters())
    weight, bias = weights
    side = (work.config.model.image_size - weight.shape[-1]) // 2 + 1
    x = torch.randn(work.images, weight.shape[0], side, side)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    plain = lambda: with_gradients(F.conv_transpose2d(x, weight, bias, stride=2), x, *weights)
    ours = lambda: with_gradients(layer(x), x, *weights)
    names = ("decoder's last layer", "transposed convolution", "convolution and shuffle")
    return Pair(*names, "pretraining", plain, ours)


def channels(work: Work) -> Pair:
    """Pixels of a frame lie together: left so, nothing is moved and convolutions are faster."""
    size = work.config.model
    encoder = Encoder(size.image_size, size.depth)
    shape = (1, work.images, size.image_size, size.image_size, 3)
    frames, weights = torch.randint(0, 256, shape, dtype=torch.uint8), list(encoder.parameters())

    def plain() -> Tensors:
        embed = naive.encode(encoder, naive.scaled(frames, torch.get_default_dtype()))
        return with_gradients(embed, *weights)

    def ours() -> Tensors:
        images = scale_pixels(frames, size.image_size, torch.get_default_dtype())
        return with_gradients(encoder(images).squeeze(0), *weights)

    return Pair("encoder", "channels first", "channels last", "pretraining", plain, ours)


def plain_scan(
    rssm: RSSM,
    embed: Tensor,
    *,
    objects: bool = False,
    prior_inside: bool = False,
    evidence_inside: bool = False,
) -> tuple[Tensor, Tensor]:
    """Features, and the balanced divergence, of the posteriors' modes; each flag is a habit.

    Args:
        rssm: without actions.
        embed: (batch, time, embed).
        objects: latents are ``torch.distributions``.
        prior_inside: the prior and the divergence are computed at each step.
        evidence_inside: the posterior sees memory and embedding joined, at each step.
    """
    weight_deter, weight_embed = rssm.posterior_hidden.weight.split([rssm.deter, rssm.embed], 1)
    evidence = F.linear(embed, weight_embed, rssm.posterior_hidden.bias)
    state, features, posteriors, deters, kls = rssm.initial(len(embed)), [], [], [], []
    for t in range(embed.shape[1]):
        deter = rssm.advance(state)
        if evidence_inside:
            hidden = rssm.posterior_hidden(torch.cat([deter, embed[:, t]], -1))
        else:
            hidden = evidence[:, t] + F.linear(deter, weight_deter)
        posterior = rssm.posterior_logits(F.elu(hidden)).unflatten(-1, (rssm.stoch, -1))
        if objects:
            stoch = naive.draw(naive.latent(rssm, posterior.flatten(-2)), False)
        else:
            stoch = straight_through(posterior)
        state = State(deter, stoch)
        if prior_inside:
            prior = rssm.prior(deter)
            kls.append(_divergences(rssm, posterior, prior, objects))
        features.append(state.features)
        posteriors.append(posterior)
        deters.append(deter)
    if prior_inside:
        pair = [torch.stack(kl) for kl in zip(*kls, strict=True)]
    else:
        prior = rssm.prior(torch.stack(deters, 1))
        pair = _divergences(rssm, torch.stack(posteriors, 1), prior, objects)
    loss = naive.kl_loss(pair, LossConfig().kl_balance, LossConfig().free_nats)
    return torch.stack(features, 1), loss


def _divergences(rssm: RSSM, posterior: Tensor, prior: Tensor, objects: bool) -> Tensors:
    """The divergences that train the posterior and the prior, of every entry."""
    pairs = (posterior, prior.detach()), (posterior.detach(), prior)
    if not objects:
        return tuple(kl_divergence(*pair) for pair in pairs)
    made = [[naive.latent(rssm, logits.flatten(-2)) for logits in pair] for pair in pairs]
    return tuple(torch.distributions.kl_divergence(*pair) for pair in made)


def scan(work: Work, part: str, plain_name: str, our_name: str, **habit: bool) -> Pair:
    """One habit of ``plain_scan`` beside none of them; both learn from features and divergence."""
    rssm = work.model().rssm
    embed = torch.randn(work.batch, work.pretrain_length, rssm.embed, requires_grad=True)
    inputs = [embed, *rssm.parameters()]

    def learn(features: Tensor, kl: Tensor) -> Tensors:
        loss = features.square().mean() + kl
        return (loss.detach(), *torch.autograd.grad(loss, inputs))

    def ours() -> Tensors:
        rollout = rssm.observe(embed)
        config = LossConfig()
        kl, _ = balanced_kl(
            rollout.posterior,
            rollout.prior,
            balance=config.kl_balance,
            free_nats=config.free_nats,
        )
        return learn(rollout.features, kl)

    plain = lambda: learn(*plain_scan(rssm, embed, **habit))
    return Pair(part, plain_name, our_name, "pretraining", plain, ours)


def sampling(work: Work, way: Literal["exponential_", "multinomial"]) -> Pair:
    """Categorical samples of a fine-tuning update; equal in distribution, not in value."""
    size = work.config.model
    count = work.beliefs * (2 + work.config.behavior.horizon) * size.stoch
    logits = torch.randn(count, size.classes)

    def plain() -> Tensors:
        if way == "multinomial":
            return (torch.multinomial(logits.softmax(-1), 1).squeeze(-1),)
        return ((logits - torch.empty_like(logits).exponential_().log_()).argmax(-1),)

    ours = lambda: ((logits + gumbel(*logits.shape)).argmax(-1),)
    return Pair("samples of the latents", way, "rand", "fine-tuning", plain, ours)


class LoopAdam:
    """``DecoupledAdam``, one parameter after another."""

    def __init__(self, params: list[nn.Parameter], config: OptimizerConfig):
        self.params, self.config, self.steps = params, config, 0
        self.m, self.v = ([torch.zeros_like(p) for p in params] for _ in range(2))

    @torch.no_grad()
    def step(self) -> Tensor:
        """Update every parameter and return the gradient norm."""
        config = self.config
        norm = torch.stack([p.grad.norm() for p in self.params if p.grad is not None]).norm()
        clip = config.clip / norm.clamp_min(config.clip)
        self.steps += 1
        scale = config.learning_rate * (1 - BETA2**self.steps) ** 0.5 / (1 - BETA1**self.steps)
        for p, m, v in zip(self.params, self.m, self.v, strict=True):
            assert p.grad is not None
            grad = p.grad * clip
            p.mul_(1 - config.weight_decay)
            m.mul_(BETA1).add_(grad, alpha=1 - BETA1)
            v.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
            p.addcdiv_(m, v.sqrt().add_(config.eps), value=-scale)
        return norm


def optimizer(work: Work) -> Pair:
    """Adam in one pass through memory; the ways start at the same weights."""

    def way(make: Callable[..., LoopAdam | DecoupledAdam]) -> Way:
        model = ActionFreeVideoModel(work.config.model)
        model.load_state_dict(start)
        for parameter in model.parameters():
            parameter.grad = parameter.detach() + 1
        parameters = list(model.parameters())
        adam = make(parameters, OptimizerConfig())
        return lambda: (adam.step(), *(p.detach() for p in parameters))

    start = work.model().state_dict()
    names = ("Adam", "a loop over the weights", "one pass")
    return Pair(*names, "pretraining", way(LoopAdam), way(DecoupledAdam))


def bonus(work: Work) -> Pair:
    """Distances to the nearest of a full queue."""
    config = work.config.bonus
    search = VideoBonus(work.config.features, config)
    search.remember(torch.randn(config.queue, config.dim))
    count = work.batch * (work.finetune_length - config.window + 1)
    moments = torch.randn(count, config.dim)

    @torch.no_grad()
    def plain() -> Tensors:
        distances = (moments[:, None] - search.queue[None]).norm(dim=-1)
        return (distances.topk(config.neighbours, largest=False).values.mean(-1),)

    @torch.no_grad()
    def ours() -> Tensors:
        return (search.distance(moments),)

    return Pair("bonus", "broadcasting", "cdist", "fine-tuning", plain, ours)


def pairs(work: Work) -> Iterator[Pair]:
    """Every pair of this file, made when its turn comes."""
    yield first_layer(work)
    yield last_layer(work)
    yield channels(work)
    within, after = "within the scan", "after the scan"
    yield scan(work, "latents", "torch.distributions", "tensors", objects=True)
    yield scan(work, "prior and divergence", within, after, prior_inside=True)
    yield scan(work, "embedding's part", within, "before the scan", evidence_inside=True)
    yield from map(partial(sampling, work), ("exponential_", "multinomial"))
    yield optimizer(work)
    yield bonus(work)
