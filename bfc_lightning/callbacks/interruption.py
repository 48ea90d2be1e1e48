"""Ctrl-C and SIGTERM: finish the step, save, stop; a second signal acts at once."""

import signal
from types import FrameType

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from bfc_lightning.callbacks.checkpoints import Checkpoints
from bfc_lightning.callbacks.exceptions import Interrupted
from bfc_lightning.private import log_interval, stops_early_next


class Interruption(Callback):
    """Turns a signal into a checkpoint at the end of the step.

    Several processes agree at the logging interval and after a validation, so that all of them stop
    at the same step.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.signum = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Receives signals, until the command ends."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: object
    ) -> None:
        """Stops if a validation has just saved the state."""
        if self.checkpoints.saved_step == trainer.global_step and self._is_asked(trainer):
            raise Interrupted(self.signum or signal.SIGTERM)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Saves and stops after an optimizer step, unless a validation follows, which saves."""
        interval, batches = trainer.val_check_batch, trainer.fit_loop.batch_idx + 1
        validates_next = stops_early_next(trainer) or bool(interval and batches % interval == 0)
        ends_step = batches % trainer.accumulate_grad_batches == 0
        if ends_step and not validates_next and self._is_asked(trainer):
            self.checkpoints.save(trainer)
            raise Interrupted(self.signum or signal.SIGTERM)

    def _is_asked(self, trainer: Trainer) -> bool:
        if trainer.world_size == 1:
            return self.signum != 0
        step = trainer.global_step
        if step % log_interval(trainer) and step != self.checkpoints.saved_step:
            return False
        return trainer.strategy.reduce_boolean_decision(self.signum != 0, all=False)


class RunLoop(Callback):
    """Makes a run without epochs end, and resume, as a run with one would."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calls `on_train_epoch_start`, which Lightning omits if a run resumes in its epoch."""
        if trainer.fit_loop.restarted_mid_epoch:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Asks for the stop that Lightning puts a validation before, and with it a checkpoint."""
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True
