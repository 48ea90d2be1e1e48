"""Formulas of optimizers: the steps of PyTorch's own, of many learners at once."""

from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam, AdamW

from bfc_lightning.formulas import formula_of

RATES = (1e-2, 3e-3, 0.1, 0.02)
KINDS = {
    "SGD": partial(SGD, weight_decay=0.1),
    "SGD with momentum": partial(SGD, momentum=0.9),
    "SGD with dampening": partial(SGD, momentum=0.8, dampening=0.4, weight_decay=0.02),
    "SGD of Nesterov": partial(SGD, momentum=0.7, nesterov=True),
    "Adam": partial(Adam, betas=(0.9, 0.95)),
    "Adam with decay": partial(Adam, weight_decay=0.3),
    "Adam with decoupled decay": partial(Adam, decoupled_weight_decay=True, weight_decay=0.3),
    "AdamW": partial(AdamW, eps=1e-6, weight_decay=0.02),
}


def random(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 5, generator=generator, dtype=torch.float64)


def by_pytorch(kind):
    """Parameters and state after four steps with PyTorch's plainest implementation."""
    parameter = torch.nn.Parameter(random(0))
    optimizer = kind([parameter], lr=1.0, foreach=False)
    for step, rate in enumerate(RATES, start=1):
        parameter.grad = random(step)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return parameter.detach(), optimizer.state[parameter], formula_of(optimizer)


@pytest.mark.parametrize("name", KINDS)
def test_formula_is_the_optimizer_of_pytorch(name):
    expected, expected_state, formula = by_pytorch(KINDS[name])
    values, state = random(0), [torch.zeros(3, 5, dtype=torch.float64) for _ in formula.state]
    own, own_state = values.clone(), [rows.clone() for rows in state]
    for count, rate in enumerate(RATES, start=1):
        coefficients = values.new_tensor(formula.coefficients(rate, count))
        values, state = formula.update(values, random(count), state, coefficients)
        formula.update_in_place(own, random(count), own_state, rate=rate, count=count)
    for found, rows in ((values, state), (own, own_state)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        for key, value in zip(formula.state, rows, strict=True):
            torch.testing.assert_close(value, expected_state[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_learner_that_is_not_a_number_leaves_the_others_bit_identical(name):
    formula = formula_of(KINDS[name]([torch.nn.Parameter(random(0))], lr=1.0))
    found = []
    for poison in (1.0, float("nan")):
        scale = torch.tensor([[1.0], [poison], [1.0]])
        values, state = random(0), [torch.zeros(3, 5, dtype=torch.float64) for _ in formula.state]
        for count, rate in enumerate(RATES, start=1):
            coefficients = values.new_tensor(formula.coefficients(rate, count))
            values, state = formula.update(values, scale * random(count), state, coefficients)
        found.append(values)
    assert torch.equal(found[0][::2], found[1][::2])
    assert found[1][1].isnan().all()
