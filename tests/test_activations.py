"""Activations."""

import re

import pytest
import torch

from bfc_lightning.activations import Quadratic, TruncatedQuadratic


def test_quadratic_squares():
    z = torch.tensor([[-3.0, 0.0], [0.5, 2.0]])
    assert torch.equal(Quadratic()(z), torch.tensor([[9.0, 0.0], [0.25, 4.0]]))


def test_truncated_quadratic_is_the_square_inside():
    z = torch.linspace(-4, 4, 101, dtype=torch.float64)
    torch.testing.assert_close(TruncatedQuadratic(4.0)(z), z**2, rtol=1e-15, atol=0)


def test_truncated_quadratic_outside_worked_by_hand():
    # B (2|z| - B) with B = 2: z = 3 gives 2 (6 - 2) = 8, z = -5 gives 2 (10 - 2) = 16
    z = torch.tensor([3.0, -5.0, 2.0, -2.0])
    assert TruncatedQuadratic(2.0)(z).tolist() == [8.0, 16.0, 4.0, 4.0]


@pytest.mark.parametrize("threshold", [0.5, 4.0])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_truncated_quadratic_joins_with_value_and_slope(threshold, sign):
    at = sign * threshold
    z = torch.tensor([at * (1 - 1e-9), at, at * (1 + 1e-9)], dtype=torch.float64)
    z.requires_grad_(True)
    values = TruncatedQuadratic(threshold)(z)
    (slopes,) = torch.autograd.grad(values.sum(), z)
    torch.testing.assert_close(values, torch.full_like(values, threshold**2), rtol=1e-8, atol=0)
    torch.testing.assert_close(slopes, torch.full_like(slopes, 2 * at), rtol=1e-8, atol=0)


def test_truncated_quadratic_has_slope_at_most_twice_its_threshold():
    z = torch.linspace(-20, 20, 401, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(TruncatedQuadratic(3.0)(z).sum(), z)
    torch.testing.assert_close(slopes, 2 * z.detach().clamp(-3, 3), rtol=1e-14, atol=1e-14)


def test_truncated_quadratic_prints_its_threshold():
    assert str(TruncatedQuadratic(2.5)) == "TruncatedQuadratic(threshold=2.5)"


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_threshold_must_be_positive(threshold):
    with pytest.raises(
        ValueError, match=re.escape(f"threshold must be positive, got {threshold}.")
    ):
        TruncatedQuadratic(threshold)
