"""`summary.json`: what a run is, how far it is, and the last value of everything it logged."""

import functools
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Timer

from bfc_lightning.callbacks.checkpoints import engine_name, versions
from bfc_lightning.callbacks.exceptions import Diverged, Interrupted
from bfc_lightning.callbacks.loggers import MetricsFile
from bfc_lightning.callbacks.measurements import Measurements
from bfc_lightning.files import write_json
from bfc_lightning.medians import medians
from bfc_lightning.run_module import RunModule, as_run


@functools.cache  # of the code that has been imported, and workers inherit it
def git_revision() -> str | None:
    """The commit of the working directory, `-dirty` if files differ; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        return done.stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def provenance(digest: str) -> dict[str, Any]:
    """What a result was computed with."""
    threads = torch.get_num_threads()
    return {"digest": digest, "versions": versions(), "git": git_revision(), "threads": threads}


@dataclass(eq=False, kw_only=True)
class Summary(Callback):
    """Keeps `summary.json` up to date: at the start, at most once a second, and at the end."""

    path: Path
    metrics: MetricsFile
    measurements: Measurements
    provenance: Mapping[str, Any]
    started: float
    seeds: Sequence[int]

    _began, _first, _updated_at = 0.0, 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `status: running`."""
        self._began, self._first = time.perf_counter(), trainer.global_step
        self._write(trainer, "running")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Updates the file."""
        if time.perf_counter() >= self._updated_at + 1:
            self._write(trainer, "running")
            self._updated_at = time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `status: finished`, or `timeout` if `trainer.max_time` ended the run."""
        timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
        is_over = any((timer.time_remaining() or 0.0) <= 0 for timer in timers)
        is_cut = is_over and trainer.global_step < trainer.max_steps
        self._write(trainer, "timeout" if is_cut else "finished")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Writes how the run ended."""
        if isinstance(exception, Diverged):
            self._write(trainer, "diverged")
        elif isinstance(exception, Interrupted | KeyboardInterrupt):
            self._write(trainer, "interrupted")

    def _write(self, trainer: Trainer, status: str) -> None:
        if not trainer.is_global_zero:
            return
        module, parts = as_run(trainer.lightning_module), trainer.datamodule.parts  # type: ignore[attr-defined]
        samples = parts[0].batch_size * len(parts) * trainer.accumulate_grad_batches
        rate = samples * (trainer.global_step - self._first) / (time.perf_counter() - self._began)
        content: dict[str, Any] = {
            "status": status,
            "steps": trainer.global_step,
            "samples_seen": trainer.global_step * samples,
            "wall_seconds": round(time.time() - self.started, 3),
            "samples_per_second": round(rate, 1),
            "measure_seconds": round(self.measurements.seconds, 3),
            **self.provenance,
            "devices": trainer.world_size,
            "device": trainer.strategy.root_device.type,
            "engine": engine_name(module),
            **results(module, self.metrics.latest, self.seeds, status),
        }
        write_json(self.path, content, sync=status != "running")


def results(
    module: RunModule, rows: Sequence[Mapping[str, float]], seeds: Sequence[int], status: str
) -> dict[str, Any]:
    """The latest metrics; of several replicas medians and, for each, seed, status, metrics."""
    if len(rows) == 1:
        return {"metrics": rows[0]}
    replicas = [
        {"seed": seed, "status": status if step is None else "diverged", "metrics": row}
        for seed, step, row in zip(seeds, module.diverged, rows, strict=True)
    ]
    return {"metrics": medians(module.without_diverged(rows)), "replicas": replicas}
