"""`summary.json`: what a run is, how far it is, and the last value of everything it logged."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from bfc_lightning.callbacks.environment import training_path, versions
from bfc_lightning.callbacks.measurements import Measurements
from bfc_lightning.callbacks.metrics_file import MetricsFile
from bfc_lightning.callbacks.replica_metrics import ReplicaMetricsFile
from bfc_lightning.callbacks.stops import Diverged, Interrupted
from bfc_lightning.files import write_json
from bfc_lightning.medians import medians
from bfc_lightning.replicas import ReplicatedLearner, problems_of

_RATE_BATCHES = 20


def git_revision() -> str | None:
    """The commit of the working directory, `-dirty` where files differ; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


class Summary(Callback):
    """Keeps `summary.json` true: at the start, after every validation, and at every kind of end.

    Args:
        path: the file.
        metrics: the logger that knows the latest values, of one learner or of each replica.
        measurements: knows the time spent on measures.
        started: `time.time()` when the command began.
        seconds_before: wall seconds of the run before it was resumed.
        replicas: seed and overrides of each replica; empty where there is one learner.
    """

    def __init__(
        self,
        path: Path,
        *,
        metrics: MetricsFile | ReplicaMetricsFile,
        measurements: Measurements,
        started: float,
        seconds_before: float = 0.0,
        replicas: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.path = path
        self.metrics = metrics
        self.measurements = measurements
        self.started = started
        self.seconds_before = seconds_before
        self.replicas = replicas
        self._fixed = {"versions": versions(), "git": git_revision()}
        self._mark = (0.0, 0)
        self._rates: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `status: running`."""
        self._write(trainer, "running")
        self._restart_clock(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Times the batches, 20 or a little more at a time."""
        started, before = self._mark
        batches = trainer.fit_loop.total_batch_idx + 1 - before
        if batches >= _RATE_BATCHES:
            self._rates.append(batches / (time.perf_counter() - started))
            self._restart_clock(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Brings the file up to date; the time of the validation is no training time."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._write(trainer, "running")
            self._restart_clock(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `status: finished`."""
        self._write(trainer, "finished")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Writes how the run ended."""
        if isinstance(exception, Diverged):
            self._write(trainer, "diverged")
        elif isinstance(exception, Interrupted | KeyboardInterrupt):
            self._write(trainer, "interrupted")

    def _restart_clock(self, trainer: Trainer) -> None:
        self._mark = (time.perf_counter(), trainer.fit_loop.total_batch_idx + 1)

    def _write(self, trainer: Trainer, status: str) -> None:
        if not trainer.is_global_zero:
            return
        problems = problems_of(trainer.datamodule)  # type: ignore[attr-defined]
        batch = problems[0].batch_size * len(problems)
        self.metrics.save()
        rate = batch * median(self._rates) if self._rates else None
        content: dict[str, Any] = {
            "status": status,
            "steps": trainer.global_step,
            "samples_seen": trainer.global_step * trainer.accumulate_grad_batches * batch,
            "wall_seconds": round(self.seconds_before + time.time() - self.started, 3),
            "samples_per_second": rate and round(rate, 1),
            "measure_seconds": round(self.measurements.seconds, 3),
            **self._fixed,
            "devices": trainer.world_size,
            "device": trainer.strategy.root_device.type,
            "threads": torch.get_num_threads(),
            "training_path": training_path(trainer.lightning_module),
        }
        if isinstance(self.metrics, ReplicaMetricsFile):
            content |= self._describe_replicas(trainer.lightning_module, status, self.metrics)
        else:
            content["metrics"] = self.metrics.latest
        write_json(self.path, content, sync=status != "running")

    def _describe_replicas(
        self, module: LightningModule, status: str, numbers: ReplicaMetricsFile
    ) -> dict[str, Any]:
        """Medians over those that did not diverge; seed, overrides, status and metrics of each."""
        assert isinstance(module, ReplicatedLearner)
        described = [
            {**named, "status": "diverged" if step is not None else status, "metrics": metrics}
            for named, step, metrics in zip(
                self.replicas, module.diverged, numbers.latest, strict=True
            )
        ]
        return {"metrics": medians(module.without_diverged(numbers.latest)), "replicas": described}
