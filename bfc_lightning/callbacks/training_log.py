"""Writes what happens in training: losses and rates at an interval, scores after validation."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from bfc_lightning.callbacks.replica_metrics import ReplicaMetricsFile
from bfc_lightning.callbacks.stops import Diverged
from bfc_lightning.medians import summarized
from bfc_lightning.replicas import ReplicatedLearner


def log_metrics(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Writes numbers to every logger under the count of optimizer steps.

    Args:
        trainer: the trainer.
        metrics: values by key.
    """
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=trainer.global_step)


def log_each(trainer: Trainer, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes numbers of every learner: all of them to the file, median and range to the rest.

    The range is over the replicas that have not diverged.

    Args:
        trainer: the trainer.
        rows: one a learner, values by key.
    """
    module = trainer.lightning_module
    if not isinstance(module, ReplicatedLearner):
        log_metrics(trainer, rows[0])
        return
    kept = summarized(module.without_diverged(rows))
    for logger in trainer.loggers:
        if isinstance(logger, ReplicaMetricsFile):
            logger.log_rows(rows, step=trainer.global_step)
        else:
            logger.log_metrics(kept, step=trainer.global_step)


def batch_losses(trainer: Trainer, outputs: STEP_OUTPUT) -> Tensor:
    """The loss of a batch, or those of a chunk; Lightning divides one by the batches of a step.

    Args:
        trainer: the trainer.
        outputs: of the training step.

    Returns:
        One number a batch, or a row of one number a learner; on the device.
    """
    assert isinstance(outputs, Mapping)
    losses: Tensor = outputs["loss"].detach()
    return _at_least_one(losses) * trainer.accumulate_grad_batches


def log_interval(trainer: Trainer) -> int:
    """`trainer.log_every_n_steps`, which Lightning sets without declaring it.

    Args:
        trainer: the trainer.

    Returns:
        Optimizer steps between two rows.
    """
    return int(trainer.log_every_n_steps)  # type: ignore[attr-defined]


def _at_least_one(numbers: Tensor) -> Tensor:
    return numbers if numbers.ndim else numbers.reshape(1)


def stop_if_diverged(
    module: LightningModule, values: Sequence[float], *, step: int, what: str
) -> None:
    """Marks replicas that diverged; ends the run where no learner is left.

    Args:
        module: that is trained.
        values: one a learner.
        step: optimizer steps taken so far.
        what: the values are.

    Raises:
        Diverged: if no learner is left.
    """
    if isinstance(module, ReplicatedLearner):
        if module.mark_diverged(values, step):
            raise Diverged(step, f"{what} of every replica")
    elif not math.isfinite(values[0]):
        raise Diverged(step, what)


class TrainingLog(Callback):
    """Logs `train/loss` and `train/learning_rate` at the Trainer's interval, scores at validation.

    The losses of an interval stay on the device and are read once: reading one at every step would
    cost about as much as the step. A mean that is not finite ends the run, or marks the replica.
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
        """Keeps the losses; at the interval, writes their mean, or stops where it is not finite."""
        self._losses.append(batch_losses(trainer, outputs))
        step = trainer.global_step
        if step == self._logged_step or step % log_interval(trainer):
            return
        self._logged_step = step
        # The same mean, bit for bit, however the steps were cut into chunks.
        device = self._losses[-1].device  # those of a checkpoint lie on the CPU
        losses = torch.cat([part.to(device) for part in self._losses])
        mean = trainer.strategy.reduce(losses.mean(dim=0), reduce_op="mean")
        assert isinstance(mean, Tensor)
        means = _at_least_one(mean).tolist()
        self._losses = []
        stop_if_diverged(pl_module, means, step=step, what="train/loss")
        rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in trainer.optimizers]
        log_each(
            trainer,
            [
                {"train/loss": mean, "train/learning_rate": rate}
                for mean, rate in zip(means, rates, strict=True)
            ],
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the scores of a validation within training."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if isinstance(pl_module, ReplicatedLearner):
            log_each(trainer, pl_module.scores)
        else:
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
