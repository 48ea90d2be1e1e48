"""The progress bar: step, rate, time left and the current loss."""

import sys
import time

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bfc_lightning.callbacks.training_log import batch_losses

_BAR_SECONDS, _LINE_SECONDS = 1.0, 15.0


class RunProgress(ProgressBar):
    """One bar for the whole run; a line every 15 seconds if the output is not a terminal.

    The loss is read off the device once a second, not at every step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._shown, self._steps_shown = 0.0, 0
        console = Console(stderr=True)
        self._is_bar = console.is_terminal
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
        )

    def disable(self) -> None:
        """Shows nothing; Lightning calls it in processes other than the first."""
        self._enabled = False

    def enable(self) -> None:
        """Shows the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar."""
        self._shown, self._steps_shown = time.perf_counter(), trainer.global_step
        if self._enabled and self._is_bar:
            self._progress.add_task("", total=trainer.max_steps, completed=trainer.global_step)
            self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, *_: object
    ) -> None:
        """Updates the bar once a second."""
        seconds = time.perf_counter() - self._shown
        fills_bar = self._is_bar and trainer.global_step == trainer.max_steps
        is_due = seconds >= (_BAR_SECONDS if self._is_bar else _LINE_SECONDS)
        if self._enabled and (fills_bar or is_due):
            self._show(trainer, float(batch_losses(trainer, outputs).mean()), seconds)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the bar."""
        self._progress.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Closes the bar."""
        self._progress.stop()

    def _show(self, trainer: Trainer, loss: float, seconds: float) -> None:
        step = trainer.global_step
        rate = (step - self._steps_shown) / max(seconds, 1e-6)
        self._shown, self._steps_shown = time.perf_counter(), step
        key = str(trainer.lightning_module.score_key)
        text = f"{rate:.0f} steps/s  loss {loss:.2e}"
        if key in trainer.callback_metrics:
            text += f"  {key} {float(trainer.callback_metrics[key]):.2e}"
        if self._is_bar:
            self._progress.update(self._progress.task_ids[0], completed=step, description=text)
        else:
            left = (trainer.max_steps - step) / max(rate, 1e-6)
            line = f"step {step}/{trainer.max_steps}  {left:.0f} s left  {text}"
            print(line, file=sys.stderr, flush=True)
