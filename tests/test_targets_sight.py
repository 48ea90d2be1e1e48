"""SIGHT, sample by sample."""

import math

import pytest
import torch

from bfc_lightning.inputs import Gaussian
from bfc_lightning.seeds import generator
from bfc_lightning.targets import Sight


@pytest.fixture(scope="module")
def sight():
    return Sight(Gaussian(9), seed=1)


def test_value_is_the_formula_term_by_term(sight):
    x = sight.inputs.sample(20, generator(0, "x"))
    for point, value in zip(x, sight(x), strict=True):
        total = 0.0
        for direction, sign in zip(sight.directions, sight.signs, strict=True):
            z = float(direction @ point)
            total += float(sign) * ((z**2 - 1) / 2 + (z**3 - 3 * z) / 6)
        assert float(value) == pytest.approx(math.tanh(3 * total / math.sqrt(3)), rel=1e-12)


def test_directions_are_orthonormal_and_as_many_as_the_exponent_says(sight, few_moments):
    identity = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(sight.directions @ sight.directions.T, identity)
    assert set(sight.signs.tolist()) <= {-1.0, 1.0}
    counts = {e: len(Sight(Gaussian(64), exponent=e).signs) for e in (0.01, 1 / 3, 0.5, 1.0)}
    assert counts == {0.01: 1, 1 / 3: 4, 0.5: 8, 1.0: 64}


def test_feature_is_centered_with_variance_two_thirds(sight):
    x = sight.inputs.sample(200_000, generator(0, "x"))
    feature = sight.feature(x)
    assert abs(float(feature.mean())) < 0.05
    assert float(feature.var()) == pytest.approx(2 / 3, rel=0.05)
