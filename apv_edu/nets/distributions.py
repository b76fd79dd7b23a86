"""Categorical latents with straight-through gradients, their divergence, and a unit normal.

Plain functions on logits: a distribution object would hide three lines of arithmetic and cost
more time than the arithmetic itself.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def gumbel(
    *shape: int, generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Standard Gumbel noise of ``shape``: ``argmax(logits + noise)`` is a categorical sample.

    Drawn as -log(-log(u)) with u uniform on (0, 1), on the generator's device if there is one.
    Source: the Gumbel-max trick (Gumbel, 1954; Maddison et al., "A* Sampling", 2014).
    """
    if generator is not None:
        device = generator.device
    uniform = torch.rand(*shape, generator=generator, device=device)
    # rand may return exactly 0, whose double logarithm is infinite.
    return uniform.clamp_min_(torch.finfo(uniform.dtype).tiny).log_().neg_().log_().neg_()


def straight_through(
    logits: Float[Tensor, "*batch classes"],
    noise: Float[Tensor, "*batch classes"] | None = None,
) -> Float[Tensor, "*batch classes"]:
    """A one-hot sample whose gradient is that of the probabilities.

    With Gumbel ``noise`` it is a sample, without it the mode (the most likely class).
    Source: DreamerV2, Algorithm 1; official file ``common/dists.py``, class ``OneHotDist``.
    """
    with torch.no_grad():
        index = (logits if noise is None else logits + noise).argmax(-1, keepdim=True)
        one_hot = torch.zeros_like(logits).scatter_(-1, index, 1.0)
    if not logits.requires_grad:
        return one_hot
    probs = logits.softmax(-1)
    # The bracket is exactly zero, so the value is exactly one-hot in any precision;
    # (one_hot + probs) - probs would round.
    return one_hot + (probs - probs.detach())


def entropy(logits: Float[Tensor, "*batch stoch classes"]) -> Float[Tensor, "*batch"]:
    """Entropy in nats, summed over the ``stoch`` independent categorical variables.

    Source: the definition, - sum p log p; official metrics ``prior_ent`` and ``post_ent``.
    """
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum((-2, -1))


def kl_divergence(
    p: Float[Tensor, "*batch stoch classes"], q: Float[Tensor, "*batch stoch classes"]
) -> Float[Tensor, "*batch"]:
    """KL(p || q) in nats between two sets of logits, summed over the ``stoch`` variables.

    Source: the definition, sum p log(p / q); official file ``common/nets.py``, ``kl_loss``.
    """
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum((-2, -1))


def balanced_kl(
    posterior: Float[Tensor, "*batch stoch classes"],
    prior: Float[Tensor, "*batch stoch classes"],
    *,
    balance: float = 0.8,
    free_nats: float = 0.0,
    free_avg: bool = True,
) -> tuple[Float[Tensor, ""], Float[Tensor, "*batch"]]:
    """KL(posterior || prior) that moves the prior more than the posterior.

    The share ``balance`` of the gradient trains the prior towards a stopped posterior, the rest
    the posterior towards a stopped prior. Below ``free_nats`` there is no gradient: the floor is
    under the mean (``free_avg``) or under every entry.

    Returns:
        The loss (a scalar) and the plain divergence of every entry, in nats.

    Source: DreamerV2, Algorithm 2; official file ``common/nets.py``, ``EnsembleRSSM.kl_loss``.
    """
    to_posterior = kl_divergence(posterior, prior.detach())
    to_prior = kl_divergence(posterior.detach(), prior)

    def floored(value: Tensor) -> Tensor:
        if free_avg:
            return value.mean().clamp_min(free_nats)
        return value.clamp_min(free_nats).mean()

    loss = (1 - balance) * floored(to_posterior) + balance * floored(to_prior)
    return loss, to_posterior.detach()


def unit_normal_nll(
    x: Float[Tensor, "*batch height width channels"],
    mean: Float[Tensor, "*batch height width channels"],
) -> Float[Tensor, ""]:
    """Negative log-likelihood in nats of an image under Normal(mean, 1): summed over its pixels.

    The mean over all images, in one pass over the pixels.
    Source: APV section 3.1, the image term of the loss; official metric ``image_loss``.
    """
    pixels = math.prod(x.shape[-3:])
    squares = F.mse_loss(mean, x, reduction="sum") * (pixels / x.numel())
    return 0.5 * squares + LOG_SQRT_2PI * pixels
