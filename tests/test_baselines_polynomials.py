"""Polynomials against sums that are written out."""

import numpy as np
import pytest
import torch

from bfc_lightning.baselines.polynomials import Polynomial, fit_polynomial
from bfc_lightning.baselines.readout import fit_standardized
from bfc_lightning.measures.functions import monomials, num_monomials
from tests import baseline_tasks as slow
from tests.tensors import draw


@pytest.mark.parametrize(("k", "degree"), [(1, 4), (3, 1), (4, 3), (3, 0)])
def test_monomials_equal_the_products_one_by_one(k, degree):
    z = draw(5, k)
    columns = monomials(z, degree).numpy()
    assert columns.shape == (5, num_monomials(k, degree))
    np.testing.assert_allclose(columns, slow.monomials(z.numpy(), degree), rtol=1e-14)


@pytest.mark.parametrize("ridge", [1e-6, 0.1])
def test_ridge_equals_centered_and_standardized_least_squares(ridge):
    z, y = draw(60, 3), draw(60, seed=1) + 5
    fitted = fit_polynomial(z, y, degree=3, ridge=ridge)
    expected = slow.polynomial_ridge(z.numpy(), y.numpy(), degree=3, ridge=ridge)
    np.testing.assert_allclose(fitted.coefficients, expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(
        fitted(z), slow.monomials(z.numpy(), 3) @ expected, rtol=1e-10, atol=1e-10
    )


def test_gradient_equals_finite_differences_also_without_gradients():
    z, coefficients = draw(4, 3), draw(num_monomials(3, 4), seed=1)
    p, step = Polynomial(4, coefficients), 1e-6
    with torch.no_grad():
        slopes = p.gradient(z)
    for k in range(3):
        shift = step * torch.eye(3, dtype=torch.float64)[k]
        difference = (p(z + shift) - p(z - shift)) / (2 * step)
        torch.testing.assert_close(slopes[:, k], difference, rtol=1e-6, atol=1e-7)


def test_constant_column_has_no_part_and_does_no_harm():
    rows, y = draw(30, 2), draw(30, seed=1)
    columns = torch.cat([torch.ones(30, 1, dtype=torch.float64), rows], dim=1)
    padded = torch.cat([columns, torch.zeros(30, 1, dtype=torch.float64)], dim=1)
    solution = fit_standardized(torch.clone, padded, y, ridge=0.1)
    torch.testing.assert_close(solution[:3], fit_standardized(torch.clone, columns, y, ridge=0.1))
    assert solution[3] == 0
