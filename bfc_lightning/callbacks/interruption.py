"""How a run ends: after its last step or, on Ctrl-C and SIGTERM, after the current one."""

import signal
from types import FrameType

from lightning import Callback, LightningModule, Trainer

from bfc_lightning.callbacks.checkpoints import Checkpoints
from bfc_lightning.callbacks.exceptions import Interrupted
from bfc_lightning.callbacks.run_files import ends_step
from bfc_lightning.private import log_interval, stops_early_next


class Interruption(Callback):
    """Turns a signal into a checkpoint at the end of the step; a second signal acts at once.

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

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Calls `on_train_epoch_start`, which Lightning omits if a run resumes in its epoch."""
        if trainer.fit_loop.restarted_mid_epoch:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                callback.on_train_epoch_start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: object
    ) -> None:
        """Stops if a validation has just saved the state."""
        if self.checkpoints.saved_step == trainer.global_step:
            self._stop_if_asked(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Saves and stops after an optimizer step, unless a validation follows, which saves.

        Of the last step, asks for the stop that Lightning puts a validation before.
        """
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True
        interval = trainer.val_check_batch
        batches = trainer.fit_loop.batch_idx + 1
        validates_next = stops_early_next(trainer) or (interval and batches % interval == 0)
        if ends_step(trainer) and not validates_next:
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        is_saved = self.checkpoints.saved_step == trainer.global_step
        may_agree = is_saved or trainer.global_step % log_interval(trainer) == 0
        if trainer.world_size > 1 and not may_agree:
            return
        is_asked = self.signum != 0
        if trainer.world_size > 1:
            is_asked = trainer.strategy.reduce_boolean_decision(is_asked, all=False)
        if is_asked:
            if not is_saved:
                self.checkpoints.save(trainer)
            raise Interrupted(self.signum or signal.SIGTERM)
