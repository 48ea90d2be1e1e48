"""Nested parities: a target with vector values on the cube."""

import itertools
import math

import pytest
import torch

from bfc_lightning.inputs import Hypercube
from bfc_lightning.seeds import generator
from bfc_lightning.targets import NestedParities


def slow(x, beta, alpha):
    """H(x) of one sample, entry by entry."""
    pairs = [x[2 * i] * x[2 * i + 1] for i in range(8)]
    upper = [math.prod(pairs[:4])] * 4 + [math.prod(pairs[4:])] * 4
    return [beta * low + alpha * high for low, high in zip(pairs, upper, strict=True)]


@pytest.fixture(scope="module")
def target():
    return NestedParities(Hypercube(18), beta=0.5, alpha=0.3)


def test_target_is_the_slow_formula(target):
    x = target.inputs.sample(50, generator(0, "x"))
    expected = torch.tensor([slow(row, 0.5, 0.3) for row in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(target(x), expected)
    torch.testing.assert_close(target.level_outputs(x).sum(dim=1), expected)


def test_moments_are_those_of_the_whole_cube(target):
    signs = itertools.product((-1.0, 1.0), repeat=8)  # of the pairs, which determine H
    x = torch.tensor([[s for sign in row for s in (1.0, sign)] for row in signs])
    values = target(x.double())
    torch.testing.assert_close(target.mean, values.mean(dim=0))
    torch.testing.assert_close(target.variance, values.var(dim=0, correction=0).mean())
    assert float(values.square().sum(dim=1).mean()) == pytest.approx(8 * (0.25 + 0.09))


def test_moments_of_samples_have_the_shape_of_the_target(target):
    other = NestedParities(target.inputs, beta=0.5, alpha=0.3)
    other.estimate_moments(0)
    torch.testing.assert_close(other.mean, target.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(other.variance, target.variance, rtol=0.02, atol=0)
    with pytest.raises(ValueError, match=r"output_shape \(8,\), got shape \(5,\)"):
        other.set_moments(torch.ones(5))
