"""Measures of features, by hand and against slow versions."""

import math

import numpy as np
import pytest
import reference
import torch

from bfc_lightning.inputs import Gaussian
from bfc_lightning.measures.features import (
    Leakage,
    Richness,
    probe_residuals,
)
from bfc_lightning.networks import DenseNet
from bfc_lightning.seeds import generator
from bfc_lightning.targets import HierarchicalTarget

NUM_SAMPLES = 3001  # odd, and more than two blocks of the fast version


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def draw(*shape, name="draw"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


def with_degenerate_columns(sample):
    """Beside each column, one that is constant and one that says the same again."""
    constant = torch.full_like(sample[:, :1], 3.7)
    return torch.cat([sample, constant, 0 * constant, 2 * sample[:, :1] - 1, sample], dim=1)


@pytest.fixture(scope="module")
def target():
    return HierarchicalTarget(Gaussian(8), [4, 3, 2], seed=1)


@pytest.fixture(scope="module")
def x(target):
    return target.inputs.sample(NUM_SAMPLES, generator(0, "features test"))


@pytest.fixture(scope="module")
def network():
    return DenseNet(8, [20, 12, 7], level_scales=[1.0, 0.5, 0.25], seed=3).double()


@pytest.fixture(scope="module")
def learned(network, x):
    """Z_1.. and F_1.. of an untrained learner."""
    with torch.no_grad():
        return network.activate(x)


def feature_leakage(preactivations, wanted):
    return Leakage(wanted).of(preactivations)


def richness(features, preactivations):
    return Richness(preactivations).of(features)


# Probes


def probe_residual(features, wanted):
    return probe_residuals([features], [wanted])[0, 0]


def test_probe_residuals_are_the_slow_ones(target, x, learned):
    wanted = target.features(x)
    fast = probe_residuals(learned[1], wanted)
    slow = [[reference.probe_residual(f.numpy(), g.numpy()) for f in learned[1]] for g in wanted]
    np.testing.assert_allclose(fast.numpy(), slow, rtol=1e-9, atol=1e-9)


def test_probe_residual_worked_by_hand():
    # fitted on (-1, -3), (1, 5): line 1 + 4 F; scored on (0, 2), (2, 8): errors 1, -1, of spread
    # 3, -3. The ridge takes 1e-6 off the slope, to first order.
    features, wanted = numbers([-1], [1], [0], [2]), numbers([-3], [5], [2], [8])
    slope = 4 / (1 + 1e-6)
    expected = ((2 - 1) ** 2 + (8 - 1 - 2 * slope) ** 2) / 18
    assert float(probe_residual(features, wanted)) == pytest.approx(expected, rel=1e-12)
    assert expected == pytest.approx(1 / 9, rel=1e-4)


def test_target_s_own_features_leave_nothing(target, x):
    wanted = target.features(x)
    residuals = probe_residuals(wanted, wanted)
    assert residuals.diagonal().max() < 1e-10
    # each level knows nothing like all of another
    assert (residuals + torch.eye(3)).min() > 0.1
    together = probe_residuals([torch.cat([*wanted, x], dim=1)], wanted)
    assert together.max() < 1e-10


def test_constant_features_leave_everything(target, x):
    constant = torch.full((NUM_SAMPLES, 3), 0.1, dtype=torch.float64)
    wanted = target.features(x)
    half = NUM_SAMPLES // 2
    # all that is known is the mean of the first half
    rest = [g[half:] - g[:half].mean(dim=0) for g in wanted]
    expected = [
        (r.square().mean(dim=0) / g[half:].var(dim=0, correction=0)).mean()
        for r, g in zip(rest, wanted, strict=True)
    ]
    fast = probe_residuals([constant], wanted)[:, 0]
    torch.testing.assert_close(fast, torch.stack(expected), rtol=1e-12, atol=0)
    torch.testing.assert_close(fast, torch.ones_like(fast), rtol=0, atol=0.02)


def test_degenerate_columns_leave_the_probes_but_for_the_ridge(target, x, learned):
    features, wanted = learned[1][0], target.features(x)
    before = probe_residuals([features], wanted)
    after = probe_residuals([with_degenerate_columns(features)], wanted)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    dropped = with_degenerate_columns(features).numpy()
    slow = [[reference.probe_residual(dropped, g.numpy())] for g in wanted]
    np.testing.assert_allclose(after.numpy(), slow, rtol=1e-9)


def test_probe_is_scored_on_the_second_half_alone():
    features = draw(400, 30)
    wanted = draw(400, 1, name="wanted")
    in_sample = probe_residual(features[:200].repeat(2, 1), wanted[:200].repeat(2, 1))
    held_out = probe_residual(features, wanted)
    assert float(in_sample) < 0.9 < 1.0 < float(held_out)


def test_probe_that_rounding_spoils_is_never_a_wrong_number():
    features = draw(NUM_SAMPLES, 1) * torch.linspace(1, 3, 200, dtype=torch.float64)
    wanted = features[:, :1] + draw(NUM_SAMPLES, 1, name="noise")
    exact = float(probe_residual(features, wanted))
    single = float(probe_residual(features.float(), wanted.float()))
    assert math.isnan(single) or single == pytest.approx(exact, abs=0.01)


def test_diverged_learner_scores_nan(target, x):
    features = draw(NUM_SAMPLES, 4)
    features[7, 2] = torch.inf
    wanted = target.features(x)
    assert probe_residuals([features, x], wanted).isnan().tolist() == [[True, False]] * 3
    assert feature_leakage(features, x).isnan()
    assert richness(features, target.preactivations(x)[1]).isnan()


# Leakage of features


def test_feature_leakage_is_the_slow_one(target, x, learned):
    for learner, wanted in zip(learned[0], target.preactivations(x), strict=True):
        expected = reference.feature_leakage(learner.numpy(), wanted.numpy())
        assert float(feature_leakage(learner, wanted)) == pytest.approx(expected, abs=1e-9)
        assert 0.1 < expected < 1


def test_feature_leakage_worked_by_hand():
    # fitted on the first half: Z_1 = 1 + 2 S, while Z_2 = 2, 4, 2, 4 does not see S;
    # scored: S = 0, 2, 0, 2, so Var(fit) = 4 + 0, while both neurons have variance 4
    wanted = numbers([-1], [-1], [1], [1], [0], [2], [0], [2])
    learner = numbers([-1, 2], [-1, 4], [3, 2], [3, 4], [1, 0], [5, 4], [1, 0], [5, 4])
    assert float(feature_leakage(learner, wanted)) == pytest.approx(0.5, rel=1e-14)


def test_target_s_own_preactivations_do_not_leak(target, x):
    for wanted in target.preactivations(x):
        assert abs(float(feature_leakage(wanted, wanted))) < 1e-12
        mixed = wanted @ draw(wanted.shape[1], 9) + draw(9)
        assert abs(float(feature_leakage(mixed, wanted))) < 1e-12


def test_degenerate_columns_of_the_target_leave_the_leakage(target, x, learned):
    wanted = target.preactivations(x)[0]
    before = feature_leakage(learned[0][0], wanted)
    degenerate = with_degenerate_columns(wanted)
    after = feature_leakage(learned[0][0], degenerate)
    assert float(after) == pytest.approx(float(before), abs=1e-9)
    slow = reference.feature_leakage(learned[0][0].numpy(), degenerate.numpy())
    assert float(after) == pytest.approx(slow, abs=1e-9)
    constant = torch.full_like(wanted, -2.2)
    assert float(feature_leakage(learned[0][0], constant)) == 1


# Richness


def test_richness_is_the_slow_one(target, x, learned):
    for features, wanted in zip(learned[1], target.preactivations(x), strict=True):
        expected = reference.richness(features.numpy(), wanted.numpy())
        assert float(richness(features, wanted)) == pytest.approx(expected, rel=1e-9)
        assert expected > 1.01


def test_richness_of_a_level_with_too_many_products_is_nan():
    # 45 * 46 / 2 = 1035 products
    assert richness(draw(100, 4), draw(100, 45)).isnan()
    assert richness(draw(100, 4), draw(100, 44)).isfinite()


def test_richness_worked_by_hand():
    # S = (a, b, 1) with coins a, b = +-1: of the products, a b, a and b vary, uncorrelated and of
    # variance 1
    coins = numbers([1, 1, 1], [1, -1, 1], [-1, 1, 1], [-1, -1, 1])
    a, b = coins[:, 0], coins[:, 1]
    # standardized coefficients (1, 0, 0), (1, 0, 0), (0, 1, 0): s^2 = 2, 1
    features = torch.stack([5 * a + 1, -2 * a, b], dim=1)
    assert float(richness(features, coins)) == pytest.approx(9 / 5, rel=1e-12)
    assert float(richness((a + b)[:, None], coins)) == pytest.approx(1, rel=1e-12)


def whitened_products(sample):
    k = sample.shape[1]
    products = [sample[:, a] * sample[:, b] for a in range(k) for b in range(a, k)]
    centered = torch.stack(products, dim=1)
    return torch.linalg.svd(centered - centered.mean(dim=0), full_matrices=False).U


@pytest.mark.parametrize("level", [0, 1, 2])
def test_all_forms_in_equal_parts_are_all_counted(target, x, level):
    wanted = target.preactivations(x)[level]
    k = wanted.shape[1]
    num_forms = k * (k + 1) // 2
    whitened = whitened_products(wanted)
    rotation = torch.linalg.qr(draw(num_forms, num_forms)).Q
    assert float(richness(whitened @ rotation, wanted)) == pytest.approx(num_forms, rel=1e-9)
    # m random forms of p products: p / (1 + p/m), the spectrum of a Wishart matrix
    many = richness(whitened @ draw(num_forms, 1000), wanted)
    assert float(many) == pytest.approx(num_forms / (1 + num_forms / 1000), rel=0.01)


def test_noise_beside_the_forms_does_not_count(target, x):
    wanted = target.preactivations(x)[2]
    forms = whitened_products(wanted)
    noise = draw(NUM_SAMPLES, 3)
    noise = noise - noise.mean(dim=0)
    noise = noise - forms @ (forms.T @ noise)
    noise = noise / noise.norm(dim=0)
    assert float(richness(forms + noise, wanted)) == pytest.approx(3, rel=1e-9)
    assert float(richness(torch.cat([forms, noise], dim=1), wanted)) == pytest.approx(3, rel=1e-9)


def test_scales_shifts_and_constant_columns_of_the_learner_leave_the_richness(target, x, learned):
    wanted, features = target.preactivations(x)[1], learned[1][1]
    before = float(richness(features, wanted))
    scaled = features * torch.logspace(-4, 4, 12, dtype=torch.float64) - 3
    assert float(richness(scaled, wanted)) == pytest.approx(before, rel=1e-9)
    constant = torch.full((NUM_SAMPLES, 4), 3.7, dtype=torch.float64)
    padded = torch.cat([features, constant], dim=1)
    assert float(richness(padded, wanted)) == pytest.approx(before, rel=1e-12)


def test_dependent_directions_of_the_target_leave_the_richness(target, x, learned):
    wanted, features = target.preactivations(x)[1], learned[1][1]
    doubled = torch.cat([wanted, wanted[:, :1], 0 * wanted[:, :1]], dim=1)
    before = float(richness(features, wanted))
    assert float(richness(features, doubled)) == pytest.approx(before, rel=1e-9)
    slow = reference.richness(features.numpy(), doubled.numpy())
    assert slow == pytest.approx(before, rel=1e-9)


def test_richness_is_zero_where_nothing_is_explained(target, x):
    wanted = target.preactivations(x)[1]
    constant = torch.full((NUM_SAMPLES, 4), math.pi, dtype=torch.float64)
    assert float(richness(constant, wanted)) == 0
    assert float(richness(draw(NUM_SAMPLES, 4), torch.ones_like(wanted))) == 0
