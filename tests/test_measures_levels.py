"""Measures of levels, by hand and against slow versions."""

import numpy as np
import pytest
import torch
from reference import level_components as slow_components
from reference import level_residuals as slow_residuals
from reference import orthogonal_levels as slow_orthogonal

from bfc_lightning.inputs import Gaussian
from bfc_lightning.measures.errors import normalized_mse
from bfc_lightning.measures.levels import (
    level_components,
    level_residuals,
    level_shares,
    named_residuals,
    orthogonal_levels,
    truncation_errors,
    varying,
)
from bfc_lightning.seeds import generator
from bfc_lightning.targets import HierarchicalTarget
from tests.tensors import numbers


@pytest.fixture(scope="module")
def target():
    return HierarchicalTarget(Gaussian(8), [4, 3, 2], seed=1)


@pytest.fixture(scope="module")
def levels(target):
    """Level outputs on 2^14 points."""
    return target.level_outputs(target.inputs.sample(2**14, generator(0, "measures test")))


# Levels


def test_level_components_worked_by_hand():
    # G = (3, 1, 2), centered (1, -1, 0); <G, h_1> = -1 of 2, <G, h_2> = 1.5 of 1.5
    drawn = numbers([0, 3], [1, 0], [2, 0])
    expected = numbers([0.5, 0.5], [0, -1], [-0.5, 0.5])
    torch.testing.assert_close(level_components(drawn), expected, rtol=1e-14, atol=1e-14)
    # energies 1/2 and 3/2 of 2
    torch.testing.assert_close(level_shares(drawn), numbers(0.25, 0.75), rtol=1e-14, atol=0)


def test_levels_are_made_orthogonal_as_by_least_squares(levels):
    fast = orthogonal_levels(levels).numpy()
    np.testing.assert_allclose(fast, slow_orthogonal(levels.numpy()), rtol=1e-9, atol=1e-9)
    gram = fast.T @ fast / len(fast)
    assert abs(gram - np.diag(np.diag(gram))).max() < 1e-13
    assert abs(fast.mean(axis=0)).max() < 1e-13


def test_components_are_the_slow_ones_and_sum_to_the_centered_target(levels):
    fast = level_components(levels)
    np.testing.assert_allclose(fast, slow_components(levels.numpy()), rtol=1e-9, atol=1e-9)
    signal = levels.sum(dim=1)
    centered = signal - signal.mean()
    torch.testing.assert_close(fast.sum(dim=1), centered, rtol=1e-12, atol=1e-12)


def test_residuals_are_the_slow_ones(levels):
    noise = torch.randn(len(levels), generator=generator(1, "noise"), dtype=torch.float64)
    prediction = levels @ numbers(0.9, 0.3, -0.5) + noise
    fast = level_residuals(prediction, levels).numpy()
    np.testing.assert_allclose(fast, slow_residuals(prediction.numpy(), levels.numpy()), rtol=1e-9)


def test_learner_of_some_components_misses_exactly_the_others(levels):
    components = level_components(levels)
    prediction = components[:, 0] + 0.5 * components[:, 2]
    residuals = level_residuals(prediction, levels)
    torch.testing.assert_close(residuals, numbers(0, 1, 0.25), rtol=1e-10, atol=1e-15)


def test_last_share_is_the_error_of_the_best_learner_without_the_last_level(levels):
    signal = levels.sum(dim=1)
    variance = float(signal.var(correction=0))
    known = torch.cat([torch.ones_like(levels[:, :1]), levels[:, :-1]], dim=1)
    best = known @ torch.linalg.lstsq(known, signal[:, None]).solution[:, 0]
    expected = float(normalized_mse(best, signal, variance))
    assert float(level_shares(levels)[-1]) == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(
        level_residuals(best, levels), numbers(0, 0, 1), rtol=1e-9, atol=1e-12
    )


def test_level_that_lower_ones_explain_has_no_component():
    first = torch.randn(100, generator=generator(0, "first"), dtype=torch.float64)
    drawn = torch.stack([first, 2 * first + 1, first**2], dim=1)
    components = level_components(drawn)
    assert not components[:, 1].any()
    assert float(components[:, 2].norm()) > 1
    residuals = level_residuals(torch.zeros_like(first), drawn)
    torch.testing.assert_close(residuals, numbers(1, 0, 1), rtol=1e-10, atol=0)


def test_constant_level_has_no_residual():
    first = torch.randn(100, generator=generator(0, "first"), dtype=torch.float64)
    drawn = torch.stack([torch.zeros_like(first), first, torch.full_like(first, 3.0)], dim=1)
    assert varying(drawn) == [False, True, False]
    assert named_residuals(0.5 * first, drawn) == {"levels/residual_2": pytest.approx(0.25)}
    torch.testing.assert_close(level_shares(drawn), numbers(0, 1, 0), rtol=1e-12, atol=0)


# Truncation


def test_truncation_centres_every_level():
    # scores (2, 1, -1.5, -1.5): level 0 alone is wrong on the second; uncentered, on two
    drawn = numbers([3, -1], [-1, 2], [-1, -0.5], [-1, -0.5])
    assert truncation_errors(drawn).tolist() == [0.25, 0.0]
    assert truncation_errors(drawn + numbers(10, -10)).tolist() == [0.25, 0.0]
