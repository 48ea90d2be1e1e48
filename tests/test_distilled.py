"""The learner with distillation: truncation, regularizer, distillation, engines."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import Adam

from bfc_lightning import Gaussian, PaperTarget, Regression
from bfc_lightning.distilled import DistilledNet, initial_distill, truncated_square
from bfc_lightning.distilled_settings import Distilled
from bfc_lightning.objectives import RegressionObjective
from bfc_lightning.stream import SampleStream
from bfc_lightning.types import StepChunk
from tests.engines import Steps, gap, trainable, weights
from tests.tensors import draw

SOURCES = [[1], [0, 2], [0, 1, 3]]


def make_net(depth=3, *, width=7, seed=0, **settings) -> DistilledNet:
    settings = Distilled(**{"widths": 2, "noise": 0.3, **settings})
    scales = [0.5**level for level in range(depth - 1)]
    return DistilledNet(
        torch.ones(5, dtype=torch.float64),
        SOURCES[: depth - 1],
        level_scales=scales,
        width=width,
        settings=settings,
        seed=seed,
    ).double()


def tensors(network) -> dict:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


# Truncation


def test_truncation_is_exact_below_its_bound_and_constant_beyond_twice_it():
    z = torch.linspace(-3, 3, 601, dtype=torch.float64)
    value = truncated_square(z, 1.0)
    inside, outside = z.abs() <= 1, z.abs() >= 2
    assert torch.equal(value[inside], z[inside].square())
    torch.testing.assert_close(value[outside], torch.full_like(value[outside], 13 / 6))
    assert (value[z >= 0].diff() >= 0).all()
    torch.testing.assert_close(truncated_square(3 * z, 3.0), 9 * value)


@pytest.mark.parametrize("edge", [1.0, 2.0])
def test_truncation_is_twice_continuously_differentiable(edge):
    def derivatives(at):
        z = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        first = torch.autograd.grad(truncated_square(z, 1.0), z, create_graph=True)[0]
        return float(first.detach()), float(torch.autograd.grad(first, z)[0])

    below, above = derivatives(edge - 1e-7), derivatives(edge + 1e-7)
    assert below == pytest.approx(above, abs=1e-5)
    assert derivatives(1.4)[0] == pytest.approx(2 * 0.6**2 * (1 + 3 * 0.4))


# The formula


def test_narrow_weights_in_place_of_wide_ones_and_an_isometry_give_the_plain_network():
    network = make_net()
    layers = dict(network.each_layer())
    with torch.no_grad():
        for layer in layers.values():
            layer.wide.zero_()
            layer.narrow.copy_(draw(*layer.narrow.shape, seed=1))
            layer.wide[:2].copy_(layer.narrow)
        layers[2].mixing.copy_(torch.eye(3, 2))
    x = draw(9, 5)
    first = (x**2 - 1) @ layers[2].narrow.T
    second = torch.cat([x, first**2, torch.zeros(9, 1)], dim=1) @ layers[3].narrow.T
    plain = (first**2).sum(1) + 0.5 * (second**2).sum(1)
    network.eval()
    torch.testing.assert_close(network(x), plain)
    torch.testing.assert_close(network.evaluate(x), plain)
    torch.testing.assert_close(network.features(x)[1], second)


def test_truncation_acts_in_training_mode_only():
    network = make_net(truncation=0.1)
    with torch.no_grad():
        for _, layer in network.each_layer():
            layer.narrow.fill_(1.0)
    x = draw(9, 5)
    trained = network.train()(x)
    assert torch.equal(network.evaluate(x), network.eval()(x))
    assert not torch.allclose(trained, network(x))


@pytest.mark.parametrize("cut", ["features", "readout"])
def test_cut_blocks_gradients_to_lower_layers(cut):
    network = make_net().requires_grad_(True)
    with torch.no_grad():
        for _, layer in network.each_layer():
            layer.narrow.fill_(0.5)
    output = network(draw(9, 5)).detach()
    network.cut = cut
    value = network(draw(9, 5))
    assert torch.equal(value.detach(), output)
    value.sum().backward()
    lower, upper = network.layers
    assert (lower.narrow.grad is None) == (cut == "features")
    assert (lower.wide.grad is None) == (cut == "readout")
    assert upper.wide.grad.any()


# The regularizer


def by_hand(network) -> float:
    """The regularizer, block by block."""
    total = 0.0
    for number, (_, layer) in enumerate(network.each_layer()):
        cross, last, whole, decay = network.coefficients[:, number]
        split = sum(layer.fan_ins[:-1])
        k, w = layer.narrow.detach(), layer.wide.detach()
        k1, k2, w1, w2 = k[:, :split], k[:, split:], w[:, :split], w[:, split:]
        total += cross * ((k2.T @ k1 - w2.T @ w1) ** 2).sum()
        total += last * ((k2.T @ k2 - w2.T @ w2) ** 2).sum()
        total += whole * ((k.T @ k - w.T @ w) ** 2).sum()
        total += decay * ((k**2).sum() + (w**2).sum())
    return float(total)


def test_regularizer_is_its_formula_and_its_gradient_that_of_autograd():
    network = make_net(4, lambda_3=0.3, lambda_4=[0.1, 0.2, 0.3], lambda_6=0.05)
    with torch.no_grad():
        for _, layer in network.each_layer():
            layer.narrow.copy_(draw(*layer.narrow.shape, seed=2))
    value = network.weight_penalty(tensors(network))
    assert float(value.detach()) == pytest.approx(by_hand(network), rel=1e-12)
    value.backward()
    found = network.penalty_grad(tensors(network), dict(network.named_parameters()))
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_coefficients_of_the_theorem():
    settings = Distilled(widths=[3, 2], constant=2.0, kappa=1.5, eps_0=0.5, lambda_6=None)
    rows = settings.coefficients(input_dim=10, sources=SOURCES[:2], scales=[1.0, 0.1])
    expected = [
        [scale**2 * 10 ** (-1 / (power * 2**level)) for scale, level in ((1.0, 2), (0.1, 3))]
        for power in (6, 3, 2)
    ]
    expected.append([0.25 / (1 * 3 * 1.5) ** 8, 0.25 / (3 * 3 * 1.5) ** 8])
    torch.testing.assert_close(rows, torch.tensor(expected, dtype=torch.float64))


# Distillation


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_initial_distill_recovers_a_planted_rank(rank):
    planted = draw(6, rank) @ draw(rank, 5, seed=1)
    rest, last = initial_distill(planted + 1e-3 * draw(6, 5, seed=2), kappa=1.0)
    assert len(rest) == len(last) == rank
    torch.testing.assert_close(rest.T @ last, planted, atol=1e-2, rtol=0)
    torch.testing.assert_close((rest**2).sum(1), (last**2).sum(1))


def test_distillation_finds_the_rank_and_uses_nothing_beyond_it():
    network = make_net(widths=4, noise=0.01)
    planted = torch.zeros(7, 5, dtype=torch.float64)
    planted[:2] = draw(2, 5)
    with torch.no_grad():
        network.layers[0].wide.copy_(planted)
    network.distill(2)
    narrow, mixing = network.layers[0].narrow, network.layers[0].mixing
    torch.testing.assert_close(narrow.T @ narrow, planted.T @ planted)
    assert not narrow[2:].any()
    assert not mixing[:, 2:].any()
    assert float(mixing[:, :2].std()) == pytest.approx(0.5, abs=0.3)
    x = draw(50, 5)
    optimizer = Adam(network.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (network(x).sum() + network.weight_penalty(tensors(network))).backward()
        optimizer.step()
    assert not narrow[2:].any()


# Engines


def test_hundred_steps_of_an_engine_are_those_of_autograd():
    inputs = Gaussian(5)
    labels = Regression(inputs)
    target = PaperTarget(inputs, [2, 1], level_scales=0.1)
    objective = RegressionObjective(target, labels)
    network = make_net(noise=0.1, lambda_6=0.01, kappa=30.0)
    for level in (2, 3):
        network.distill(level)
    plain = copy.deepcopy(network)
    drawn = SampleStream(target, labels, seed=1).block(0, 100, 16)
    engine = Steps(network, objective, lambda p: Adam(p, lr=1e-3))
    losses = engine.take(StepChunk(drawn.inputs, drawn.labels))
    optimizer, expected = Adam(trainable(plain), lr=1e-3), []
    for x, y in zip(drawn.inputs, drawn.labels, strict=True):
        loss = nn.functional.mse_loss(plain(x), y) / float(target.variance)
        loss = loss + plain.weight_penalty(tensors(plain))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(float(loss.detach()))
    assert gap(weights(plain), weights(network)) <= 1e-10
    assert losses == pytest.approx(expected, rel=1e-8)
