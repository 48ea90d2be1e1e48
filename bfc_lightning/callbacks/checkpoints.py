"""`last.ckpt` and `best.ckpt`: written whole, under stable names, after every validation."""

import math
import os
import shutil
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from bfc_lightning.callbacks.environment import environment
from bfc_lightning.callbacks.stops import Diverged
from bfc_lightning.callbacks.training_log import stop_if_diverged
from bfc_lightning.replicas import largest_weight, learners_of

FORMAT_VERSION = 3
RECORD_KEY = "bfc_lightning"


class Checkpoints(Checkpoint):
    """Saves the state of the run after every validation, and keeps the best one.

    A checkpoint is written beside its place and renamed, so that a run that is killed leaves the
    one before. A run whose score is not finite is stopped before it can overwrite a good one.

    Args:
        folder: where `last.ckpt` and `best.ckpt` live.
        monitor: the metric of which the smallest value is best.
        record: what else belongs to the run, kept in every checkpoint: plain data only.
    """

    def __init__(self, folder: Path, *, monitor: str, record: dict[str, Any]) -> None:
        self.folder = folder
        self.monitor = monitor
        self.record = record
        self.best_score = math.inf
        self.saved_step = -1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves `last.ckpt`, and `best.ckpt` where the score is the best so far.

        Raises:
            Diverged: if the score is not finite.
        """
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        score = float(trainer.callback_metrics[self.monitor])
        if not math.isfinite(score):
            raise Diverged(trainer.global_step, self.monitor)
        is_best = score < self.best_score
        self.best_score = min(score, self.best_score)
        self.save(trainer, is_best=is_best)

    def save(self, trainer: Trainer, *, is_best: bool = False) -> None:
        """Saves the state as it is now; every process must call it.

        A weight that is not finite ends the run instead: a classifier of NaN has a finite error.

        Args:
            trainer: the trainer.
            is_best: whether `best.ckpt` becomes a copy.
        """
        largest = [largest_weight(each) for each in learners_of(trainer.lightning_module)]
        stop_if_diverged(
            trainer.lightning_module, largest, step=trainer.global_step, what="a weight"
        )
        for logger in trainer.loggers:
            logger.save()
        beside = self.folder / ".saving.ckpt"
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            if is_best:
                copy = self.folder / ".best.ckpt"
                shutil.copyfile(beside, copy)
                os.replace(copy, self.folder / "best.ckpt")
            os.replace(beside, self.folder / "last.ckpt")
        self.saved_step = trainer.global_step

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the record of the run."""
        checkpoint[RECORD_KEY] = {
            "format": FORMAT_VERSION,
            "environment": environment(trainer, pl_module),
            **self.record,
        }

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score.

        Args:
            state_dict: from `state_dict`.
        """
        self.best_score = state_dict["best_score"]
