"""Small perceptrons that read features: reward, value, and the policy."""

from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from apv_edu.nets.layers import glorot
from apv_edu.nets.truncated_normal import TruncatedNormal

MIN_STD = 0.1
"""Smallest spread of the policy, before truncation."""


class MLP(nn.Module):
    """Hidden layers of equal width with ELU, and one linear output.

    The output is the mean of a unit normal: of the reward, or of the value.

    Source: official file ``common/nets.py``, class ``MLP``.
    """

    def __init__(self, features: int, units: int, layers: int):
        super().__init__()
        self.layers = _hidden(features, units, layers)
        self.out = glorot(nn.Linear(units, 1))

    def forward(self, features: Float[Tensor, "*batch features"]) -> Float[Tensor, "*batch"]:
        """One number for each feature vector, in its precision also under autocast."""
        x = features
        for layer in self.layers:
            x = F.elu(layer(x))
        return self.out(x).squeeze(-1).to(features.dtype)


class Actor(nn.Module):
    """The policy: features in, a truncated normal over actions in [-1, 1] out.

    loc = tanh(out) and scale = 2 sigmoid(std / 2) + 0.1, so that scale starts near 1.

    Source: official files ``common/nets.py``, classes ``MLP`` and ``DistLayer``; ``agent.py``.
    """

    def __init__(self, features: int, action_dim: int, units: int, layers: int):
        super().__init__()
        self.layers = _hidden(features, units, layers)
        self.out = glorot(nn.Linear(units, action_dim))
        self.std = glorot(nn.Linear(units, action_dim))

    def forward(self, features: Float[Tensor, "*batch features"]) -> TruncatedNormal:
        """The distribution of the next action, in the features' precision also under autocast."""
        x = features
        for layer in self.layers:
            x = F.elu(layer(x))
        return policy(self.out(x).to(features.dtype), self.std(x).to(features.dtype))


def policy(
    out: Float[Tensor, "*batch action"], std: Float[Tensor, "*batch action"]
) -> TruncatedNormal:
    """The distribution of an action, from what the actor's two last layers say."""
    return TruncatedNormal(out.tanh(), 2 * (std / 2).sigmoid() + MIN_STD)


def _hidden(features: int, units: int, layers: int) -> nn.ModuleList:
    widths = [features] + [units] * layers
    return nn.ModuleList(glorot(nn.Linear(a, b)) for a, b in pairwise(widths))
