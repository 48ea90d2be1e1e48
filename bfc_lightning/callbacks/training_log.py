"""Writes what happens in training: losses and rates at an interval, scores after validation."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from bfc_lightning.callbacks.stops import Diverged


def log_metrics(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Writes numbers to every logger under the count of optimiser steps.

    Args:
        trainer: the trainer.
        metrics: values by key.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=trainer.global_step)


def batch_loss(trainer: Trainer, outputs: STEP_OUTPUT) -> Tensor:
    """The loss of a batch, or the mean of a burst; Lightning divides it by the batches of a step.

    Args:
        trainer: the trainer.
        outputs: of the training step.

    Returns:
        A scalar on the device.
    """
    assert isinstance(outputs, Mapping)
    loss: Tensor = outputs["loss"].detach()
    return loss * trainer.accumulate_grad_batches


def log_interval(trainer: Trainer) -> int:
    """`trainer.log_every_n_steps`, which Lightning sets without declaring it.

    Args:
        trainer: the trainer.

    Returns:
        Optimiser steps between two rows.
    """
    return int(trainer.log_every_n_steps)  # type: ignore[attr-defined]


class TrainingLog(Callback):
    """Logs `train/loss` and `train/learning_rate` at the Trainer's interval, scores at validation.

    The losses of an interval are summed on the device and read once: reading one at every step
    would cost about as much as the step. A mean that is not finite ends the run.
    """

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count = 0
        self._logged_step = 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Adds a loss; at the interval, writes the mean.

        Raises:
            Diverged: if the mean loss of an interval is not finite.
        """
        assert isinstance(outputs, Mapping)
        steps = int(outputs.get("steps", 1))
        loss = batch_loss(trainer, outputs) * steps
        self._total = loss if self._total is None else self._total + loss
        self._count += steps
        step = trainer.global_step
        if step == self._logged_step or step % log_interval(trainer):
            return
        self._logged_step = step
        mean = float(trainer.strategy.reduce(self._total / self._count, reduce_op="mean"))
        self._total, self._count = None, 0
        if not math.isfinite(mean):
            raise Diverged(step, "train/loss")
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        log_metrics(trainer, {"train/loss": mean, "train/learning_rate": float(rate)})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the scores of a validation within training."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            scores = {k: float(v) for k, v in trainer.callback_metrics.items() if "val/" in k}
            log_metrics(trainer, scores)

    def state_dict(self) -> dict[str, Any]:
        """The sum of the interval under way."""
        return {"total": self._total, "count": self._count, "logged_step": self._logged_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the sum.

        Args:
            state_dict: from `state_dict`.
        """
        total = state_dict["total"]
        self._total = torch.as_tensor(total) if total is not None else None
        self._count = state_dict["count"]
        self._logged_step = state_dict["logged_step"]
