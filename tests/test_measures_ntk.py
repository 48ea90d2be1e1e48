"""The tangent kernel, by hand and against full Jacobians."""

import copy
import math

import numpy as np
import pytest
import reference
import torch
from torch import nn

from bfc_lightning.activations import Huber, Quadratic
from bfc_lightning.measures.ntk import empirical_ntk, kernel_drift
from bfc_lightning.networks import DenseNet
from tests.tensors import draw, perturbed


class SlopeAndShift(nn.Module):
    """s z^2 + t, with parameters of more than one shape."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([1.5]))
        self.shift = nn.Parameter(torch.tensor([[-0.3]]))

    def forward(self, z):
        return self.slope * z * z + self.shift


def slow_kernel(network, x):
    free = copy.deepcopy(network).requires_grad_(True)
    return reference.tangent_kernel(free(x), list(free.parameters()))


def assert_is_the_slow_kernel(network, x):
    expected = slow_kernel(network, x)
    np.testing.assert_allclose(empirical_ntk(network, x).numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("linear_readout", [True, False])
@pytest.mark.parametrize("widths", [[4], [5, 3], [4, 6, 2]])
def test_kernel_is_that_of_the_full_jacobian(widths, linear_readout):
    scales = [1.0, 0.5, 0.2]
    network = perturbed(DenseNet(3, widths, level_scales=scales, linear_readout=linear_readout))
    assert_is_the_slow_kernel(network, draw(7, 3))


@pytest.mark.parametrize(
    "activation",
    [
        *(nn.PReLU(), SlopeAndShift(), nn.Sequential(nn.PReLU(), SlopeAndShift())),
        *(nn.ReLU(), nn.Tanh(), nn.Identity(), Huber(0.5), torch.sin),
    ],
)
def test_kernel_holds_for_any_activation_and_its_own_parameters(activation):
    network = perturbed(DenseNet(3, [5, 4, 3], activation=activation))
    assert_is_the_slow_kernel(network, draw(7, 3))


def test_activation_that_works_in_place_has_the_same_kernel():
    x = draw(7, 3)
    kernels = [
        empirical_ntk(perturbed(DenseNet(3, [5, 4], activation=nn.ReLU(inplace=inplace))), x)
        for inplace in (True, False)
    ]
    assert torch.equal(*kernels)


@pytest.mark.parametrize("activation", [Quadratic(), nn.PReLU()])
def test_frozen_parameters_count_and_stay_frozen(activation):
    x = draw(7, 3)
    network = perturbed(DenseNet(3, [5, 3], activation=activation, train_readout=False))
    assert_is_the_slow_kernel(network, x)
    for module in (network.layers[0], network):
        module.requires_grad_(False)
        assert_is_the_slow_kernel(network, x)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_hidden_layers_count():
    x = draw(7, 3)
    network = perturbed(DenseNet(3, [5, 4, 3]))
    expected = slow_kernel(network, x)
    network.active_depth = 1
    np.testing.assert_allclose(empirical_ntk(network, x).numpy(), expected, rtol=1e-9)
    assert network.active_depth == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("activation", [Quadratic(), nn.PReLU()])
def test_callers_mode_changes_nothing(mode, activation):
    network = perturbed(DenseNet(3, [5, 3], activation=activation))
    expected = slow_kernel(network, draw(7, 3))
    with mode():
        kernel = empirical_ntk(network, draw(7, 3))
    np.testing.assert_allclose(kernel.numpy(), expected, rtol=1e-9)
    assert not kernel.requires_grad


def test_network_is_left_as_it_was():
    network = perturbed(DenseNet(3, [5, 3], activation=nn.PReLU(), train_readout=False))
    x = draw(7, 3)
    network(x).sum().backward()
    state = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    grads = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    trained = [p.requires_grad for p in network.parameters()]
    empirical_ntk(network, x)
    assert trained == [p.requires_grad for p in network.parameters()]
    assert not x.requires_grad
    for (name, parameter), grad in zip(network.named_parameters(), grads, strict=True):
        assert torch.equal(parameter, state[name])
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)


# Drift


def test_drift_worked_by_hand():
    # <K, K_0> = 1 + 1 = 2, |K|^2 = 2, |K_0|^2 = 4
    kernel, initial = torch.eye(2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    expected = 1 - 2 / math.sqrt(8)
    assert float(kernel_drift(kernel, initial)) == pytest.approx(expected, rel=1e-14)


def test_drift_of_a_multiple_is_zero_and_of_a_small_change_is_seen():
    kernel = empirical_ntk(perturbed(DenseNet(3, [5, 3])), draw(15, 3))
    assert float(kernel_drift(3 * kernel, kernel)) < 1e-28
    change = torch.zeros_like(kernel)
    change[0, 0] = 1e-10 * kernel.norm()
    cosine = float(kernel[0, 0] / kernel.norm())
    # half the squared sine of a small angle, below what 1 - cosine can hold
    expected = 0.5e-20 * (1 - cosine**2)
    assert float(kernel_drift(kernel + change, kernel)) == pytest.approx(expected, rel=1e-3)
