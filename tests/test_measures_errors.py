"""Errors of predictions, by hand."""

import pytest

from bfc_lightning.inputs import Gaussian
from bfc_lightning.measures.errors import classification_error, normalized_mse
from bfc_lightning.seeds import generator
from bfc_lightning.targets import HierarchicalTarget
from tests.tensors import numbers


def test_normalized_mse_worked_by_hand():
    assert float(normalized_mse(numbers(1, 2, 3), numbers(1, 0, 0), 2.0)) == pytest.approx(13 / 6)


def test_normalized_mse_is_zero_for_the_target_and_one_for_the_best_constant():
    target = HierarchicalTarget(Gaussian(8), [4, 3, 2], seed=1)
    signal = target(target.inputs.sample(2**14, generator(0, "measures test")))
    assert float(normalized_mse(signal, signal, target.variance)) == 0
    constant = target.mean.expand(len(signal))
    # n = 2^14, heavy tails: the standard error of the variance is about 3 %
    assert float(normalized_mse(constant, signal, target.variance)) == pytest.approx(1, abs=0.15)


def test_classification_error_counts_zero_as_positive():
    # wrong on the second sample only
    prediction = numbers(1, -1, 0, -2)
    signal = numbers(2, 3, 0, -1e-9)
    assert float(classification_error(prediction, signal)) == 0.25
