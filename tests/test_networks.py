"""The learner: formula, start, gradients, and many learners as one."""

import math

import numpy as np
import pytest
import torch
from reference import learner
from scipy import stats
from torch import nn

from bfc_lightning.activations import Huber
from bfc_lightning.networks import DenseNet, expand_scales
from bfc_lightning.seeds import generator
from tests.tensors import draw, perturbed


def blocks_of(network):
    return {
        (level, source): layer.block(source).detach().numpy()
        for level, layer in enumerate(network.layers, start=1)
        for source in range(level)
    }


def by_hand(network, x, scales, activation=np.square):
    return learner(
        x.numpy(),
        blocks=blocks_of(network),
        biases=[layer.bias.tolist() for layer in network.layers],
        readouts=[layer.readout.tolist() for layer in network.layers],
        scales=scales,
        constant=float(network.constant.detach()),
        linear=None if network.linear is None else network.linear.detach().numpy(),
        activation=activation,
    )


# The formula


@pytest.mark.parametrize("linear_readout", [True, False])
@pytest.mark.parametrize("widths", [[4], [5, 3], [4, 6, 2]])
def test_network_is_the_slow_formula(widths, linear_readout):
    scales = [1.0, 0.5, 0.2]
    network = DenseNet(3, widths, level_scales=scales, linear_readout=linear_readout)
    network = perturbed(network)
    x = draw(6, 3)
    expected = by_hand(network, x, scales[: len(widths)])
    np.testing.assert_allclose(network(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("activation", "scalar"),
    [
        (nn.ReLU(), lambda z: max(z, 0.0)),
        (nn.Tanh(), math.tanh),
        (Huber(0.5), lambda z: z * z if abs(z) <= 0.5 else 0.5 * (2 * abs(z) - 0.5)),
    ],
)
def test_network_uses_the_activation_it_is_given(activation, scalar):
    network = perturbed(DenseNet(3, [4, 3], activation=activation))
    x = draw(6, 3)
    expected = by_hand(network, x, [1.0, 1.0], scalar)
    np.testing.assert_allclose(network(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_last_scale_repeats_beyond_the_target_s_depth():
    assert expand_scales([1.0, 0.5], 4) == [1.0, 0.5, 0.5, 0.5]
    assert expand_scales([1.0, 0.5, 0.1], 2) == [1.0, 0.5]
    network = DenseNet(2, [4, 9, 16], level_scales=[1.0, 0.5])
    assert network.scales == pytest.approx([1 / 2, 0.5 / 3, 0.5 / 4], rel=1e-14)
    # a level without weight: its layer is read at the first positive scale
    assert expand_scales([0.0, 2.0, 0.1], 4) == [2.0, 2.0, 0.1, 0.1]
    assert expand_scales([0.0, 2.0], 1) == [2.0]


# The start


def test_weights_start_as_gaussians_of_the_stated_size():
    network = DenseNet(16, [200, 100, 400], seed=5)
    stds = {(level, 0): 1 / 4 for level in (1, 2, 3)}
    stds |= {(2, 1): 0.3 / math.sqrt(200), (3, 1): 0.3 / math.sqrt(200), (3, 2): 0.3 / 10}
    blocks = blocks_of(network)
    assert blocks.keys() == stds.keys()
    for key, std in stds.items():
        # n from 1600 to 80000; six tests, so p above 1e-4
        assert stats.kstest(blocks[key].flatten() / std, "norm").pvalue > 1e-4, key


def test_initialization_scale_multiplies_the_weights_and_nothing_else():
    whole, small = DenseNet(5, [4, 3], seed=1), DenseNet(5, [4, 3], init_scale=0.1, seed=1)
    for (name, value), scaled in zip(whole.named_parameters(), small.parameters(), strict=True):
        expected = 0.1 * value if name.endswith("weight") else value
        assert torch.allclose(scaled, expected, rtol=1e-6), name
    again = small.rescaled(1.0)
    assert again.init_scale == 1.0
    for value, scaled in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.allclose(scaled, value, rtol=1e-6)


def test_layer_outputs_add_up_to_the_output():
    x = torch.randn(6, 5, generator=generator(0, "outputs"))
    network = DenseNet(5, [4, 3], linear_readout=True, seed=1)
    total = network.constant + x @ network.linear + sum(network.layer_outputs(network.features(x)))
    assert torch.allclose(network(x), total)


def test_biases_constant_and_linear_readout_start_at_zero():
    network = DenseNet(3, [4, 2], linear_readout=True)
    assert not any(layer.bias.any() for layer in network.layers)
    assert network.constant.tolist() == 0
    assert network.linear.tolist() == [0.0, 0.0, 0.0]
    assert DenseNet(3, [4, 2]).linear is None


@pytest.mark.parametrize(
    ("width", "signs"), [(4, [1, 1, -1, -1]), (5, [1, 1, 1, -1, -1]), (1, [1]), (2, [1, -1])]
)
def test_readout_starts_half_positive_and_an_odd_neuron_positive(width, signs):
    assert DenseNet(3, [width]).layers[0].readout.tolist() == signs
    assert DenseNet(3, [width], positive_readout=True).layers[0].readout.tolist() == [1] * width


def test_start_follows_its_seed():
    one, again, other = (DenseNet(3, [4, 2], seed=seed) for seed in (1, 1, 2))
    for layer, same, different in zip(one.layers, again.layers, other.layers, strict=True):
        assert torch.equal(layer.weight, same.weight)
        assert not (layer.weight == different.weight).any()


def test_lower_layers_start_alike_whatever_stands_above_them():
    shallow, deep = DenseNet(3, [4], seed=1), DenseNet(3, [4, 5], seed=1)
    assert torch.equal(shallow.layers[0].weight, deep.layers[0].weight)


@pytest.mark.parametrize("train_readout", [True, False])
def test_readout_is_trained_only_where_asked_for(train_readout):
    network = DenseNet(3, [4, 2], train_readout=train_readout)
    network(torch.ones(2, 3)).sum().backward()
    for layer in network.layers:
        assert (layer.readout.grad is not None) is train_readout
        assert layer.weight.grad is not None


def test_every_layer_has_an_activation_of_its_own():
    given = nn.PReLU(init=0.1)
    network = DenseNet(3, [4, 2], activation=given)
    with torch.no_grad():
        network.layers[0].activation.weight.fill_(0.7)
    assert network.layers[1].activation.weight.tolist() == pytest.approx([0.1])
    assert given.weight.tolist() == pytest.approx([0.1])


def test_activation_may_depend_on_the_width_and_is_left_as_it_was():
    given = nn.BatchNorm1d(6)
    network = DenseNet(3, [6, 6], activation=given)
    for sigma in (given, *(layer.activation for layer in network.layers)):
        assert sigma.running_var.tolist() == [1] * 6
    with pytest.raises(ValueError, match="activation"):
        DenseNet(3, [6, 4], activation=given)


# Without a graph


@pytest.mark.parametrize("activation", [None, nn.GELU(), Huber(0.5)])
@pytest.mark.parametrize(("active_depth", "linear_readout"), [(3, False), (2, True)])
@pytest.mark.parametrize("num_samples", [1, 2500])
def test_evaluation_without_a_graph_is_the_same(
    activation, active_depth, linear_readout, num_samples
):
    settings = {"activation": activation, "linear_readout": linear_readout}
    network = perturbed(DenseNet(4, [6, 3, 5], **settings, seed=2))
    network.active_depth = active_depth
    x = draw(num_samples, 4)
    found = network.evaluate(x)
    assert not found.requires_grad
    torch.testing.assert_close(found, network(x).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network.evaluate(x), found, rtol=0, atol=0)


# The penalty


@pytest.mark.parametrize("coefficients", [[0.1], [0.0, 0.3], [0.1, 0.2, 0.3]])
def test_penalty_is_the_sum_over_all_weights(coefficients):
    widths = [4, 3, 2][: len(coefficients)]
    network = DenseNet(3, widths, linear_readout=True, regularization=coefficients).double()
    blocks = blocks_of(network).items()
    expected = sum(coefficients[level - 1] * (block**2).sum() for (level, _), block in blocks)
    found = network.weight_penalty(dict(network.named_parameters()))
    assert float(found.detach()) == pytest.approx(expected, rel=1e-12)


def test_penalty_pulls_on_weights_only():
    network = DenseNet(3, [4, 2], linear_readout=True, regularization=[0.5, 0.1]).double()
    parameters = dict(network.named_parameters())
    network.weight_penalty(parameters).backward()
    by_hand = network.penalty_grad(parameters, parameters)
    assert set(by_hand) == {"layers.0.weight", "layers.1.weight"}
    for name, parameter in parameters.items():
        if name in by_hand:
            torch.testing.assert_close(by_hand[name].detach(), parameter.grad)
        else:
            assert parameter.grad is None
