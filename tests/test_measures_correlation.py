"""Correlation of weights, worked by hand."""

import pytest
import torch

from bfc_lightning.measures.correlation import weight_correlation


def test_correlation_is_the_mean_cosine_of_the_rows():
    weight = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]], dtype=torch.float64)
    earlier = torch.tensor([[4.0, 3.0], [0.0, 7.0], [-5.0, 0.0]], dtype=torch.float64)
    assert float(weight_correlation(weight, earlier)) == pytest.approx((24 / 25 + 1 - 1) / 3)


def test_correlation_ignores_the_norm_of_each_neuron():
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factors = torch.arange(1.0, 6.0, dtype=torch.float64).unsqueeze(1)
    assert float(weight_correlation(weight, factors * weight)) == pytest.approx(1.0, abs=1e-12)
    assert float(weight_correlation(weight, torch.zeros_like(weight))) == 0.0
