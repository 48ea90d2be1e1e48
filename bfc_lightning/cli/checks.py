"""Settings that only the built objects can show to be wrong, before anything is written."""

from collections.abc import Sequence
from typing import TypeVar

from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    OnExceptionCheckpoint,
)
from torch.optim import LBFGS

from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.objectives import RegressionObjective
from bfc_lightning.runs.folder import RunError
from bfc_lightning.schemes import Phase, Scheme

T = TypeVar("T")


def as_list(value: T | list[T] | None) -> list[T]:
    """One value, several or none, as a new list."""
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def check_callbacks(callbacks: Sequence[Callback], metrics: Sequence[str]) -> None:
    """Refuses callbacks that wait for an unknown metric, or that resume without --resume."""
    for callback in callbacks:
        if isinstance(callback, OnExceptionCheckpoint):
            raise RunError(
                "trainer.callbacks: OnExceptionCheckpoint would resume without being asked; every "
                "run saves its state, and --resume auto continues it."
            )
        if isinstance(callback, GradientAccumulationScheduler):
            raise RunError(
                "trainer.callbacks: GradientAccumulationScheduler cannot be resumed; use "
                "trainer.accumulate_grad_batches."
            )
        if isinstance(callback, EarlyStopping | ModelCheckpoint):
            monitor = callback.monitor
            if monitor not in (None, *metrics):
                names = " or ".join(metrics)
                raise RunError(f"trainer.callbacks: monitor must be {names}, got {monitor!r}.")


def check_control(model: HierarchicalLearner, scheme: Scheme, phases: Sequence[Phase]) -> None:
    """Refuses a control of the scheme that the learner or target cannot have."""
    if scheme.control is None:
        return
    if not isinstance(model.objective, RegressionObjective):
        raise RunError("scheme.control needs regression, got labels that are classes.")
    if model.network.is_linearized:
        raise RunError("scheme.control needs features that move, got model.linearized: true.")
    levels = len(model.objective.target.level_scales)
    if levels < 2 and any(phase.taught is not None for phase in phases):
        raise RunError(f"scheme.control needs a target of at least 2 levels, got {levels}.")


def check_optimizer(model: HierarchicalLearner, scheme: Scheme, phase: Phase) -> None:
    """Lets optimizer and schedule refuse their arguments."""
    try:
        built = model.build_optimizer(phase.length)
    except (ValueError, TypeError) as refused:
        raise RunError(f"model.optimizer or model.lr_scheduler: {refused}") from refused
    optimizer = built["optimizer"] if isinstance(built, dict) else built
    if scheme.freeze and isinstance(optimizer, LBFGS):
        raise RunError(
            "scheme.freeze cannot be used with LBFGS, which updates all layers together, got "
            f"{scheme.freeze}."
        )
