"""The recurrent state-space model: memory h, stochastic state s, and how they move in time."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from apv_edu.nets.distributions import straight_through
from apv_edu.nets.layers import LayerNormGRU, glorot


class State(NamedTuple):
    """What the model knows: its memory ``deter`` (h) and its categorical latents ``stoch`` (s)."""

    deter: Float[Tensor, "*batch deter"]
    stoch: Float[Tensor, "*batch stoch classes"]

    @property
    def features(self) -> Float[Tensor, "*batch features"]:
        """The vector that every head reads: the flattened ``stoch``, then ``deter``."""
        return torch.cat([self.stoch.flatten(-2), self.deter], -1)


class Rollout(NamedTuple):
    """States over time with the logits around them; in imagination ``posterior`` is ``prior``."""

    deter: Float[Tensor, "batch time deter"]
    stoch: Float[Tensor, "batch time stoch classes"]
    posterior: Float[Tensor, "batch time stoch classes"]
    """Logits that ``stoch`` was drawn from."""
    prior: Float[Tensor, "batch time stoch classes"]
    """Logits predicted from ``deter`` alone, before the frame was seen."""

    @property
    def features(self) -> Float[Tensor, "batch time features"]:
        """``State.features`` of every step."""
        return State(self.deter, self.stoch).features

    def state(self, time: int = -1) -> State:
        """The state at one step, the last by default."""
        return State(self.deter[:, time], self.stoch[:, time])


class RSSM(nn.Module):
    """Latent dynamics: h' = GRU(h, s, a), prior p(s' | h'), posterior q(s' | h', embedding).

    ``action_dim=0`` is the action-free model of pre-training. The official code feeds it fifty
    zeros instead of an action; multiplying zeros changes nothing, so that input is left out.
    Logits and memory stay in the parameters' precision under autocast.

    Source: APV section 3; official file ``common/nets.py``, class ``EnsembleRSSM``.
    """

    def __init__(
        self, embed: int, deter: int, hidden: int, stoch: int, classes: int, action_dim: int = 0
    ):
        super().__init__()
        self.deter, self.stoch, self.classes = deter, stoch, classes
        self.embed, self.action_dim = embed, action_dim
        latent = stoch * classes
        self.gru_input = glorot(nn.Linear(latent + action_dim, hidden))
        self.gru = LayerNormGRU(hidden, deter)
        self.prior_hidden = glorot(nn.Linear(deter, hidden))
        self.prior_logits = glorot(nn.Linear(hidden, latent))
        self.posterior_hidden = glorot(nn.Linear(deter + embed, hidden))
        self.posterior_logits = glorot(nn.Linear(hidden, latent))

    def initial(self, batch: int) -> State:
        """The state before the first frame: zeros."""
        zeros = self.gru_input.weight.new_zeros
        return State(zeros(batch, self.deter), zeros(batch, self.stoch, self.classes))

    def advance(
        self, state: State, action: Float[Tensor, "batch action"] | None = None
    ) -> Float[Tensor, "batch deter"]:
        """The memory one step later; ``action`` is the one that leads there."""
        x = state.stoch.flatten(-2)
        if action is not None:
            x = torch.cat([x, action], -1)
        return self.gru(F.elu(self.gru_input(x)), state.deter)

    def prior(self, deter: Float[Tensor, "*batch deter"]) -> Float[Tensor, "*batch stoch classes"]:
        """Logits of the latents as the memory alone predicts them."""
        logits = self.prior_logits(F.elu(self.prior_hidden(deter)))
        return logits.to(deter.dtype).unflatten(-1, (self.stoch, self.classes))

    def observe(
        self,
        embed: Float[Tensor, "batch time embed"],
        state: State | None = None,
        *,
        actions: Float[Tensor, "batch time action"] | None = None,
        is_first: Bool[Tensor, "batch time"] | None = None,
        noise: Float[Tensor, "batch time stoch classes"] | None = None,
    ) -> Rollout:
        """Follow a sequence of embeddings: the posterior at every step, and the prior beside it.

        Args:
            embed: what is seen at each step.
            state: where to start; zeros by default.
            actions: ``actions[:, t]`` led into step t.
            is_first: where an episode starts; the past before it is forgotten.
            noise: Gumbel noise of the samples; None takes the mode.
        """
        state = state or self.initial(len(embed))
        # The first posterior layer is linear in [h, embedding]: the embedding's share of all
        # steps is one matrix product, and only the memory's share is left for the scan.
        weight_deter, weight_embed = self.posterior_hidden.weight.split(
            [self.deter, self.embed], dim=1
        )
        evidence = F.linear(embed, weight_embed, self.posterior_hidden.bias)
        deters, stochs, posteriors = [], [], []
        # Cut at once: cut step by step, it would get a gradient of its whole size at every step.
        for t, seen in enumerate(evidence.unbind(1)):
            action = None if actions is None else actions[:, t]
            if is_first is not None:
                state, action = self._forget(is_first[:, t], state, action)
            deter = self.advance(state, action)
            hidden = F.elu(seen + F.linear(deter, weight_deter))
            logits = self.posterior_logits(hidden).to(deter.dtype)
            logits = logits.unflatten(-1, (self.stoch, self.classes))
            state = State(deter, straight_through(logits, None if noise is None else noise[:, t]))
            deters.append(deter)
            stochs.append(state.stoch)
            posteriors.append(logits)
        deter = torch.stack(deters, 1)
        # The prior looks at the memory only, so it can wait for all steps together.
        return Rollout(deter, torch.stack(stochs, 1), torch.stack(posteriors, 1), self.prior(deter))

    def follow(
        self,
        state: State,
        embed: Float[Tensor, "batch embed"],
        *,
        action: Float[Tensor, "batch action"] | None = None,
        is_first: Bool[Tensor, " batch"] | None = None,
        noise: Float[Tensor, "batch stoch classes"] | None = None,
    ) -> State:
        """One step of ``observe``, for acting: the posterior state alone, no prior."""
        if is_first is not None:
            state, action = self._forget(is_first, state, action)
        deter = self.advance(state, action)
        hidden = F.elu(self.posterior_hidden(torch.cat([deter, embed], -1)))
        logits = self.posterior_logits(hidden).to(deter.dtype)
        logits = logits.unflatten(-1, (self.stoch, self.classes))
        return State(deter, straight_through(logits, noise))

    def imagine(
        self,
        state: State,
        steps: int,
        *,
        actions: Float[Tensor, "batch time action"] | None = None,
        noise: Float[Tensor, "batch time stoch classes"] | None = None,
    ) -> Rollout:
        """Continue for ``steps`` steps from ``state`` with eyes closed: the prior alone."""
        deters, stochs, priors = [], [], []
        for t in range(steps):
            deter = self.advance(state, None if actions is None else actions[:, t])
            logits = self.prior(deter)
            state = State(deter, straight_through(logits, None if noise is None else noise[:, t]))
            deters.append(deter)
            stochs.append(state.stoch)
            priors.append(logits)
        prior = torch.stack(priors, 1)
        return Rollout(torch.stack(deters, 1), torch.stack(stochs, 1), prior, prior)

    @staticmethod
    def _forget(
        is_first: Bool[Tensor, "batch"], state: State, action: Tensor | None
    ) -> tuple[State, Tensor | None]:
        """Zero the past of those sequences whose episode starts here."""
        keep = (~is_first).to(state.deter.dtype)[:, None]
        state = State(state.deter * keep, state.stoch * keep[..., None])
        return state, None if action is None else action * keep
