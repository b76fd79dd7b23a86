"""The policy's distribution: a normal cut off at -1 and 1, with exact gradients of its samples."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from apv_edu.nets.distributions import LOG_SQRT_2PI

LOW, HIGH = -1.0, 1.0
EDGE = 1e-6
"""Samples keep this far from the bounds, where the density has no gradient."""


class TruncatedNormal:
    """Independent Normal(loc, scale) variables, each conditioned on lying in [-1, 1].

    ``loc`` lies in [-1, 1] and ``scale`` is positive. Densities and entropies are summed over the
    last axis, the action's.

    Source: APV appendix (policy); official file ``common/dists.py``, class ``TruncNormalDist``.
    """

    def __init__(self, loc: Float[Tensor, "*batch action"], scale: Float[Tensor, "*batch action"]):
        self.loc, self.scale = loc, scale
        self.a, self.b = (LOW - loc) / scale, (HIGH - loc) / scale
        self.mass = _cdf(self.b) - _cdf(self.a)

    @property
    def mean(self) -> Float[Tensor, "*batch action"]:
        """The expected action."""
        return self.loc + self.scale * (_pdf(self.a) - _pdf(self.b)) / self.mass

    @property
    def mode(self) -> Float[Tensor, "*batch action"]:
        """The most likely action."""
        return self.loc.clamp(LOW, HIGH)

    def sample(
        self, uniform: Float[Tensor, "*batch action"] | None = None
    ) -> Float[Tensor, "*batch action"]:
        """An action for ``uniform`` noise in [0, 1), or the mode without; both have gradients.

        The sample is the quantile of the noise. As loc or scale moves it moves along, so that its
        share of the mass below stays put: ``slopes`` are that derivative.
        """
        action = self.mode if uniform is None else _quantile(self, uniform)
        if uniform is not None and (self.loc.requires_grad or self.scale.requires_grad):
            by_loc, by_scale = slopes(self, action)
            action = action + by_loc * (self.loc - self.loc.detach())
            action = action + by_scale * (self.scale - self.scale.detach())
        # The value stays off the bounds, the gradient passes as if nothing had happened.
        with torch.no_grad():
            shift = action.clamp(LOW + EDGE, HIGH - EDGE) - action
        return action + shift

    def log_prob(self, action: Float[Tensor, "*batch action"]) -> Float[Tensor, "*batch"]:
        """Log-density in nats."""
        z = (action - self.loc) / self.scale
        return -(0.5 * z.square() + LOG_SQRT_2PI + (self.scale * self.mass).log()).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Differential entropy in nats."""
        slope = self.a * _pdf(self.a) - self.b * _pdf(self.b)
        spread = 0.5 + LOG_SQRT_2PI + (self.scale * self.mass).log()
        return (spread + slope / (2 * self.mass)).sum(-1)


def _cdf(z: Tensor) -> Tensor:
    return torch.special.ndtr(z)


def _pdf(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


@torch.no_grad()
def _quantile(normal: TruncatedNormal, uniform: Tensor) -> Tensor:
    """The action that has a share ``uniform`` of the mass below it."""
    a, b = normal.a, normal.b
    # Rounding may make the share 0 or 1, of which the plain normal has no quantile.
    edge = torch.finfo(a.dtype).eps / 2
    share = (_cdf(a) + uniform * normal.mass).clamp(edge, 1 - edge)
    z = torch.special.ndtri(share).clamp(a, b)
    return normal.loc + normal.scale * z


@torch.no_grad()
def slopes(normal: TruncatedNormal, action: Tensor) -> tuple[Tensor, Tensor]:
    """How a sample follows loc and scale: d action / d loc and d action / d scale.

    From the implicit function F(action; loc, scale) = constant, where F is the truncated
    cumulative distribution: the slope is - (dF/d loc) / (dF/d action), likewise for scale.

    Source: Figurnov et al., "Implicit Reparameterization Gradients", 2018.
    """
    a, b = normal.a, normal.b
    z = (action - normal.loc) / normal.scale
    below = (_cdf(z) - _cdf(a)) / normal.mass
    # Densities relative to the sample's own, as one exponential, so that tails do not divide by 0.
    pull_a = (1 - below) * torch.exp(0.5 * (z.square() - a.square()))
    pull_b = below * torch.exp(0.5 * (z.square() - b.square()))
    return 1 - pull_a - pull_b, z - a * pull_a - b * pull_b
