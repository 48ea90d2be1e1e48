"""The conversion of integer arguments."""

import re

import numpy as np
import pytest
import torch

from bfc_lightning.types import as_integer

WRONG = [1.0, np.float64(2.0), "3", True, np.bool_(True), None, [1], np.array([1])]


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_integers_of_every_type_become_ints(value):
    assert as_integer(value, "step") == 3
    assert type(as_integer(value, "step")) is int


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_other_values_are_rejected_by_name(value):
    with pytest.raises(ValueError, match=re.escape(f"step must be an integer, got {value!r}.")):
        as_integer(value, "step")


def test_integers_have_a_least_value():
    assert as_integer(1, "step", least=1) == 1
    with pytest.raises(ValueError, match=r"step must be at least 1, got 0\."):
        as_integer(np.int64(0), "step", least=1)
