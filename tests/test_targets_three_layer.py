"""The three-layer line: links, single index, quadratic feature, depth separation."""

import math

import pytest
import torch
from scipy import stats

from bfc_lightning.inputs import Gaussian
from bfc_lightning.seeds import generator
from bfc_lightning.targets import DepthSeparation, QuadraticFeature, SingleIndex
from bfc_lightning.targets.three_layer import link


def draw(target, num_samples, seed=0):
    return target.inputs.sample(num_samples, generator(seed, "three-layer test"))


# Links


def test_links_worked_by_hand():
    z = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    expected = {
        "relu": [0.0, 0.0, 3.0],
        "hermite_2": [3 / math.sqrt(2), -1 / math.sqrt(2), 8 / math.sqrt(2)],
        "hermite_3": [-2 / math.sqrt(6), 0.0, 18 / math.sqrt(6)],
        "tanh": [math.tanh(-2), 0.0, math.tanh(3)],
    }
    for name, values in expected.items():
        torch.testing.assert_close(link(name, z), z.new_tensor(values), rtol=1e-14, atol=0)


# Single index


@pytest.fixture(scope="module")
def single():
    return SingleIndex(Gaussian(6), seed=1)


def test_single_index_is_its_formula(single):
    x = draw(single, 20)
    expected = [(float(row @ single.direction) ** 2 - 1) / math.sqrt(2) for row in x]
    torch.testing.assert_close(single(x), x.new_tensor(expected), rtol=1e-12, atol=1e-12)
    assert float(single.direction.norm()) == pytest.approx(1, abs=1e-14)


def test_hermite_single_index_is_centered_with_variance_one(single):
    # kurtosis 15: on 2^17 samples the standard errors are 0.003 and 0.01
    assert float(single.mean) == pytest.approx(0, abs=0.015)
    assert float(single.variance) == pytest.approx(1, abs=0.05)


def test_directions_are_uniform_on_the_sphere(few_moments):
    drawn = torch.stack([SingleIndex(Gaussian(3), seed=seed).direction for seed in range(300)])
    for coordinate in drawn.T:
        # uniform on [-1, 1] (Archimedes); n = 300
        assert stats.kstest(coordinate.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


# Quadratic feature


@pytest.fixture(scope="module")
def quadratic():
    return QuadraticFeature(Gaussian(6), seed=1)


def test_quadratic_feature_is_its_formula(quadratic):
    x = draw(quadratic, 20)
    a = quadratic.form
    forms = [sum(float(r[i] * a[i, j] * r[j]) for i in range(6) for j in range(6)) for r in x]
    expected = [max(form, 0.0) for form in forms]
    torch.testing.assert_close(quadratic(x), x.new_tensor(expected), rtol=1e-12, atol=1e-12)


def test_form_is_symmetric_without_trace_and_of_norm_one_half(quadratic):
    form = quadratic.form
    assert torch.equal(form, form.T)
    assert abs(float(form.trace())) < 1e-14
    assert float(form.square().sum()) == pytest.approx(0.5, abs=1e-14)


# Depth separation


@pytest.fixture(scope="module")
def separation():
    return DepthSeparation(Gaussian(6), seed=1)


def test_depth_separation_is_its_formula(separation):
    u = separation.block * math.sqrt(6 / 2)
    torch.testing.assert_close(u @ u.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-13)
    a = torch.zeros(6, 6, dtype=torch.float64)
    a[:3, 3:] = u / math.sqrt(12)
    a[3:, :3] = u.T / math.sqrt(12)
    x = draw(separation, 20)
    expected = [max(float(row @ a @ row), 0.0) - float(separation.offset) for row in x]
    torch.testing.assert_close(separation(x), x.new_tensor(expected), rtol=1e-12, atol=1e-12)


def test_depth_separation_is_centered(separation):
    assert float(separation.mean) == 0
    assert float(separation.offset) > 0.2


# What they share


@pytest.mark.parametrize("name", ["single", "quadratic", "separation"])
def test_target_without_layers_is_one_level_of_a_depth_of_two(name, request):
    target = request.getfixturevalue(name)
    x = draw(target, 10)
    assert torch.equal(target.level_outputs(x), target(x)[:, None])
    assert target.level_scales == (1.0,)
    assert target.depth == 2
    assert target.has_positive_signs is False
