"""Gradients by hand against autograd, finite differences and a case worked by hand."""

import pytest
import torch

from bfc_lightning.activations import Huber, Quadratic
from bfc_lightning.networks import DenseNet
from tests.fast_paths import ByHand
from tests.reference import finite_differences

ACTIVATIONS = {
    "square": Quadratic(),
    "huber": Huber(0.5),
    "relu": torch.nn.ReLU(),
}
NETWORKS = {
    "one layer": {"widths": [4]},
    "two layers": {"widths": [5, 3]},
    "three layers": {"widths": [4, 1, 6]},
    "linear readout": {"widths": [4, 3], "linear_readout": True},
    "fixed readout": {"widths": [4, 3, 2], "train_readout": False},
    "positive readout": {"widths": [3, 3], "positive_readout": True},
}


def network(widths=(5, 3), *, input_dim=6, seed=0, **settings):
    """A learner with numbers everywhere, far from its start."""
    made = DenseNet(input_dim, list(widths), level_scales=[1.0, 0.5, 0.25], seed=seed, **settings)
    made.double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
            parameter.add_(noise, alpha=0.3)
    return made


def samples(count, input_dim=6, seed=1):
    """x, and the derivatives of a loss by the outputs."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(count, input_dim, generator=random, dtype=torch.float64)
    return x, torch.randn(count, generator=random, dtype=torch.float64)


def autograd(learner, x, slope):
    """The gradients of sum_i g_i f(x_i) by name, of what is trained; zero where f is free of it."""
    trained = {n: p for n, p in learner.named_parameters() if p.requires_grad}
    total = (learner(x) * slope).sum()
    slopes = torch.autograd.grad(total, list(trained.values()), materialize_grads=True)
    return dict(zip(trained, slopes, strict=True))


def assert_same(by_hand, expected, tolerance=1e-12):
    assert by_hand.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.abs().max().clamp(min=1e-3))
        torch.testing.assert_close(
            by_hand[name], value, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", NETWORKS)
def test_output_and_gradients_are_those_of_autograd(shape, activation):
    learner = network(activation=ACTIVATIONS[activation], **NETWORKS[shape])
    x, slope = samples(9)
    expected = autograd(learner, x, slope)
    by_hand = ByHand(learner, 9)
    torch.testing.assert_close(by_hand.forward(x), learner(x).detach(), rtol=1e-13, atol=1e-13)
    assert_same(by_hand.backward(slope), expected)


@pytest.mark.parametrize("activation", ["square", "huber"])
def test_gradients_are_finite_differences(activation):
    learner = network([3, 2], activation=ACTIVATIONS[activation], linear_readout=True)
    x, slope = samples(7)
    by_hand = ByHand(learner, 7)
    by_hand.forward(x)
    found = by_hand.backward(slope)
    with torch.no_grad():
        parameters = dict(learner.named_parameters())
        expected = finite_differences(lambda: (learner(x) * slope).sum(), parameters.values())
    assert_same(found, dict(zip(parameters, expected, strict=True)), tolerance=1e-7)


def test_gradients_worked_by_hand():
    # f = c + v (V x + b)^2 with V = 2, b = 1, v = 3, c = 5, at x = 1: Z = 3, f = 5 + 3 * 9 = 32
    learner = network([1], input_dim=1)
    numbers = {"weight": 2.0, "bias": 1.0, "readout": 3.0}
    with torch.no_grad():
        for name, value in numbers.items():
            getattr(learner.layers[0], name).fill_(value)
        learner.constant.fill_(5.0)
    by_hand = ByHand(learner, 1)
    one = torch.ones(1, 1, dtype=torch.float64)
    assert by_hand.forward(one).tolist() == [32.0]
    # dv = Z^2, db = 2 v Z, dV = db x, dc = 1, each times g = 2
    found = {name: float(value) for name, value in by_hand.backward(one[0] * 2).items()}
    assert found == {
        "constant": 2.0,
        "layers.0.weight": 36.0,
        "layers.0.bias": 36.0,
        "layers.0.readout": 18.0,
    }


@pytest.mark.parametrize("trained", [(), (1,), (2,), (3,), (1, 3), (2, 3), (1, 2, 3)])
@pytest.mark.parametrize("train_readout", [True, False])
def test_only_trained_layers_have_gradients_and_they_are_right(trained, train_readout):
    learner = network([4, 3, 2], linear_readout=True, train_readout=train_readout)
    learner.train_layers(trained)
    x, slope = samples(8)
    expected = autograd(learner, x, slope)
    by_hand = ByHand(learner, 8)
    by_hand.forward(x)
    assert_same(by_hand.backward(slope), expected)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("last_only", [True, False])
def test_layers_that_have_not_joined_are_no_part_of_it(depth, last_only):
    learner = network([4, 3, 2])
    learner.active_depth = depth
    learner.train_layers([depth] if last_only else range(1, depth + 1))
    x, slope = samples(8)
    expected = autograd(learner, x, slope)
    by_hand = ByHand(learner, 8)
    torch.testing.assert_close(by_hand.forward(x), learner(x).detach(), rtol=1e-13, atol=1e-13)
    assert_same(by_hand.backward(slope), expected)


def test_one_batch_leaves_nothing_behind_for_the_next():
    learner = network([4, 3], linear_readout=True)
    by_hand = ByHand(learner, 8)
    for seed in (1, 2, 3):
        x, slope = samples(8, seed=seed)
        by_hand.forward(x)
        assert_same(by_hand.backward(slope), autograd(learner, x, slope))


def test_network_and_its_row_hold_the_same_numbers():
    learner, untouched = network([4, 3]), network([4, 3])
    by_hand = ByHand(learner, 8)
    for name, value in untouched.state_dict().items():
        assert torch.equal(learner.state_dict()[name], value), name
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.mul_(1.5)
    x, slope = samples(8)
    torch.testing.assert_close(by_hand.forward(x), learner(x).detach(), rtol=1e-13, atol=1e-13)
    assert_same(by_hand.backward(slope), autograd(learner, x, slope))


def test_activation_without_a_form_in_place_is_refused():
    with pytest.raises(
        ValueError, match=r"activation must have an in-place implementation, got SiLU\(\)\."
    ):
        ByHand(network(activation=torch.nn.SiLU()), 8)
