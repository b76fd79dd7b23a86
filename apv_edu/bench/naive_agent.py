"""The agent's update as an ordinary PyTorch port writes it: the yardstick of the bench.

The same mathematics as ``APVAgent.update`` with none of its arrangements. Beside those of
``apv_edu.bench.naive``: the action-free divergence is computed with its gradients although its
weight is 0, imagination makes distribution objects at each step, the policy is evaluated again for
its entropy, the actor's gradients also reach the world model's weights, and the bonus compares
moments with the queue by broadcasting, or by one matrix product that is trusted for small
distances too. The optimisers are torch's own AdamW.
"""

import math
from copy import deepcopy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints

from apv_edu.agent import APVAgent
from apv_edu.bench.naive import (
    advance,
    decode,
    draw,
    encode,
    kl_loss,
    latent,
    observe,
    optimizer_of,
    prior_of,
    scaled,
    transposed,
)
from apv_edu.data.replay import Batch
from apv_edu.nets.heads import MIN_STD, MLP, Actor

Search = Literal["broadcast", "matmul"]


class PlainTruncatedNormal(Distribution):
    """Normal(loc, scale) between -1 and 1, sampled by its quantile function."""

    # torch declares as a property what its own distributions give as a dictionary.
    arg_constraints = {  # noqa: RUF012  # pyright: ignore
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor):
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape)
        self.normal = Normal(torch.zeros_like(loc), torch.ones_like(scale))
        self.a, self.b = (-1 - loc) / scale, (1 - loc) / scale
        self.below = self.normal.cdf(self.a)
        self.mass = self.normal.cdf(self.b) - self.below

    @property
    def mode(self) -> Tensor:
        """The most likely action."""
        return self.loc.clamp(-1, 1)

    def rsample(self, sample_shape=()) -> Tensor:
        """A sample whose gradient runs through the quantile function."""
        loc, shape = self.loc, (*sample_shape, *self.loc.shape)
        share = torch.rand(shape, dtype=loc.dtype, device=loc.device)
        return loc + self.scale * self.normal.icdf(self.below + share * self.mass)

    def entropy(self) -> Tensor:
        """Differential entropy in nats, of each variable."""
        slope_a, slope_b = (z * self.normal.log_prob(z).exp() for z in (self.a, self.b))
        spread = torch.log(math.sqrt(2 * math.pi * math.e) * self.scale * self.mass)
        return spread + (slope_a - slope_b) / (2 * self.mass)


