"""The Trainer's flags: our defaults, and those that mean nothing here."""

from datetime import timedelta
from typing import Any

from jsonargparse import Namespace

from bfc_lightning.runs.folder import RunError

Interval = int | float | str | timedelta | dict[str, int]

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_steps": 4000,
    "max_epochs": -1,  # the stream has no epochs
    "val_check_interval": 0.05,
    "num_sanity_val_steps": 0,
    # So low that nearly every gradient is scaled to this norm: high powers of Gaussians make single
    # batches wild, and Adam would remember them. logs/README.md has the comparison.
    "gradient_clip_val": 0.02,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # the shards are shared out by the data module
}


def check_trainer_flags(flags: Namespace) -> None:
    """Refuses flags that mean nothing for a stream without epochs.

    Args:
        flags: the group `trainer`.

    Raises:
        RunError: if such a flag is set, or the length of the run is missing.
    """
    if flags.max_steps < 1:
        raise RunError(f"trainer.max_steps must be at least 1, got {flags.max_steps}.")
    meaningless = {
        "max_epochs": (None, -1),
        "min_epochs": (None,),
        "check_val_every_n_epoch": (None, 1),
        "overfit_batches": (0, 0.0),
        "reload_dataloaders_every_n_epochs": (0,),
    }
    for name, allowed in meaningless.items():
        if flags[name] not in allowed:
            raise RunError(
                f"trainer.{name} must be left out, got {flags[name]}: the stream has no epochs; "
                "trainer.max_steps is the length of a run, data.num_train_samples makes the "
                "training set finite."
            )
    interval = flags.val_check_interval
    if isinstance(interval, int | float) and interval <= 0:
        raise RunError(f"trainer.val_check_interval must be positive, got {interval}.")


def validation_interval(
    interval: Interval | None, *, max_steps: int, accumulate: int
) -> Interval | None:
    """Batches between validations: a fraction means a fraction of the run.

    Args:
        interval: as the user gave it: batches, a fraction, or a time.
        max_steps: optimiser steps of the run.
        accumulate: batches of an optimiser step.

    Returns:
        Batches, or the time unchanged.
    """
    if isinstance(interval, float):
        return max(1, round(interval * max_steps * accumulate))
    return interval
