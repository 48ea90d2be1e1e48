"""Learning-rate schedules that step with the optimizer and know how long the run is."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

_LENGTH_ARGUMENTS = ("total_steps", "T_max", "total_iters")


class OneCycle(LambdaLR):
    """Up and down once: the rate warms up along a cosine, then anneals along one to almost 0.

        rate(p) = lr h(start, 1, p/w)                for p <= w
                  lr h(1, final, q) decay^(-q)       beyond, q = (p - w)/(1 - w)
        h(a, b, q) = b + (a - b)(1 + cos(pi q))/2

    with p = step/(total_steps - 1) the progress of the run and w the warm-up fraction. Unlike
    PyTorch's `OneCycleLR` it takes its peak from the optimizer and leaves the momentum alone, so
    that it also schedules SGD without momentum.

    Source: L. N. Smith, N. Topin, "Super-convergence", arXiv 1708.07120.

    Args:
        optimizer: whose `lr` is the peak.
        total_steps: length of the cycle; left out, the run's `max_steps`.
        warmup_fraction: w, in [0, 1).
        start_factor: rate at the first step over the peak, positive.
        final_factor: rate at the last step over the peak, positive, where decay is 1.
        decay: at least 1; 10 spends more of the run at small rates, which suits noisy gradients.

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
        if total_steps is None or total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}.")
        if not 0 <= warmup_fraction < 1:
            raise ValueError(f"warmup_fraction must lie in [0, 1), got {warmup_fraction}.")
        if start_factor <= 0 or final_factor <= 0:
            raise ValueError(
                "start_factor and final_factor must be positive, "
                f"got {start_factor} and {final_factor}."
            )
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


def _factory_class(
    factory: Callable[..., LRScheduler],
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The scheduler class behind a factory and the arguments already given to it.

    jsonargparse hands over `partial(instantiator, ..., scheduler_class, **given)`.
    """
    if not isinstance(factory, functools.partial):
        return factory, {}
    classes = [part for part in (factory.func, *factory.args) if inspect.isclass(part)]
    return (classes[-1] if classes else factory), dict(factory.keywords)


def open_length(factory: Callable[..., LRScheduler]) -> str | None:
    """The argument by which a schedule is told its length, where nobody has set it.

    Args:
        factory: a scheduler class, or a partial of one, that takes the optimizer.

    Returns:
        `total_steps`, `T_max` or `total_iters`; None where the schedule has a length of its own.
    """
    maker, given = _factory_class(factory)
    if not inspect.isclass(maker):
        return None
    for name in _LENGTH_ARGUMENTS:
        if name in inspect.signature(maker).parameters and given.get(name) is None:
            return name
    return None


def make_schedule(
    factory: Callable[..., LRScheduler], optimizer: Optimizer, *, total_steps: int
) -> LRScheduler:
    """A schedule for one run of `total_steps` optimizer steps.

    Args:
        factory: a scheduler class, or a partial of one, that takes the optimizer.
        optimizer: whose rates it sets.
        total_steps: given to the schedule where its length was left open.

    Returns:
        The schedule, to be stepped after every optimizer step.

    Raises:
        ValueError: if the schedule follows a metric instead of the steps.
    """
    length = open_length(factory)
    schedule = factory(optimizer, **({length: total_steps} if length else {}))
    if isinstance(schedule, ReduceLROnPlateau):
        raise ValueError("lr_scheduler must follow the steps, got ReduceLROnPlateau.")
    return schedule
