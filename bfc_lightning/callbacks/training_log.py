"""Logs training: losses and learning rates at an interval, scores after each validation."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from bfc_lightning.callbacks.exceptions import Diverged
from bfc_lightning.callbacks.loggers import log_rows
from bfc_lightning.private import log_interval
from bfc_lightning.run_module import RunModule


def batch_losses(trainer: Trainer, outputs: STEP_OUTPUT) -> Tensor:
    """The loss of each batch of a training step, (batches,) or (batches, replicas)."""
    assert isinstance(outputs, Mapping)
    losses: Tensor = outputs["loss"].detach()  # Lightning has divided it by the batches of a step
    return losses.reshape(-1, *losses.shape[1:]) * trainer.accumulate_grad_batches


def stop_if_diverged(
    module: LightningModule, values: Sequence[float], *, step: int, quantity: str
) -> None:
    """Marks replicas whose value is not finite; ends the run if no learner is left."""
    assert isinstance(module, RunModule)
    if module.mark_diverged(values, step):
        raise Diverged(step, quantity if len(values) == 1 else f"{quantity} of every replica")


class TrainingLog(Callback):
    """Logs `train/loss` and `train/learning_rate` at the Trainer's interval, scores at validation.

    Losses stay on the device until the interval is over: reading one at every step would cost about
    as much as the step. A mean that is not finite ends the run or marks the replica.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._logged_step = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, *_: object
    ) -> None:
        """Keeps the losses; at the interval, logs their mean."""
        self._losses.append(batch_losses(trainer, outputs))
        step = trainer.global_step
        if step == self._logged_step or step % log_interval(trainer):
            return
        self._logged_step = step
        device = self._losses[-1].device  # those of a checkpoint are on the CPU
        losses = torch.cat([part.to(device) for part in self._losses])
        mean = trainer.strategy.reduce(losses.mean(dim=0), reduce_op="mean")
        assert isinstance(mean, Tensor)
        means = mean.reshape(-1).tolist()
        self._losses = []
        stop_if_diverged(pl_module, means, step=step, quantity="train/loss")
        rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in trainer.optimizers]
        rows = zip(means, rates, strict=True)
        log_rows(trainer, [{"train/loss": m, "train/learning_rate": r} for m, r in rows])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the scores of a validation within training."""
        assert isinstance(pl_module, RunModule)
        log_rows(trainer, pl_module.scores)

    def state_dict(self) -> dict[str, Any]:
        """The losses of the current interval."""
        losses = torch.cat(self._losses) if self._losses else None
        return {"losses": losses, "logged_step": self._logged_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        losses = state_dict["losses"]
        self._losses = [] if losses is None else [losses]
        self._logged_step = state_dict["logged_step"]
