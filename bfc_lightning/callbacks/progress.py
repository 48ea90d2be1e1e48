"""The progress of a run in one line: step, time left, rate, loss and score."""

import sys
import time

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT

from bfc_lightning.callbacks.training_log import batch_losses

_TERMINAL_SECONDS, _LINE_SECONDS = 1.0, 15.0


class RunProgress(ProgressBar):
    """A line that is renewed every second on a terminal; elsewhere a new one every 15 seconds.

    The loss is read off the device only for the line, not at every step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._shown, self._steps_shown = 0.0, 0

    def disable(self) -> None:
        """Shows nothing; Lightning calls it in processes other than the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._shown, self._steps_shown = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, *_: object
    ) -> None:
        """Shows the line if it is due."""
        is_terminal, seconds = sys.stderr.isatty(), time.perf_counter() - self._shown
        if self._enabled and seconds >= (_TERMINAL_SECONDS if is_terminal else _LINE_SECONDS):
            line = self._line(trainer, float(batch_losses(trainer, outputs).mean()), seconds)
            print(f"\r\x1b[K{line}" if is_terminal else f"{line}\n", end="", file=sys.stderr)
            sys.stderr.flush()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the line of a terminal."""
        if self._enabled and sys.stderr.isatty():
            print(file=sys.stderr)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Leaves the line of a terminal."""
        self.on_train_end(trainer, pl_module)

    def _line(self, trainer: Trainer, loss: float, seconds: float) -> str:
        step, key = trainer.global_step, str(trainer.lightning_module.score_key)
        rate = (step - self._steps_shown) / max(seconds, 1e-6)
        left = (trainer.max_steps - step) / max(rate, 1e-6)
        self._shown, self._steps_shown = time.perf_counter(), step
        line = f"step {step}/{trainer.max_steps}  {left:.0f} s left  {rate:.0f} steps/s"
        line += f"  loss {loss:.2e}"
        if key in trainer.callback_metrics:
            line += f"  {key} {float(trainer.callback_metrics[key]):.2e}"
        return line
