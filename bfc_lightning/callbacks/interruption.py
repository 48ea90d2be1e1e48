"""Ctrl-C and SIGTERM: finish the step, save, stop; a second signal stops at once."""

import time

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from bfc_lightning.callbacks.checkpoints import Checkpoints
from bfc_lightning.callbacks.signals import Signals
from bfc_lightning.callbacks.stops import Interrupted
from bfc_lightning.callbacks.training_log import log_interval

_VALIDATION_SECONDS = 10.0


class Interruption(Callback):
    """Turns signals into a checkpoint at the end of the step, so that nothing is lost or doubled.

    Several processes agree at the logging interval and after a validation, so that all stop at the
    same step.

    Args:
        signals: that the run has received.
        checkpoints: saves the state.
    """

    def __init__(self, signals: Signals, checkpoints: Checkpoints) -> None:
        self.signals = signals
        self.checkpoints = checkpoints

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on the other processes receive what this one does.

        Raises:
            Interrupted: if a signal has come and nothing of the run is later than its start: rows
                of its log are dropped that a later checkpoint would miss.
        """
        self.signals.trainer = trainer
        if self.checkpoints.is_latest(trainer) and self._agree(trainer):
            raise Interrupted(self.signals.reason)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Stops where a validation has just saved the state.

        Raises:
            Interrupted: if a signal asks for it.
        """
        if self.checkpoints.saved_step == trainer.global_step and self._is_asked(trainer):
            raise Interrupted(self.signals.reason)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Saves and stops after a whole optimizer step.

        Where a validation comes next, that saves by itself, and the next batch stops.

        Raises:
            Interrupted: if a signal asks for it.
        """
        interval, batches = trainer.val_check_batch, trainer.fit_loop.batch_idx + 1
        stops_next = trainer.should_stop and trainer.fit_loop._can_stop_early
        validates_next = stops_next or bool(interval and batches % interval == 0)
        ends_step = batches % trainer.accumulate_grad_batches == 0
        if ends_step and not validates_next and self._is_asked(trainer):
            self.checkpoints.save(trainer)
            raise Interrupted(self.signals.reason)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Gives up a validation that takes too long; the run goes on from the one before.

        Several processes wait for its end, as they cannot agree within it.

        Raises:
            Interrupted: if a signal came some seconds ago.
        """
        is_alone = trainer.world_size == 1
        if is_alone and time.monotonic() - self.signals.received > _VALIDATION_SECONDS:
            raise Interrupted(self.signals.reason)

    def _is_asked(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return self.signals.signum != 0
        has_saved = self.checkpoints.saved_step == trainer.global_step
        if trainer.global_step % log_interval(trainer) and not has_saved:
            return False
        return self._agree(trainer)

    def _agree(self, trainer: Trainer) -> bool:
        """Whether any process has received a signal; all of them must ask."""
        return trainer.strategy.reduce_boolean_decision(self.signals.signum != 0, all=False)


class StopAtMaxSteps(Callback):
    """Makes the last step count: a validation, and with it a checkpoint, always follows it."""

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Asks for the stop that Lightning puts a validation before."""
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True
