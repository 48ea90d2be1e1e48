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


def batch_losses(trainer: Trainer, outputs: STEP_OUTPUT) -> Tensor:
    """The loss of a batch, or those of a burst; Lightning divides one by the batches of a step.

    Args:
        trainer: the trainer.
        outputs: of the training step.

    Returns:
        One number a batch, on the device.
    """
    assert isinstance(outputs, Mapping)
    losses: Tensor = outputs["loss"].detach()
    return losses.reshape(-1) * trainer.accumulate_grad_batches


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

    The losses of an interval stay on the device and are read once: reading one at every step would
    cost about as much as the step. A mean that is not finite ends the run.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._logged_step = 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Keeps the losses; at the interval, writes their mean.

        Raises:
            Diverged: if the mean loss of an interval is not finite.
        """
        self._losses.append(batch_losses(trainer, outputs))
        step = trainer.global_step
        if step == self._logged_step or step % log_interval(trainer):
            return
        self._logged_step = step
        # The same mean, bit for bit, however the steps were cut into bursts.
        device = self._losses[-1].device  # those of a checkpoint lie on the CPU
        losses = torch.cat([part.to(device) for part in self._losses])
        mean = float(trainer.strategy.reduce(losses.mean(), reduce_op="mean"))
        self._losses = []
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
        """The losses of the interval under way."""
        losses = torch.cat(self._losses) if self._losses else None
        return {"losses": losses, "logged_step": self._logged_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them; checkpoints of formats 1 and 2 have their sum.

        Args:
            state_dict: from `state_dict`.
        """
        losses = state_dict.get("losses")
        if losses is None and state_dict.get("total") is not None:
            count = state_dict["count"]
            losses = (state_dict["total"] / count).reshape(1).expand(count)
        self._losses = [] if losses is None else [losses]
        self._logged_step = state_dict["logged_step"]
