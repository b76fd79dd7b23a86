import torch
import torch.nn.functional as F

from apv_edu.nets.heads import MIN_STD, MLP, Actor


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_mlp_by_hand():
    torch.manual_seed(0)
    mlp, x = MLP(6, units=5, layers=2), features(3, 4, 6)
    w1, b1, w2, b2, w3, b3 = mlp.parameters()
    hidden = F.elu(F.elu(x @ w1.T + b1) @ w2.T + b2)
    out = (hidden @ w3.T + b3)[..., 0]
    assert mlp(x).shape == (3, 4)
    torch.testing.assert_close(mlp(x), out)


def test_layers_and_units_are_as_asked():
    shapes = [tuple(p.shape) for p in MLP(6, units=5, layers=3).parameters()]
    assert shapes == [(5, 6), (5,), (5, 5), (5,), (5, 5), (5,), (1, 5), (1,)]
    shapes = [tuple(p.shape) for p in Actor(6, 2, 5, 1).parameters()]
    assert shapes == [(5, 6), (5,), (2, 5), (2,), (2, 5), (2,)]


def test_actor_by_hand():
    torch.manual_seed(0)
    actor, x = Actor(6, action_dim=2, units=5, layers=1), features(3, 6)
    hidden = F.elu(actor.layers[0](x))
    policy = actor(x)
    torch.testing.assert_close(policy.loc, torch.tanh(actor.out(hidden)))
    torch.testing.assert_close(policy.scale, 2 * torch.sigmoid(actor.std(hidden) / 2) + MIN_STD)
    assert policy.loc.shape == policy.scale.shape == (3, 2)


def test_a_fresh_policy_is_broad_and_a_sure_one_keeps_a_spread():
    torch.manual_seed(0)
    actor = Actor(6, 2, 5, 1)
    assert torch.allclose(actor(torch.zeros(1, 6)).scale, torch.tensor(1 + MIN_STD))
    torch.nn.init.constant_(actor.std.bias, -1e3)
    torch.nn.init.constant_(actor.out.bias, 1e3)
    policy = actor(features(7, 6))
    assert torch.equal(policy.scale, torch.full((7, 2), MIN_STD))
    assert torch.equal(policy.loc, torch.ones(7, 2))
    assert policy.sample().abs().max() < 1
