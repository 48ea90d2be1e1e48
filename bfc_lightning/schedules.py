"""Learning-rate schedules that are stepped after every training step of a run of known length."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from bfc_lightning.types import as_integer, check_positive


class OneCycle(LambdaLR):
    """One-cycle schedule: a warm-up along a cosine, followed by annealing along a cosine.

        rate(p) = lr h(start, 1, p/w)                for p <= w
                  lr h(1, final, q) decay^(-q)       otherwise, q = (p - w)/(1 - w)
        h(a, b, q) = b + (a - b)(1 + cos(pi q))/2

    p = step/(total_steps - 1) is the progress of the run. Unlike PyTorch's `OneCycleLR`, this
    schedule takes the maximum from the optimizer and does not change the momentum, so it supports
    SGD without momentum.

    Source: L. N. Smith, N. Topin, "Super-convergence", arXiv 1708.07120.

    Args:
        optimizer: its `lr` is the maximum learning rate.
        total_steps: length of the cycle, the run's `max_steps` by default.
        warmup_fraction: w, the fraction of the warm-up, in [0, 1).
        start_factor: first learning rate as a fraction of the maximum, positive.
        final_factor: last learning rate as a fraction of the maximum if decay is 1, positive.
        decay: at least 1. Use 10 for more steps at small rates, which suits noisy gradients.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None = None,
        warmup_fraction: float = 0.05,
        start_factor: float = 0.04,
        final_factor: float = 4e-6,
        decay: float = 1.0,
    ) -> None:
        total_steps = None if total_steps is None else as_integer(total_steps, "total_steps")
        if total_steps is None or total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}.")
        if not 0 <= warmup_fraction < 1:
            raise ValueError(f"warmup_fraction must lie in [0, 1), got {warmup_fraction}.")
        check_positive(start_factor=start_factor, final_factor=final_factor)
        if decay < 1:
            raise ValueError(f"decay must be at least 1, got {decay}.")
        self.total_steps = total_steps

        def multiplier(step: int) -> float:
            progress = min(1.0, step / max(1, total_steps - 1))
            if progress < warmup_fraction:
                return _cosine(start_factor, 1.0, progress / warmup_fraction)
            done = (progress - warmup_fraction) / (1 - warmup_fraction)
            return _cosine(1.0, final_factor, done) * float(decay**-done)

        super().__init__(optimizer, multiplier)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def open_length(factory: Callable[..., LRScheduler]) -> str | None:
    """Returns `total_steps` if a schedule has this argument and it is not set, or None.

    PyTorch requires the length of other schedules, or sets it: `T_max`, and 5 for `total_iters`.

    Args:
        factory: a scheduler class or a partial of one, to be called with the optimizer. One made by
            jsonargparse is `partial(instantiator, ..., scheduler_class, **given)`.
    """
    parts: list[Any] = [factory]
    given: dict[str, Any] = {}
    if isinstance(factory, functools.partial):
        parts, given = [factory.func, *factory.args], factory.keywords
    name = "total_steps"
    makers = [part for part in parts if inspect.isclass(part)][-1:]
    has_length = any(name in inspect.signature(maker).parameters for maker in makers)
    return name if has_length and given.get(name) is None else None


def make_schedule(
    factory: Callable[..., LRScheduler], optimizer: Optimizer, *, total_steps: int
) -> LRScheduler:
    """Creates a schedule whose `step` is called after every training step.

    Args:
        factory: a scheduler class or a partial of one. It is called with the optimizer.
        optimizer: optimizer whose learning rates are scheduled.
        total_steps: length of a schedule whose `total_steps` is not set.

    Raises:
        ValueError: if the schedule depends on a metric.
    """
    argument = open_length(factory)
    schedule = factory(optimizer, **({argument: total_steps} if argument else {}))
    if isinstance(schedule, ReduceLROnPlateau):
        raise ValueError("lr_scheduler must follow the steps, got ReduceLROnPlateau.")
    return schedule


def advance(schedule: LRScheduler, num_steps: int) -> list[float]:
    """Steps a schedule several times, at once if it is a function of the step; returns the rates.

    Args:
        schedule: the schedule of an optimizer with one group of parameters.
        num_steps: number of steps, at least 1.
    """
    optimizer = schedule.optimizer
    rates = [float(optimizer.param_groups[0]["lr"])]
    if isinstance(schedule, LambdaLR) and type(schedule).get_lr is LambdaLR.get_lr:
        base, factor = schedule.base_lrs[0], schedule.lr_lambdas[0]
        later = range(schedule.last_epoch + 1, schedule.last_epoch + num_steps)
        rates += [float(base) * factor(step) for step in later]
        schedule.last_epoch += num_steps - 1
        schedule._step_count += num_steps - 1  # in checkpoints, which must not depend on the chunk
        schedule.step()
        return rates
    for _ in range(num_steps):
        schedule.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates[:-1]
