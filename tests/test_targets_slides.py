"""The two examples of the slides, by hand."""

import pytest
import torch

from bfc_lightning.inputs import Gaussian
from bfc_lightning.targets import BackwardCorrection, RichRepresentation

X = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [0.5, -1.0, 2.0, 0.0, 9.0]], dtype=torch.float64)


@pytest.fixture(scope="module")
def rich():
    return RichRepresentation(Gaussian(5))


@pytest.fixture(scope="module")
def correction():
    return BackwardCorrection(Gaussian(5, mean=1.0))


def test_rich_representation_worked_by_hand(rich):
    # x = (1, 2): 1 + 4 = 5, 0.3 (1 + 16) = 5.1; x = (1/2, -1): 1/4 + 1, 0.3 (1/16 + 1)
    expected = X.new_tensor([[5.0, 5.1], [1.25, 0.31875]])
    torch.testing.assert_close(rich.level_outputs(X), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(rich(X), X.new_tensor([10.1, 1.56875]), rtol=1e-14, atol=0)
    torch.testing.assert_close(rich.features(X)[0], X.new_tensor([[1.0, 4.0], [0.25, 1.0]]))
    torch.testing.assert_close(rich.features(X)[1], X.new_tensor([[1.0, 16.0], [0.0625, 1.0]]))


def test_backward_correction_worked_by_hand(correction):
    # x = (1, 2, 3, 4): 5, 0.3 ((1 + 3)^2 + (4 + 4)^2) = 24
    # x = (1/2, -1, 2, 0): 1.25, 0.3 ((1/4 + 2)^2 + 1) = 1.81875
    expected = X.new_tensor([[5.0, 24.0], [1.25, 1.81875]])
    torch.testing.assert_close(correction.level_outputs(X), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(correction(X), X.new_tensor([29.0, 3.06875]), rtol=1e-14, atol=0)
    second = correction.preactivations(X)[1]
    torch.testing.assert_close(second, X.new_tensor([[4.0, 8.0], [2.25, 1.0]]))


def test_rich_representation_moments_worked_by_hand(rich):
    # E = 2 (1 + 0.3 * 3); Var = 2 (2 + 0.09 * 96 + 2 * 0.3 * 12), from E x^2, x^4, x^6, x^8 =
    # 1, 3, 15, 105. On 2^17 samples the standard errors are 0.016 and about 1.
    assert float(rich.mean) == pytest.approx(3.8, abs=0.08)
    assert float(rich.variance) == pytest.approx(35.68, abs=5)


def test_backward_correction_moments_worked_by_hand(correction):
    # x ~ N(1, 1) has E x^2, x^4, x^6, x^8 = 2, 10, 76, 764; with u = x_1^2 and v = x_3
    # Var u = 6, Var (u + v)^2 = 1230 - 16^2 = 974, Cov(u, (u + v)^2) = 100 - 32 = 68, so that
    # E = 2 (2 + 0.3 * 16) and Var = 2 (6 + 0.09 * 974 + 0.6 * 68). Standard errors 0.05 and 5.
    assert float(correction.mean) == pytest.approx(13.6, abs=0.25)
    assert float(correction.variance) == pytest.approx(268.92, abs=25)


@pytest.mark.parametrize("make", [RichRepresentation, BackwardCorrection])
def test_examples_are_raw_targets_with_positive_signs(make):
    target = make(Gaussian(4))
    assert target.has_positive_signs
    assert not target.normalize
    assert target.depth == 2


def test_rich_representation_in_a_random_basis_is_the_same_function_of_two_directions():
    distribution = Gaussian(6)
    turned = RichRepresentation(distribution, basis="random", seed=3)
    straight = RichRepresentation(distribution)
    directions = turned.weight(1, 0)
    assert torch.allclose(directions @ directions.T, torch.eye(2, dtype=torch.float64))
    x = distribution.sample(50, torch.Generator().manual_seed(0))
    alone = torch.zeros_like(x)
    alone[:, :2] = x @ directions.T
    assert torch.allclose(turned(x), straight(alone), atol=1e-12)
