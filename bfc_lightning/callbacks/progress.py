"""The progress of a run in one line: step, time left, rate, loss and score."""

import sys

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from bfc_lightning.callbacks.run_files import batch_losses
from bfc_lightning.run_module import as_run

_TERMINAL_SECONDS, _FILE_SECONDS = 1.0, 15.0


class RunProgress(ProgressBar):
    """A bar that is renewed every second on a terminal, and every 15 seconds in a file.

    The loss is read off the device only when the bar is renewed, not at every step.
    """

    _is_shown = True
    _bar: Tqdm | None = None

    def disable(self) -> None:
        """Shows nothing; Lightning calls it in processes other than the first."""
        self._is_shown = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        seconds = _TERMINAL_SECONDS if sys.stderr.isatty() else _FILE_SECONDS
        self._bar = Tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            unit="steps",
            mininterval=seconds,
            delay=seconds,
            disable=not self._is_shown,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, *_: object
    ) -> None:
        """Renews the bar if that is due."""
        assert self._bar is not None
        if self._bar.update(trainer.global_step - self._bar.n):
            scores = {"loss": batch_losses(trainer, outputs).mean(), **trainer.callback_metrics}
            shown = ("loss", as_run(trainer.lightning_module).score_key)
            self._bar.set_postfix({key: f"{scores[key]:.2e}" for key in shown if key in scores})

    def on_train_end(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None = None
    ) -> None:
        """Leaves the line of the bar."""
        if self._bar is not None:
            self._bar.close()

    on_exception = on_train_end
