"""Where numbers go: `metrics.csv`, TensorBoard, and the user's own loggers."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from lightning import Trainer
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard.summary import hparams

from bfc_lightning.files import write_atomically
from bfc_lightning.medians import summarized
from bfc_lightning.replicas import ReplicatedLearner


class MetricsFile(Logger):
    """`metrics.csv`: a row for each step (and replica), a column for each key, in alphabetic order.

    The file is written at every `save`, which belongs to a checkpoint.
    """

    def __init__(
        self, path: Path, *, num_replicas: int = 1, resume_step: int | None = None
    ) -> None:
        super().__init__()
        self.path = path
        self.num_replicas = num_replicas
        self.latest: list[dict[str, float]] = [{} for _ in range(num_replicas)]
        self._rows: dict[int, list[dict[str, float]]] = {}
        self._written = ""
        for row in read_metrics(path) if resume_step is not None and path.is_file() else []:
            if row["step"] <= (resume_step or 0):
                values = {key: row[key] for key in row if key not in ("step", "replica")}
                self._add(values, step=int(row["step"]), replica=int(row.get("replica", 0)))

    @property
    def name(self) -> str:
        """Lightning's name for the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """Lightning's version of the logger; there is one file per run."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> Self:
        """The logger itself."""
        return self

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: object, **kwargs: object
    ) -> None:
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
        return [{"step": step, **rows[replica]} for step, rows in sorted(self._rows.items())]

    @rank_zero_only
    def save(self) -> None:
        """Writes every row: new ones at the end, the whole file if a column is new."""
        text = self._text()
        if self._written and text.startswith(self._written):
            addition, self._written = text.removeprefix(self._written), ""  # if the disk is full
            with self.path.open("a", encoding="utf-8") as file:
                file.write(addition)
        else:
            write_atomically(self.path, text)
        self._written = text

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes every row; called by Lightning at the end."""
        self.save()

    def _text(self) -> str:
        keys = sorted({key for rows in self._rows.values() for row in rows for key in row})
        index = ["step", "replica"] if self.num_replicas > 1 else ["step"]
        text = io.StringIO()
        writer = csv.DictWriter(
            text, [*index, *keys], restval="", lineterminator="\n", extrasaction="ignore"
        )
        writer.writeheader()
        for step, rows in sorted(self._rows.items()):
            for replica, row in enumerate(rows):
                writer.writerow({"step": step, "replica": replica, **row})
        return text.getvalue()

    def _add(self, values: Mapping[str, float], *, step: int, replica: int) -> None:
        fresh: list[dict[str, float]] = [{} for _ in range(self.num_replicas)]
        numbers = {key: float(value) for key, value in values.items()}
        self._rows.setdefault(step, fresh)[replica].update(numbers)
        self.latest[replica].update(numbers)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv` without empty cells; a torn last line is left out."""
    text = path.read_text(encoding="utf-8")
    rows = []
    for cells in csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])):
        row: dict[str, float] = {"step": int(cells["step"])}
        row.update({k: float(v) for k, v in cells.items() if k != "step" and v not in ("", None)})
        rows.append(row)
    return rows


class TensorBoardRunLogger(TensorBoardLogger):
    """Lightning's TensorBoard logger, writing into the run folder; later events are hidden."""

    def __init__(self, folder: Path, resume_step: int | None = None) -> None:
        super().__init__(
            save_dir=folder,
            name="",
            version="",
            default_hp_metric=False,
            purge_step=None if resume_step is None else resume_step + 1,
        )

    @rank_zero_only
    def show_hparams(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Fills the HParams tab: flat settings, judged by metrics that the run will log."""
        kinds = bool | int | float | str
        flat = {
            key: value if isinstance(value, kinds) else str(value)
            for key, value in settings.items()
            if value is not None
        }
        writer = self.experiment._get_file_writer()
        for summary in hparams(flat, dict.fromkeys(metrics, 0.0)):  # type: ignore[no-untyped-call]
            writer.add_summary(summary)

    @rank_zero_only
    def show_bands(self, keys: Sequence[str]) -> None:
        """Fills the Custom Scalars tab: medians over replicas with their range."""
        charts = {key: ["Margin", [key, f"low/{key}", f"high/{key}"]] for key in keys}
        self.experiment.add_custom_scalars({"median and range of the replicas": charts})

    @rank_zero_only
    def save(self) -> None:
        """Flushes the events."""
        self.experiment.flush()


def log_metrics(trainer: Trainer, metrics: Mapping[str, float]) -> None:
    """Writes numbers to every logger under the count of optimizer steps."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=trainer.global_step)


def log_rows(trainer: Trainer, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes a row for each learner: to the file all of them, elsewhere median and range."""
    module = trainer.lightning_module
    if not isinstance(module, ReplicatedLearner):
        log_metrics(trainer, rows[0])
        return
    medians = summarized(module.without_diverged(rows))
    for logger in trainer.loggers:
        if isinstance(logger, MetricsFile):
            logger.log_rows(rows, step=trainer.global_step)
        else:
            logger.log_metrics(medians, step=trainer.global_step)
