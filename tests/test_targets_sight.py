"""SIGHT, against its formula written out."""

import math

import pytest
import torch
from reference import standard_errors_off

from bfc_lightning import Gaussian, Sight
from bfc_lightning.seeds import generator
from bfc_lightning.targets import base


@pytest.fixture(scope="module")
def sight():
    return Sight(Gaussian(16), seed=1)


def draw(target, num_samples):
    return target.inputs.sample(num_samples, generator(0, "sight test"))


def combination(sight, row):
    """h(x), a feature at a time."""
    total = 0.0
    for sign, direction in zip(sight.signs, sight.directions, strict=True):
        z = sum(float(w * x) for w, x in zip(direction, row, strict=True))
        total += float(sign) * ((z**2 - 1) / 2 + (z**3 - 3 * z) / 6)
    return total / math.sqrt(len(sight.signs))


def test_sight_is_its_formula(sight):
    x = draw(sight, 20)
    expected = [math.tanh(3 * combination(sight, row)) for row in x]
    torch.testing.assert_close(sight(x), x.new_tensor(expected), rtol=1e-12, atol=1e-12)


def test_directions_are_orthonormal_and_signs_are_signs(sight):
    gram = sight.directions @ sight.directions.T
    torch.testing.assert_close(gram, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-13)
    assert sight.signs.abs().tolist() == [1.0] * 4
    drawn = torch.cat([Sight(Gaussian(16), 1.0, seed=seed).signs for seed in range(4)])
    assert 0.2 < float((drawn == 1).double().mean()) < 0.8  # 64 of them: 5 standard deviations


@pytest.mark.parametrize(("d", "exponent", "count"), [(64, 0.5, 8), (16, 1.0, 16), (10, 0.4, 3)])
def test_there_are_d_to_the_exponent_features(d, exponent, count, monkeypatch):
    monkeypatch.setattr(base, "MOMENT_SAMPLES", base.MOMENT_CHUNK)  # the moments do not matter here
    target = Sight(Gaussian(d), exponent)
    assert target.directions.shape == (count, d)
    assert [z.shape[1] for z in target.features(draw(target, 3))] == [count, 1]


def test_combination_has_mean_zero_and_variance_two_thirds(sight):
    h = sight.preactivations(draw(sight, 2**15))[1][:, 0]
    assert float(standard_errors_off(h, 0.0)) < 5
    assert float(standard_errors_off(h**2, 2 / 3)) < 5


def test_moments_are_those_of_other_samples(sight):
    values = sight(draw(sight, 2**15))
    # the moments rest on 2^17 samples: half a standard error more
    assert float(standard_errors_off(values, sight.mean)) < 5
    assert float(standard_errors_off((values - sight.mean) ** 2, sight.variance)) < 5


def test_layers_lead_from_one_to_the_next(sight):
    x = draw(sight, 10)
    (first, second), (lower, upper) = sight.preactivations(x), sight.features(x)
    torch.testing.assert_close(first, x @ sight.directions.T)
    torch.testing.assert_close(lower, first**2 / 2 - 0.5 + first**3 / 6 - first / 2)
    torch.testing.assert_close(second, lower @ sight.signs[:, None] / 2)
    torch.testing.assert_close(upper[:, 0], sight(x))
    assert torch.equal(sight.level_outputs(x), sight(x)[:, None])
    assert sight.depth == 2


def test_same_seed_gives_the_same_target_and_another_seed_another():
    first, again, other = Sight(Gaussian(9), seed=2), Sight(Gaussian(9), seed=2), Sight(Gaussian(9))
    x = draw(first, 10)
    assert torch.equal(first(x), again(x))
    assert not torch.allclose(first(x), other(x), rtol=1e-3)
    assert torch.equal(other(x), Sight(Gaussian(9), seed=0)(x))


@pytest.mark.parametrize("exponent", [0.0, 1.5, math.nan])
def test_exponent_out_of_range_is_refused(exponent):
    with pytest.raises(ValueError, match=r"exponent must lie in \(0, 1\], got "):
        Sight(Gaussian(4), exponent)
