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
    consumed_leakage,
    probe_residuals,
    weight_leakage,
)
from bfc_lightning.networks import DenseNet
from bfc_lightning.seeds import generator
from bfc_lightning.targets import HierarchicalTarget
from tests.tensors import draw, numbers

NUM_SAMPLES = 3001  # odd, and more than two blocks of the fast version


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


# Probes


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
    assert float(probe_residuals([features], [wanted])) == pytest.approx(expected, rel=1e-12)
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
    in_sample = probe_residuals([features[:200].repeat(2, 1)], [wanted[:200].repeat(2, 1)])
    held_out = probe_residuals([features], [wanted])
    assert float(in_sample) < 0.9 < 1.0 < float(held_out)


def test_probe_that_rounding_spoils_is_never_a_wrong_number():
    features = draw(NUM_SAMPLES, 1) * torch.linspace(1, 3, 200, dtype=torch.float64)
    wanted = features[:, :1] + draw(NUM_SAMPLES, 1, name="noise")
    exact = float(probe_residuals([features], [wanted]))
    single = float(probe_residuals([features.float()], [wanted.float()]))
    assert math.isnan(single) or single == pytest.approx(exact, abs=0.01)


def test_diverged_learner_scores_nan(target, x):
    features = draw(NUM_SAMPLES, 4)
    features[7, 2] = torch.inf
    wanted = target.features(x)
    assert probe_residuals([features, x], wanted).isnan().tolist() == [[True, False]] * 3
    assert Leakage(x).of(features).isnan()
    assert Richness(target.preactivations(x)[1]).of(features).isnan()


# Leakage of features


def test_feature_leakage_is_the_slow_one(target, x, learned):
    for learner, wanted in zip(learned[0], target.preactivations(x), strict=True):
        expected = reference.feature_leakage(learner.numpy(), wanted.numpy())
        assert float(Leakage(wanted).of(learner)) == pytest.approx(expected, abs=1e-9)
        assert 0.1 < expected < 1


def test_target_s_own_preactivations_do_not_leak(target, x):
    for wanted in target.preactivations(x):
        assert abs(float(Leakage(wanted).of(wanted))) < 1e-12
        mixed = wanted @ draw(wanted.shape[1], 9) + draw(9)
        assert abs(float(Leakage(wanted).of(mixed))) < 1e-12


def test_degenerate_columns_of_the_target_leave_the_leakage(target, x, learned):
    wanted = target.preactivations(x)[0]
    before = Leakage(wanted).of(learned[0][0])
    degenerate = with_degenerate_columns(wanted)
    after = Leakage(degenerate).of(learned[0][0])
    assert float(after) == pytest.approx(float(before), abs=1e-9)
    slow = reference.feature_leakage(learned[0][0].numpy(), degenerate.numpy())
    assert float(after) == pytest.approx(slow, abs=1e-9)
    constant = torch.full_like(wanted, -2.2)
    assert float(Leakage(constant).of(learned[0][0])) == 1


# Richness


def test_richness_is_the_slow_one(target, x, learned):
    for features, wanted in zip(learned[1], target.preactivations(x), strict=True):
        expected = reference.richness(features.numpy(), wanted.numpy())
        assert float(Richness(wanted).of(features)) == pytest.approx(expected, rel=1e-9)
        assert expected > 1.01


def test_richness_of_a_level_with_too_many_products_is_nan():
    # 45 * 46 / 2 = 1035 products
    assert Richness(draw(100, 45)).of(draw(100, 4)).isnan()
    assert Richness(draw(100, 44)).of(draw(100, 4)).isfinite()


def test_richness_worked_by_hand():
    # S = (a, b, 1) with coins a, b = +-1: of the products, a b, a and b vary, uncorrelated and of
    # variance 1
    coins = numbers([1, 1, 1], [1, -1, 1], [-1, 1, 1], [-1, -1, 1])
    a, b = coins[:, 0], coins[:, 1]
    # standardized coefficients (1, 0, 0), (1, 0, 0), (0, 1, 0): s^2 = 2, 1
    features = torch.stack([5 * a + 1, -2 * a, b], dim=1)
    assert float(Richness(coins).of(features)) == pytest.approx(9 / 5, rel=1e-12)
    assert float(Richness(coins).of((a + b)[:, None])) == pytest.approx(1, rel=1e-12)


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
    assert float(Richness(wanted).of(whitened @ rotation)) == pytest.approx(num_forms, rel=1e-9)
    # m random forms of p products: p / (1 + p/m), the spectrum of a Wishart matrix
    many = Richness(wanted).of(whitened @ draw(num_forms, 1000))
    assert float(many) == pytest.approx(num_forms / (1 + num_forms / 1000), rel=0.01)


def test_noise_beside_the_forms_does_not_count(target, x):
    wanted = target.preactivations(x)[2]
    forms = whitened_products(wanted)
    noise = draw(NUM_SAMPLES, 3)
    noise = noise - noise.mean(dim=0)
    noise = noise - forms @ (forms.T @ noise)
    noise = noise / noise.norm(dim=0)
    for features in (forms + noise, torch.cat([forms, noise], dim=1)):
        assert float(Richness(wanted).of(features)) == pytest.approx(3, rel=1e-9)


