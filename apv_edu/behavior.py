"""Behaviour learned inside the world model: imagine, judge by lambda-returns, improve the actor."""

from copy import deepcopy
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from apv_edu.agent_config import BehaviorConfig, HeadSize
from apv_edu.nets.distributions import LOG_SQRT_2PI, gumbel, straight_through
from apv_edu.nets.heads import MLP, Actor
from apv_edu.nets.rssm import RSSM, State
from apv_edu.nets.truncated_normal import TruncatedNormal


class ImaginationNoise(NamedTuple):
    """Noise of imagined latents (Gumbel) and actions (uniform in [0, 1))."""

    latents: Float[Tensor, "batch horizon stoch classes"]
    actions: Float[Tensor, "batch horizon action"]


class Trajectory(NamedTuple):
    """Imagined futures. Index 0 is where they start, with an action of zeros."""

    states: State
    """Of ``horizon`` + 1 steps: deter (batch, horizon + 1, ...), stoch likewise."""
    actions: Float[Tensor, "batch horizon+1 action"]
    """``actions[:, t]`` led to step t."""
    policy: TruncatedNormal
    """The distributions at steps 0 to ``horizon`` - 1, (batch, horizon, action)."""

    @property
    def features(self) -> Float[Tensor, "batch horizon+1 features"]:
        """What the heads read."""
        return self.states.features


def imagination_noise(
    rssm: RSSM, batch: int, horizon: int, generator: torch.Generator | None = None
) -> ImaginationNoise:
    """Noise for ``batch`` imagined trajectories of ``horizon`` steps."""
    device = rssm.gru_input.weight.device
    latents = gumbel(batch, horizon, rssm.stoch, rssm.classes, generator=generator, device=device)
    where = device if generator is None else generator.device
    actions = torch.rand(batch, horizon, rssm.action_dim, generator=generator, device=where)
    return ImaginationNoise(latents.to(device), actions.to(device))


def imagine(
    rssm: RSSM, actor: Actor, start: State, horizon: int, noise: ImaginationNoise | None = None
) -> Trajectory:
    """Let ``actor`` act inside ``rssm`` for ``horizon`` steps from a batch of states.

    The actor sees stopped features; gradients reach it through the actions it took. Without
    ``noise`` every latent and every action is its mode.

    Source: DreamerV2; official file ``agent.py``, ``WorldModel.imagine``.
    """
    state, states, policies = start, [start], []
    actions = [start.deter.new_zeros(len(start.deter), rssm.action_dim)]
    for t in range(horizon):
        policy = actor(state.features.detach())
        action = policy.sample(None if noise is None else noise.actions[:, t])
        deter = rssm.advance(state, action)
        stoch = straight_through(rssm.prior(deter), None if noise is None else noise.latents[:, t])
        state = State(deter, stoch)
        states.append(state)
        actions.append(action)
        policies.append(policy)
    loc = torch.stack([policy.loc for policy in policies], 1)
    scale = torch.stack([policy.scale for policy in policies], 1)
    over_time = State(*(torch.stack(values, 1) for values in zip(*states, strict=True)))
    return Trajectory(over_time, torch.stack(actions, 1), TruncatedNormal(loc, scale))


def lambda_return(
    reward: Float[Tensor, "batch time"],
    value: Float[Tensor, "batch time"],
    bootstrap: Float[Tensor, " batch"],
    *,
    discount: Float[Tensor, "batch time"] | float,
    lam: float,
) -> Float[Tensor, "batch time"]:
    """Returns that blend all horizons: R_t = r_t + d_t ((1 - lam) v_{t+1} + lam R_{t+1}).

    ``bootstrap`` is the value after the last step, and the last R_{t+1}. ``lam=0`` looks one step
    ahead, ``lam=1`` sums rewards to the end.

    Source: DreamerV2, equation 4; official file ``common/other.py``, ``lambda_return``.
    """
    if not isinstance(discount, Tensor):
        discount = torch.full_like(reward, discount)
    following = torch.cat([value[:, 1:], bootstrap[:, None]], 1)
    blended = reward + discount * (1 - lam) * following
    returns, last = [], bootstrap
    for t in reversed(range(reward.shape[1])):
        last = blended[:, t] + discount[:, t] * lam * last
        returns.append(last)
    return torch.stack(returns[::-1], 1)


class Behavior(nn.Module):
    """Actor, critic, and the slower copy of the critic that targets are made with.

    Source: DreamerV2; official file ``agent.py``, ``ActorCritic``.
    """

    def __init__(self, features: int, action_dim: int, heads: HeadSize):
        super().__init__()
        self.actor = Actor(features, action_dim, heads.units, heads.layers)
        self.critic = MLP(features, heads.units, heads.layers)
        self.target_critic = deepcopy(self.critic).requires_grad_(False)

    def imagine(
        self, rssm: RSSM, start: State, horizon: int, noise: ImaginationNoise | None = None
    ) -> Trajectory:
        """Let this actor act inside ``rssm``: the function of the same name."""
        return imagine(rssm, self.actor, start, horizon, noise)

    def losses(
        self, trajectory: Trajectory, reward: Float[Tensor, "batch steps"], config: BehaviorConfig
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], dict[str, Tensor]]:
        """Actor loss, critic loss and metrics, from the ``horizon`` + 1 rewards of a trajectory.

        The returns of steps 0 to horizon - 1 teach the critic. The actor learns from those of
        steps 1 to horizon - 1, since the first is before its first action.

        Source: official file ``agent.py``, ``ActorCritic``: ``target``, ``actor_loss``,
        ``critic_loss``.
        """
        features = trajectory.features
        value = self.target_critic(features)
        target = lambda_return(
            reward[:, :-1],
            value[:, :-1],
            value[:, -1],
            discount=config.discount,
            lam=config.lam,
        )
        # As the returns discount rewards, so the losses discount the steps themselves.
        steps = torch.arange(target.shape[1], device=target.device)
        weight = (config.discount**steps).to(target.dtype)

        policy = TruncatedNormal(trajectory.policy.loc[:, :-1], trajectory.policy.scale[:, :-1])
        objective = target[:, 1:]
        if config.actor_gradient != "dynamics":
            advantage = (target[:, 1:] - value[:, :-2]).detach()
            score = policy.log_prob(trajectory.actions[:, 1:-1].detach()) * advantage
            mix = config.mix if config.actor_gradient == "both" else 0.0
            objective = mix * objective + (1 - mix) * score if mix else score
        entropy = policy.entropy()
        actor_loss = -(weight[:-1] * (objective + config.entropy * entropy)).mean()

        predicted = self.critic(features[:, :-1].detach())
        squares = 0.5 * (predicted - target.detach()).square() + LOG_SQRT_2PI
        critic_loss = (weight * squares).mean()
        with torch.no_grad():
            metrics = {
                "actor_loss": actor_loss,
                "critic_loss": critic_loss,
                "critic": predicted.mean(),
                "critic_slow": value.mean(),
                "critic_target": target.mean(),
                "actor_ent": entropy.mean(),
                "reward_mean": reward.mean(),
                "reward_std": reward.std(correction=0),
            }
        return actor_loss, critic_loss, {name: v.detach() for name, v in metrics.items()}

    @torch.no_grad()
    def update_target(self, rate: float = 1.0) -> None:
        """Move the target critic towards the critic: by ``rate``, or all the way at 1."""
        pairs = zip(self.target_critic.parameters(), self.critic.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, rate) if rate < 1 else slow.copy_(fast)
