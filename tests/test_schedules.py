"""Learning-rate schedules."""

from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, StepLR

from bfc_lightning.schedules import OneCycle, advance, make_schedule, open_length


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)


def rates(schedule, num_steps):
    """The rate that each of the first `num_steps` optimizer steps uses."""
    used = []
    for _ in range(num_steps):
        used.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return used


def instantiate(scheduler_class, sgd, **given):
    """What jsonargparse puts between a user's `class_path` and the class."""
    return scheduler_class(sgd, **given)


# One cycle


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # 21 steps, p = step/20: start, half-way up (p = 0.15), peak, half-way down (0.65), end
        ({"total_steps": 21, "warmup_fraction": 0.3}, {0: 0.02, 3: 0.26, 6: 0.5, 20: 2e-6}),
        ({"total_steps": 21, "warmup_fraction": 0.3}, {13: 0.5 * (1 + 4e-6) / 2}),
        (
            {"total_steps": 5, "warmup_fraction": 0.5, "start_factor": 0.5, "final_factor": 0.2},
            {0: 0.25, 1: 0.375, 2: 0.5, 3: 0.3, 4: 0.1},
        ),
        ({"total_steps": 3, "warmup_fraction": 0.0, "final_factor": 0.2}, {0: 0.5, 1: 0.3, 2: 0.1}),
        ({"total_steps": 1}, {0: 0.02}),
    ],
)
def test_one_cycle_worked_by_hand(arguments, expected):
    used = rates(OneCycle(optimizer(), **arguments), arguments["total_steps"])
    assert {step: used[step] for step in expected} == pytest.approx(expected, rel=1e-9)


def test_one_cycle_scales_every_group_by_its_own_peak():
    groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.1, 1.0)]
    schedule = OneCycle(torch.optim.SGD(groups), total_steps=5)
    first = [group["lr"] for group in schedule.optimizer.param_groups]
    assert first == pytest.approx([0.004, 0.04])


def test_steps_at_once_have_the_rates_and_the_state_of_single_steps():
    together, alone = (OneCycle(optimizer(), total_steps=9) for _ in range(2))
    together.optimizer.step()
    assert advance(together, 5) == pytest.approx(rates(alone, 5), rel=1e-12)
    assert together.state_dict() == alone.state_dict()


# Factories


@pytest.mark.parametrize(
    ("factory", "name"),
    [
        (OneCycle, "total_steps"),
        (OneCycleLR, "total_steps"),
        (LinearLR, None),
        (partial(OneCycle, total_steps=7), None),
        (partial(OneCycle, total_steps=None), "total_steps"),
        (partial(instantiate, OneCycle, warmup_fraction=0.1), "total_steps"),
        (partial(instantiate, CosineAnnealingLR, T_max=7), None),
        (lambda sgd: StepLR(sgd, 3), None),
    ],
)
def test_open_length_is_the_argument_that_nobody_has_set(factory, name):
    assert open_length(factory) == name


def test_one_cycle_gets_the_length_of_the_run():
    factory = partial(instantiate, OneCycle, warmup_fraction=0.3, start_factor=0.1)
    used = rates(make_schedule(factory, optimizer(), total_steps=11), 11)
    assert used[0] == pytest.approx(0.05, rel=1e-12)
    assert used[3] == pytest.approx(0.5, rel=1e-12)
    assert used[-1] == pytest.approx(0.5 * 4e-6, rel=1e-9)


def test_schedule_with_a_length_of_its_own_is_left_alone():
    factory = partial(StepLR, step_size=2, gamma=0.1)
    used = rates(make_schedule(factory, optimizer(), total_steps=1000), 5)
    assert used == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005], rel=1e-12)


def test_decay_multiplies_the_annealing_by_a_falling_exponential():
    plain, decayed = (
        rates(OneCycle(optimizer(), total_steps=11, warmup_fraction=0.0, decay=decay), 11)
        for decay in (1.0, 10.0)
    )
    assert decayed == pytest.approx([rate * 10 ** (-n / 10) for n, rate in enumerate(plain)])