class NaiveAgentStep:
    """A copy of ``agent`` and its optimisers, stepped the plain way.

    ``sample=False`` takes modes instead of samples, so that a test needs no noise. The agent is
    stacked, has a bonus, trains its actor through the dynamics and starts everywhere; its critic's
    target is never copied.
    """

    def __init__(self, agent: APVAgent, *, search: Search = "broadcast", sample: bool = True):
        self.config = agent.config
        self.search, self.sample = search, sample
        self.model, self.behavior = deepcopy(agent.world_model), deepcopy(agent.behavior)
        assert agent.bonus is not None
        self.projection = agent.bonus.projection.clone()
        self.queue = self.projection.new_zeros(0, self.projection.shape[1])
        self.magnitude = 1.0
        self.kernels = transposed(self.model.decoder)
        below, above = self.model.parts()
        patch = self.model.decoder.patch.weight
        above = [self.kernels[0][0], *(p for p in above if p is not patch)]
        world, behavior = self.config.world_model, self.config.behavior
        parts = {
            "enc_model": (below, world.optimizer),
            "model": (above, world.optimizer),
            "actor": (list(self.behavior.actor.parameters()), behavior.actor),
            "critic": (list(self.behavior.critic.parameters()), behavior.critic),
        }
        self.parameters = {name: parameters for name, (parameters, _) in parts.items()}
        self.optimizers = {name: optimizer_of(*part) for name, part in parts.items()}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """One update; losses, bonus and gradient norms under the names of ``APVAgent.update``."""
        loss, bonus, deter, stoch = self.model_loss(batch)
        metrics = {"model_loss": loss.detach(), "intr_mean": bonus.mean()}
        metrics |= self.improve(loss, "enc_model", "model")
        actor_loss, critic_loss = self.behavior_losses(
            deter.detach().flatten(0, 1), stoch.detach().flatten(0, 1)
        )
        metrics |= {"actor_loss": actor_loss.detach(), "critic_loss": critic_loss.detach()}
        return metrics | self.improve(actor_loss, "actor") | self.improve(critic_loss, "critic")

    def improve(self, loss: Tensor, *names: str) -> dict[str, Tensor]:
        """Gradients of ``loss`` and a step of the named optimisers."""
        metrics = {}
        for optimizer, _ in self.optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for name in names:
            optimizer, clip = self.optimizers[name]
            norm = nn.utils.clip_grad_norm_(self.parameters[name], clip)
            metrics[f"{name}_grad_norm"] = norm
            optimizer.step()
        return metrics

    def model_loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The world model's loss, the raw bonus, and the upper posteriors' deter and stoch."""
        model, config = self.model, self.config.world_model
        assert model.video_rssm is not None
        images = scaled(batch.image, model.decoder.dense.weight.dtype)
        embed = encode(model.encoder, images).unflatten(0, batch.reward.shape)
        deter, stoch, *video_kl = observe(
            model.video_rssm, embed, is_first=batch.is_first, sample=self.sample
        )
        video = torch.cat([stoch.flatten(2), deter], -1)
        seen = torch.cat([embed, video], -1) if model.concat_embed else video
        deter, stoch, *kl = observe(
            model.rssm, seen, batch.action, batch.is_first, sample=self.sample
        )
        features = torch.cat([stoch.flatten(2), deter], -1)
        bonus = self.bonus(video.detach())
        steps = bonus.shape[1]
        target = batch.reward[:, :steps] + self.config.bonus.beta * bonus / (self.magnitude + 1e-8)
        reward = Normal(self.head(model.reward, features[:, :steps]), 1.0)
        mean = decode(model.decoder, self.kernels, features.flatten(0, 1))
        balance, free = config.kl_balance, config.free_nats
        loss = (
            -config.image_scale * Independent(Normal(mean, 1.0), 3).log_prob(images).mean()
            - config.reward_scale * reward.log_prob(target).mean()
            + config.kl_scale * kl_loss(kl, balance, free)
            + config.video_kl_scale * kl_loss(video_kl, balance, free)
        )
        return loss, bonus, deter, stoch

    @torch.no_grad()
    def bonus(self, features: Tensor) -> Tensor:
        """The raw bonus, after its moments entered the queue; (batch, time - window + 1)."""
        config = self.config.bonus
        steps = features.shape[1] - config.window + 1
        means = [features[:, t : t + config.window].mean(1) for t in range(steps)]
        moments = (torch.stack(means, 1) @ self.projection).flatten(0, 1)
        self.queue = torch.cat([moments, self.queue])[: config.queue]
        if self.search == "broadcast":
            distances = (moments[:, None] - self.queue[None]).norm(dim=-1)
        else:
            distances = torch.cdist(moments, self.queue)
        nearest = distances.topk(config.neighbours, largest=False).values.mean(-1)
        self.magnitude = config.momentum * self.magnitude + (1 - config.momentum) * nearest.mean()
        return nearest.unflatten(0, (-1, steps))

    def head(self, head: MLP, features: Tensor) -> Tensor:
        """A mean for each feature vector."""
        return Independent(Normal(head(features), 1.0), 0).mean

    def policy(self, actor: Actor, features: Tensor) -> Independent:
        """The distribution of the next action."""
        for layer in actor.layers:
            features = F.elu(layer(features))
        scale = 2 * torch.sigmoid(actor.std(features) / 2) + MIN_STD
        return Independent(PlainTruncatedNormal(torch.tanh(actor.out(features)), scale), 1)

    def act(self, policy: Independent) -> Tensor:
        """An action inside the bounds, whose gradient ignores that it was kept there."""
        action = policy.rsample() if self.sample else policy.base_dist.mode
        return action + (action.clamp(-1 + 1e-6, 1 - 1e-6) - action).detach()

    def behavior_losses(self, deter: Tensor, stoch: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of actor and critic from imagination that starts at flat posteriors."""
        rssm, behavior, config = self.model.rssm, self.behavior, self.config.behavior
        states = [torch.cat([stoch.flatten(1), deter], -1)]
        for _ in range(config.horizon):
            action = self.act(self.policy(behavior.actor, states[-1].detach()))
            deter = advance(rssm, torch.cat([stoch.flatten(1), action], -1), deter)
            stoch = draw(latent(rssm, prior_of(rssm, deter)), self.sample)
            states.append(torch.cat([stoch.flatten(1), deter], -1))
        features = torch.stack(states)
        reward = self.head(self.model.reward, features)
        value = self.head(behavior.target_critic, features)
        returns, last = [], value[-1]
        for t in reversed(range(config.horizon)):
            following = (1 - config.lam) * value[t + 1] + config.lam * last
            last = reward[t] + config.discount * following
            returns.append(last)
        target = torch.stack(returns[::-1])
        weight = torch.cumprod(
            torch.cat([torch.ones_like(reward[:1]), torch.full_like(reward[2:], config.discount)]),
            0,
        )
        entropy = self.policy(behavior.actor, features[:-2].detach()).entropy()
        actor_loss = -(weight[:-1] * (target[1:] + config.entropy * entropy)).mean()
        critic = Independent(Normal(self.head(behavior.critic, features[:-1].detach()), 1.0), 0)
        critic_loss = -(weight * critic.log_prob(target.detach())).mean()
        return actor_loss, critic_loss
