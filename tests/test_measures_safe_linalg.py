"""Arithmetic at its edges: zero sums, constant columns, singular matrices."""

import math

import pytest
import torch

from bfc_lightning.measures.safe_linalg import inverse_std, ratio, whitening
from tests.tensors import draw, numbers


def test_ratio_is_zero_where_the_denominator_is_and_nan_where_it_is_unknown():
    result = ratio(numbers(6, 5, 0, 1), numbers(4, 0, 0, math.nan))
    assert result[:3].tolist() == [1.5, 0, 0]
    assert result[3].isnan()


def test_inverse_std_worked_by_hand():
    # 1e-15 of the mean is rounding, 1e-9 of it is not
    result = inverse_std(numbers(0, 7, 1e3, 1e3, 0), numbers(4, 0, 1e-24, 1e-12, 1e-40))
    torch.testing.assert_close(result, numbers(0.5, 0, 0, 1e6, 1e20), rtol=1e-14, atol=0)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_whitened_sample_has_as_many_uncorrelated_columns_as_the_rank(scale):
    sample = draw(500, 3) @ draw(3, 6, name="mixing") + 2
    sample = torch.cat([scale * sample, torch.full_like(sample[:, :1], 0.3)], dim=1)
    mean = sample.mean(dim=0)
    root = whitening((sample - mean).T @ (sample - mean) / 500, mean)
    white = (sample - mean) @ root
    covariance = white.T @ white / 500
    expected = torch.diag(numbers(0, 0, 0, 0, 1, 1, 1))
    torch.testing.assert_close(covariance, expected, rtol=1e-9, atol=1e-9)
    assert (root != 0).any(dim=0).tolist() == [False] * 4 + [True] * 3
