"""Where numbers go: `metrics.csv`, TensorBoard, and the user's own loggers."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from bfc_lightning.callbacks.exceptions import Diverged
from bfc_lightning.files import write_atomically
from bfc_lightning.medians import summarized
from bfc_lightning.private import add_hyperparameters, log_interval
from bfc_lightning.run_module import as_run


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
        self.num_replicas = num_replicas
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
        self.log_rows([values] * self.num_replicas, step=step or 0)

    @rank_zero_only
    def log_rows(self, rows: Sequence[Mapping[str, float]], *, step: int) -> None:
        """Adds numbers of each replica."""
        for replica, values in enumerate(rows):
            self._add(values, step=step, replica=replica)

    def rows(self, replica: int = 0) -> list[dict[str, float]]:
        """The rows of one replica."""
        rows = sorted(self._rows.items())
        return [{"step": step, **row} for (step, number), row in rows if number == replica]

    @rank_zero_only
    def save(self, *, sync: bool = False) -> None:
        """Writes every row."""
        keys = sorted({key for row in self._rows.values() for key in row})
        index = ["step", "replica"] if self.num_replicas > 1 else ["step"]
        text = io.StringIO()
        writer = csv.DictWriter(text, [*index, *keys], lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        for (step, replica), row in sorted(self._rows.items()):
            writer.writerow({"step": step, "replica": replica, **row})
        write_atomically(self.path, text.getvalue(), sync=sync)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes every row to disk; called by Lightning at the end."""
        self.save(sync=True)

    def _add(self, values: Mapping[str, float], *, step: int, replica: int) -> None:
        numbers = {key: float(value) for key, value in values.items()}
        self._rows.setdefault((step, replica), {}).update(numbers)
        self.latest[replica].update(numbers)


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
        first = None if resume_step is None else resume_step + 1
        super().__init__(folder, "", "", default_hp_metric=False, purge_step=first)
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


def batch_losses(trainer: Trainer, outputs: STEP_OUTPUT) -> Tensor:
    """The loss of each batch of a training step, (batches,) or (batches, replicas)."""
    assert isinstance(outputs, Mapping)
    losses: Tensor = outputs["loss"].detach()  # Lightning has divided it by the batches of a step
    return losses.reshape(-1, *losses.shape[1:]) * trainer.accumulate_grad_batches


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

    kept = ("_losses", "_logged_step")

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._logged_step = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, *_: object
    ) -> None:
        """Keeps the losses; at the interval, logs their mean."""
        self._losses.append(batch_losses(trainer, outputs))
        step = trainer.global_step
        if step == self._logged_step or step % log_interval(trainer):
            return
        self._logged_step = step
        device = self._losses[-1].device  # those of a checkpoint are on the CPU
        losses = torch.cat([part.to(device) for part in self._losses])
        mean = trainer.strategy.reduce(losses.mean(dim=0), reduce_op="mean")
        assert isinstance(mean, Tensor)
        means = mean.reshape(-1).tolist()
        self._losses = []
        stop_if_diverged(pl_module, means, step=step, quantity="train/loss")
        rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in trainer.optimizers]
        rows = zip(means, rates, strict=True)
        log_rows(trainer, [{"train/loss": m, "train/learning_rate": r} for m, r in rows])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the scores of a validation within training."""
        log_rows(trainer, as_run(pl_module).scores)
