"""Where numbers go: `metrics.csv`, TensorBoard, the user's own loggers, and `summary.json`."""

import csv
import functools
import io
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from bfc_lightning.callbacks.exceptions import Diverged, Interrupted
from bfc_lightning.files import write_atomically, write_json
from bfc_lightning.matmul import LIBRARY
from bfc_lightning.medians import medians, summarized
from bfc_lightning.private import add_hyperparameters, log_interval
from bfc_lightning.run_module import RunModule, as_run


class MetricsFile(Logger):
    """`metrics.csv`: a row for each step (and replica), a column for each key, in alphabetic order.

    The file is replaced at every `save`, which belongs to a checkpoint.
    """

    name, version = "metrics", ""

    def __init__(
        self, path: Path, *, num_replicas: int = 1, resume_step: int | None = None
    ) -> None:
        super().__init__()
        self.path = path
        self.latest: list[dict[str, float]] = [{} for _ in range(num_replicas)]
        self._rows: dict[tuple[int, int], dict[str, float]] = {}  # by step and replica
        if resume_step is not None and path.is_file():
            for row in read_metrics(path):
                step, replica = int(row.pop("step")), int(row.pop("replica", 0))
                if step <= resume_step:
                    self._add(row, step=step, replica=replica)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: object, **kwargs: object) -> None:  # noqa: ANN401
        """Nothing: `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds numbers that all replicas share to the rows of a step."""
        values = {key: value for key, value in metrics.items() if key != "epoch"}
        self.log_rows([values] * len(self.latest), step=step or 0)

    @rank_zero_only
    def log_rows(self, rows: Sequence[Mapping[str, float]], *, step: int) -> None:
        """Adds numbers of each replica."""
        for replica, values in enumerate(rows):
            self._add(values, step=step, replica=replica)

    def _add(self, values: Mapping[str, float], *, step: int, replica: int) -> None:
        numbers = {key: float(value) for key, value in values.items()}
        self._rows.setdefault((step, replica), {}).update(numbers)
        self.latest[replica].update(numbers)

    def rows(self, replica: int = 0) -> list[dict[str, float]]:
        """The rows of one replica."""
        rows = sorted(self._rows.items())
        return [{"step": step, **row} for (step, number), row in rows if number == replica]

    @rank_zero_only
    def save(self, *, sync: bool = False) -> None:
        """Writes every row."""
        columns = ["step", "replica"] if len(self.latest) > 1 else ["step"]
        columns += sorted({key for row in self._rows.values() for key in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for (step, replica), row in sorted(self._rows.items()):
            writer.writerow({"step": step, "replica": replica, **row})
        write_atomically(self.path, text.getvalue(), sync=sync)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes every row to disk; called by Lightning at the end."""
        self.save(sync=True)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv` without empty cells."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [{k: float(v) for k, v in cells.items() if v} for cells in csv.DictReader(file)]
    return [{**row, "step": int(row["step"])} for row in rows]


class TensorBoardRunLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger, writing into the run folder; later events are hidden."""

    def __init__(
        self, folder: Path, metrics: Sequence[str], *, resume_step: int | None = None
    ) -> None:
        purged = None if resume_step is None else resume_step + 1
        super().__init__(folder, "", "", default_hp_metric=False, purge_step=purged)
        self._metrics = metrics

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: object, **kwargs: object) -> None:  # noqa: ANN401
        """Fills the HParams tab with flat settings, judged by metrics that the run will log."""
        flat = {k: v if isinstance(v, int | float | str) else str(v) for k, v in params.items()}
        add_hyperparameters(self.experiment, flat, self._metrics)

    @rank_zero_only
    def save(self) -> None:
        """Flushes the events."""
        self.experiment.flush()


def log_rows(
    trainer: Trainer, rows: Sequence[Mapping[str, float]], *, step: int | None = None
) -> None:
    """Writes a row for each learner: to the file all of them, elsewhere median and range."""
    module, step = as_run(trainer.lightning_module), trainer.global_step if step is None else step
    shared = dict(rows[0]) if len(rows) == 1 else summarized(module.without_diverged(rows))
    for logger in trainer.loggers:
        if isinstance(logger, MetricsFile):
            logger.log_rows(rows, step=step)
        else:
            logger.log_metrics(shared, step=step)


def batch_losses(trainer: Trainer, outputs: object) -> Tensor:
    """The loss of each batch of a training step, (batches,) or (batches, replicas)."""
    assert isinstance(outputs, Mapping)
    losses: Tensor = outputs["loss"].detach()  # Lightning has divided it by the batches of a step
    return losses.reshape(-1, *losses.shape[1:]) * trainer.accumulate_grad_batches


def ends_step(trainer: Trainer) -> bool:
    """Whether the batch that has just ended was the last one of an optimizer step."""
    return (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches == 0


def stop_if_diverged(
    module: LightningModule, values: Sequence[float], *, step: int, quantity: str
) -> None:
    """Marks replicas whose value is not finite; ends the run if no learner is left."""
    if as_run(module).mark_diverged(values, step):
        raise Diverged(step, quantity if len(values) == 1 else f"{quantity} of every replica")


class KeepsState:
    """A callback some of whose attributes are in checkpoints."""

    kept: tuple[str, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """The attributes."""
        return {name: getattr(self, name) for name in self.kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        for name in self.kept:
            setattr(self, name, state_dict[name])


class TrainingLog(KeepsState, Callback):
    """Logs `train/loss` and `train/learning_rate` at the Trainer's interval, scores at validation.

    Losses stay on the device until the interval is over: reading one at every step would cost about
    as much as the step. A mean that is not finite ends the run or marks the replica.
    """

    kept = ("_losses",)

    def __init__(self) -> None:
        self._losses: list[Tensor] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, *_: object
    ) -> None:
        """Keeps the losses; at the interval, logs their mean."""
        self._losses.append(batch_losses(trainer, outputs))
        step = trainer.global_step
        if step % log_interval(trainer) or not ends_step(trainer):
            return
        losses = torch.cat([part.to(pl_module.device) for part in self._losses])
        self._losses = []
        mean = trainer.strategy.reduce(losses.mean(dim=0), reduce_op="mean")
        means = mean.reshape(-1).tolist()
        stop_if_diverged(pl_module, means, step=step, quantity="train/loss")
        rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in trainer.optimizers]
        rows = zip(means, rates, strict=True)
        log_rows(trainer, [{"train/loss": m, "train/learning_rate": r} for m, r in rows])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the scores of a validation within training."""
        log_rows(trainer, as_run(pl_module).scores)


@functools.cache  # of the code that has been imported, and workers inherit it
def git_revision() -> str | None:
    """The commit of the working directory, `-dirty` if files differ; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
        return done.stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    packages = ("bfc_lightning", "torch", "lightning", "jsonargparse")
    found = {name: str(sys.modules[name].__version__) for name in packages}
    return {"python": platform.python_version(), **found}


def provenance(digest: str) -> dict[str, Any]:
    """What a result was computed with."""
    threads = torch.get_num_threads()
    return {"digest": digest, "versions": versions(), "git": git_revision(), "threads": threads}


def engine_name(module: LightningModule) -> str:
    """How steps are taken: `compiled`, `eager` or `autograd`."""
    engine = as_run(module).engine
    if engine is None:
        return "autograd"
    return "compiled" if engine.compiles else "eager"


def environment(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What repetition bit for bit depends on beside the settings."""
    device = trainer.strategy.root_device.type
    return {
        **versions(),
        "machine": platform.node(),
        "device": device,
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "engine": engine_name(module),
        "large_products": LIBRARY if device == "cpu" else "default",
    }


@dataclass(eq=False, kw_only=True)
class Summary(Callback):
    """Writes `summary.json` at the start and at the end; `Checkpoints` updates it in between."""

    path: Path
    metrics: MetricsFile
    measure_seconds: Callable[[], float]
    provenance: Mapping[str, Any]
    started: float
    seeds: Sequence[int]

    _began, _first = 0.0, 0  # time and step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `status: running`."""
        self._began, self._first = time.perf_counter(), trainer.global_step
        self.write(trainer, "running")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `status: finished`, or `timeout` if `trainer.max_time` ended the run."""
        timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
        is_over = any((timer.time_remaining() or 0.0) <= 0 for timer in timers)
        is_cut = is_over and trainer.global_step < trainer.max_steps
        self.write(trainer, "timeout" if is_cut else "finished")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Writes how the run ended."""
        if isinstance(exception, Diverged):
            self.write(trainer, "diverged")
        elif isinstance(exception, Interrupted | KeyboardInterrupt):
            self.write(trainer, "interrupted")

    @rank_zero_only
    def write(self, trainer: Trainer, status: str) -> None:
        """Replaces the file."""
        module, parts = as_run(trainer.lightning_module), trainer.datamodule.parts  # type: ignore[attr-defined]
        samples = parts[0].batch_size * len(parts) * trainer.accumulate_grad_batches
        rate = samples * (trainer.global_step - self._first) / (time.perf_counter() - self._began)
        content: dict[str, Any] = {
            "status": status,
            "steps": trainer.global_step,
            "samples_seen": trainer.global_step * samples,
            "wall_seconds": round(time.time() - self.started, 3),
            "samples_per_second": round(rate, 1),
            "measure_seconds": round(self.measure_seconds(), 3),
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
