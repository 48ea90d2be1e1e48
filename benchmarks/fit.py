"""`bfc fit` as a user runs it, timed from the first validation to the last."""

import io
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import ClassVar

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from benchmarks.workload import Workload, synchronize
from bfc_lightning.cli import main


class ValidationClock(Callback):
    """Notes the step and the time at the end of every validation.

    It has no hook that runs at every step, so that it does not slow training down.
    """

    marks: ClassVar[list[tuple[int, float]]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        synchronize(trainer.strategy.root_device)
        self.marks.append((trainer.global_step, time.perf_counter()))


class FitRun:
    """A whole run of `bfc fit`: logging, progress bar, validation and checkpoints.

    The run folder is a temporary folder in `folder`.
    """

    def __init__(
        self, workload: Workload, engine: str, *, folder: Path, num_replicas: int = 1
    ) -> None:
        self.num_replicas = num_replicas
        self.folder = folder
        self.argv = ["fit", "-c", str(workload.path), "--engine", engine]
        self.argv += ["--trainer.max_steps", str(workload.num_steps), "--trainer.devices", "1"]
        self.argv += ["--model.num_replicas", str(num_replicas), "--run.figures", "false"]
        self.argv += ["--trainer.callbacks+", f"{__name__}.{ValidationClock.__name__}"]

    def seconds_per_step(self) -> float:
        """Seconds per step and replica, validations and checkpoints included."""
        ValidationClock.marks.clear()
        with tempfile.TemporaryDirectory(dir=self.folder) as root:
            with redirect_stdout(io.StringIO()):  # the run's own table of results
                status = main([*self.argv, "--run.root", root, "--run.name", "run"])
            if status:
                sys.exit(status)
        (first, started), *_, (last, ended) = ValidationClock.marks
        return (ended - started) / (last - first) / self.num_replicas
