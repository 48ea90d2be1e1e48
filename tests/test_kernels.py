"""Kernels in closed form: against quadrature, Jacobians of wide networks, and another program."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from bfc_lightning.kernels.chains import quadratic_chain_ntk, relu_chain_ntk
from bfc_lightning.kernels.learner import has_positive_readout, learner_ntk, readout_scales
from bfc_lightning.kernels.moments import linear_covariance, rectified
from bfc_lightning.networks import FEATURE_STD, DenseNet
from tests.tensors import draw

STORED = json.loads((Path(__file__).parent / "oracles/neural_tangents_chain.json").read_text())
CHAINS = {"quadratic": quadratic_chain_ntk, "relu": relu_chain_ntk}
SCALES = [1.0, 0.5, 0.25]


@pytest.mark.parametrize("case", STORED["cases"], ids=lambda c: f"{c['activation']}{c['depth']}")
def test_chain_has_the_values_of_an_independent_implementation(case):
    x, other = (torch.tensor(STORED[name], dtype=torch.float64) for name in ("x", "other"))
    found = CHAINS[case["activation"]](x, other, case["depth"], case["bias_std"])
    np.testing.assert_allclose(found, case["ntk"], rtol=1e-10)


def expectation(function, covariance: np.ndarray) -> float:
    """E function(z, z') for centered Gaussians, by Gauss-Hermite quadrature: exact for squares."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / weights.sum()
    root = np.linalg.cholesky(covariance + 1e-300 * np.eye(2))
    total = 0.0
    for a, u in zip(nodes, weights, strict=True):
        for b, v in zip(nodes, weights, strict=True):
            z, other = root @ np.array([a, b])
            total += u * v * function(z, other)
    return total


def slow_learner_ntk(x, y, scales, *, train_readout: bool, linear_readout: bool) -> float:
    """The recursion at one pair of points, every expectation by quadrature."""
    d = len(x)
    pair = np.array([[x @ x, x @ y], [x @ y, y @ y]]) / d
    sigma, features, tangents = [], [], []
    total = 1.0 + (x @ y if linear_readout else 0.0)
    for scale in scales:
        here = pair + FEATURE_STD**2 * sum(features, np.zeros((2, 2)))
        square = np.array([
            [3 * here[0, 0] ** 2, expectation(lambda z, w: z**2 * w**2, here)],
            [0.0, 3 * here[1, 1] ** 2],
        ])
        square[1, 0] = square[0, 1]
        through = sum(
            FEATURE_STD**2 * expectation(lambda z, w: 4 * z * w, below) * tangent
            for below, tangent in zip(sigma, tangents, strict=True)
        )
        tangent = here[0, 1] + 1 + through
        total += scale**2 * expectation(lambda z, w: 4 * z * w, here) * tangent
        total += scale**2 * square[0, 1] if train_readout else 0.0
        sigma.append(here)
        features.append(square)
        tangents.append(tangent)
    return total


@pytest.mark.parametrize("train_readout", [True, False])
@pytest.mark.parametrize("linear_readout", [True, False])
def test_learner_ntk_equals_the_recursion_written_out(train_readout, linear_readout):
    x, other = draw(3, 5), draw(2, 5, seed=1)
    options = {"train_readout": train_readout, "linear_readout": linear_readout}
    found = learner_ntk(x, other, SCALES, **options)
    expected = [
        [slow_learner_ntk(a, b, SCALES, **options) for b in other.numpy()] for a in x.numpy()
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def scaled_gradients(network: DenseNet, x: torch.Tensor) -> torch.Tensor:
    """Gradients of f at each point in U = V / std and everything else that is trained."""
    rows = []
    for point in x:
        network.zero_grad()
        network(point[None]).sum().backward()
        parts = [network.constant.grad.reshape(1)]
        for layer in network.dense_layers():
            blocks = torch.split(layer.weight.grad, list(layer.fan_ins), dim=1)
            for source, (block, fan_in) in enumerate(zip(blocks, layer.fan_ins, strict=True)):
                std = (1.0 if source == 0 else FEATURE_STD) / math.sqrt(fan_in)
                parts.append((std * block).flatten())
            parts += [layer.bias.grad, layer.readout.grad]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("is_positive", [False, True])
def test_jacobians_of_wide_learners_come_near_as_one_over_the_root_of_the_width(is_positive):
    x = draw(5, 5, name="points")
    limit = learner_ntk(x, x, SCALES, positive_readout=is_positive)
    widths, errors = [32, 128, 512], []
    for width in widths:
        squares = []
        for seed in range(12 if width < 512 else 6):
            network = DenseNet(
                5, [width] * 3, level_scales=SCALES, positive_readout=is_positive, seed=seed
            ).double()
            assert has_positive_readout(network) == is_positive
            assert readout_scales(network) == pytest.approx(SCALES)
            rows = scaled_gradients(network, x)
            difference = rows @ rows.T - limit
            squares.append(float(difference.square().sum() / limit.square().sum()))
        errors.append(math.sqrt(sum(squares) / len(squares)))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert -0.75 < slope < -0.3, errors
    assert errors[-1] < 0.15


@pytest.mark.parametrize("bias_std", [0.0, 0.7])
def test_kernels_of_a_point_with_itself_are_symmetric_and_positive(bias_std):
    x = draw(30, 5)
    for chain in CHAINS.values():
        kernel = chain(x, x, 3, bias_std)
        assert torch.isfinite(kernel).all()
        torch.testing.assert_close(kernel, kernel.T, rtol=1e-12, atol=0)
        assert torch.linalg.eigvalsh(kernel)[0] > -1e-10 * kernel.diagonal().max()
    scaled = relu_chain_ntk(2 * x, x, 3)
    torch.testing.assert_close(scaled, 2 * relu_chain_ntk(x, x, 3), rtol=1e-6, atol=1e-6)


# Gradients at and near angles 0 and pi


def coincident(dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Random points, with copies, multiples, opposites, a near copy and 0."""
    x = draw(12, dim)
    near = x[7:8] + 1e-4 * draw(1, dim, seed=1)
    x = torch.cat([x, x[:2], 2.5 * x[2:4], -x[4:6], -0.1 * x[6:7], near, torch.zeros_like(near)])
    return x.float().to(dtype)


def gradient(kernel, x: torch.Tensor) -> torch.Tensor:
    moved = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(kernel(moved, x).sum(), moved)
    return found


@pytest.mark.parametrize("bias_std", [0.0, 0.7])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("dim", [1, 2, 8, 300])
def test_relu_kernels_at_equal_points_agree_in_float32_and_float64(bias_std, depth, dim):
    kernel = partial(relu_chain_ntk, depth=depth, bias_std=bias_std)
    x, exact = coincident(dim, torch.float32), coincident(dim, torch.float64)
    assert kernel(x, x).dtype == torch.float32
    torch.testing.assert_close(kernel(x, x).double(), kernel(exact, exact), rtol=1e-6, atol=1e-6)
    expected = gradient(kernel, exact)
    assert expected.isfinite().all()
    found = gradient(kernel, x).double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("bias_std", [0.0, 0.7])
def test_gradient_of_a_relu_kernel_at_equal_points_is_the_symmetric_difference(bias_std):
    kernel = partial(relu_chain_ntk, depth=2, bias_std=bias_std)
    x, width = draw(6, 5), 1e-5
    expected = torch.empty_like(x)
    for column in range(x.shape[1]):
        step = width * torch.eye(x.shape[1], dtype=x.dtype)[column]
        difference = kernel(x + step, x) - kernel(x - step, x)
        expected[:, column] = difference.sum(dim=1) / (2 * width)
    torch.testing.assert_close(gradient(kernel, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_of_relu_have_finite_derivatives_in_every_dtype(dtype):
    x = coincident(5, dtype)

    def total(moved):
        after, derivatives = rectified(linear_covariance(moved, x))
        return after.cross.sum() + (derivatives * after.cross).sum()

    assert torch.func.grad(total)(x).isfinite().all()
    x = x[:-1]  # the second derivative of a norm is infinite at 0
    assert torch.func.hessian(total)(x).isfinite().all()
