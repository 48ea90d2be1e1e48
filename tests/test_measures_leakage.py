"""What leaks through the weights of layer 1, and what of it layer 2 consumes."""

import pytest
import reference
import torch

from bfc_lightning.measures.features import consumed_leakage, weight_leakage
from bfc_lightning.seeds import generator


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def draw(*shape, name="draw"):
    return torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)


# Leakage of weights


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_weight_leakage_is_the_slow_one(rank):
    wanted = draw(4, rank, name="left") @ draw(rank, 9)
    weight = draw(6, 9, name="V")
    expected = reference.weight_leakage(weight.numpy(), wanted.numpy())
    assert float(weight_leakage(weight, wanted)) == pytest.approx(expected, abs=1e-12)


def test_weight_leakage_worked_by_hand():
    # rows (3, 4, 0) and (0, 0, 2) on the span of (1, 0, 0) and (0, 0, 5): 9 + 4 of 29 stay
    wanted = numbers([1, 0, 0], [0, 0, 5])
    leakage = weight_leakage(numbers([3, 4, 0], [0, 0, 2]), wanted)
    assert float(leakage) == pytest.approx(16 / 29, rel=1e-14)


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
