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
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bfc_lightning.callbacks.training_log import batch_losses

_BAR_SECONDS = 1.0
_LINE_SECONDS = 15.0


class RunProgress(ProgressBar):
    """One bar for the whole run; lines every 15 seconds where the output is no terminal.

    The loss is read off the device once a second, not at every step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._shown = 0.0
        self._steps_shown = 0
        self._enabled = True

    def disable(self) -> None:
        """Shows nothing; Lightning calls it in processes other than the first."""
        self._enabled = False

    def enable(self) -> None:
        """Shows the bar again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the bar."""
        self._shown = time.perf_counter()
        self._steps_shown = trainer.global_step
        if not (self._enabled and self._console.is_terminal):
            return
        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} steps/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=self._console,
        )
        self._task = self._progress.add_task(
            "", total=trainer.max_steps, completed=trainer.global_step, rate="-", numbers=""
        )
        self._progress.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Brings the bar up to date, once a second."""
        wait = _BAR_SECONDS if self._progress is not None else _LINE_SECONDS
        now = time.perf_counter()
        fills_bar = self._progress is not None and trainer.global_step == trainer.max_steps
        if self._enabled and (fills_bar or now - self._shown >= wait):
            self._show(trainer, pl_module, float(batch_losses(trainer, outputs).mean()), now)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the bar."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Closes the bar."""
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show(self, trainer: Trainer, pl_module: LightningModule, loss: float, now: float) -> None:
        step = trainer.global_step
        seconds = now - self._shown
        rate = (step - self._steps_shown) / seconds if seconds > 0 else 0.0
        self._shown, self._steps_shown = now, step
        key = str(pl_module.score_key)
        numbers = f"loss {loss:.2e}"
        if key in trainer.callback_metrics:
            numbers += f"  {key} {float(trainer.callback_metrics[key]):.2e}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=step, rate=f"{rate:.0f}", numbers=numbers)
            return
        left = (trainer.max_steps - step) / rate if rate else 0.0
        line = f"step {step}/{trainer.max_steps}  {rate:.0f} steps/s  {left:.0f} s left  {numbers}"
        print(line, file=sys.stderr, flush=True)