def test_scales_shifts_and_constant_columns_of_the_learner_leave_the_richness(target, x, learned):
    wanted, features = target.preactivations(x)[1], learned[1][1]
    before = float(Richness(wanted).of(features))
    scaled = features * torch.logspace(-4, 4, 12, dtype=torch.float64) - 3
    assert float(Richness(wanted).of(scaled)) == pytest.approx(before, rel=1e-9)
    constant = torch.full((NUM_SAMPLES, 4), 3.7, dtype=torch.float64)
    padded = torch.cat([features, constant], dim=1)
    assert float(Richness(wanted).of(padded)) == pytest.approx(before, rel=1e-12)


def test_dependent_directions_of_the_target_leave_the_richness(target, x, learned):
    wanted, features = target.preactivations(x)[1], learned[1][1]
    doubled = torch.cat([wanted, wanted[:, :1], 0 * wanted[:, :1]], dim=1)
    before = float(Richness(wanted).of(features))
    assert float(Richness(doubled).of(features)) == pytest.approx(before, rel=1e-9)
    slow = reference.richness(features.numpy(), doubled.numpy())
    assert slow == pytest.approx(before, rel=1e-9)


def test_richness_is_zero_where_nothing_is_explained(target, x):
    wanted = target.preactivations(x)[1]
    constant = torch.full((NUM_SAMPLES, 4), math.pi, dtype=torch.float64)
    assert float(Richness(wanted).of(constant)) == 0
    assert float(Richness(torch.ones_like(wanted)).of(draw(NUM_SAMPLES, 4))) == 0


# Leakage of weights


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_weight_leakage_is_the_slow_one(rank):
    wanted = draw(4, rank, name="left") @ draw(rank, 9)
    weight = draw(6, 9, name="V")
    expected = reference.weight_leakage(weight.numpy(), wanted.numpy())
    assert float(weight_leakage(weight, wanted)) == pytest.approx(expected, abs=1e-12)


def test_weights_in_the_target_s_span_do_not_leak_and_orthogonal_ones_leak_entirely():
    frame = torch.linalg.qr(draw(9, 9)).Q
    wanted = draw(4, 3, name="left") @ frame[:3]
    inside, outside = draw(6, 3, name="V") @ frame[:3], draw(6, 6, name="V") @ frame[3:]
    assert abs(float(weight_leakage(inside, wanted))) < 1e-12
    assert abs(float(weight_leakage(outside, wanted)) - 1) < 1e-12
    assert float(weight_leakage(0 * inside, wanted)) == 1
    assert float(weight_leakage(inside, 0 * wanted)) == 1


# Consumed leakage


@pytest.mark.parametrize("rank", [1, 3])
def test_consumed_leakage_is_the_slow_one(rank):
    first, second, readout = draw(7, 9), draw(5, 7, name="V21"), draw(5, name="readout")
    wanted = draw(3, rank, name="left") @ draw(rank, 9, name="W")
    slow = reference.consumed_leakage(*(part.numpy() for part in (first, second, readout, wanted)))
    fast = consumed_leakage(first, second, readout, wanted)
    assert float(fast) == pytest.approx(slow, abs=1e-12)
    assert 0.1 < slow < 0.999


def test_consumed_leakage_worked_by_hand():
    # V = e_1, e_1 + e_2; W = e_1. Q_1 = e_1 e_1^T: 1 of 1 inside. Q_2 = all ones: 1 of 4.
    first, wanted = numbers([1, 0], [1, 1]), numbers([2, 0])
    second, readout = numbers([1, 0], [0, 1]), numbers(3, -1)
    leakage = consumed_leakage(first, second, readout, wanted)
    assert float(leakage) == pytest.approx(1 - (3 * 1 + 1 * 1) / (3 * 1 + 1 * 4), rel=1e-14)


def test_nothing_leaks_into_forms_that_cancel_outside_the_span():
    # (s + t)^2 + (s - t)^2 - 2 t^2 = 2 s^2, with s inside and t outside
    s, t = numbers(1, 2, 0, 0), numbers(0, 0, 3, -1)
    first = torch.stack([s + t, s - t, t])
    second, wanted = numbers([1, 1, -2], [3, 3, -6]), torch.eye(4, dtype=torch.float64)[:2]
    assert float(weight_leakage(first, wanted)) > 0.5
    assert abs(float(consumed_leakage(first, second, numbers(1, 1), wanted))) < 1e-12


def test_consumed_leakage_is_one_where_all_lies_outside():
    first, wanted = numbers([0, 1, 2], [0, 3, 1]), numbers([1, 0, 0])
    leakage = consumed_leakage(first, draw(4, 2), draw(4, name="readout"), wanted)
    assert float(leakage) == pytest.approx(1, abs=1e-14)
