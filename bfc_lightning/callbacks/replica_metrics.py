"""`metrics.csv` of several replicas: a row for each step and replica."""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from bfc_lightning.callbacks.metrics_file import read_metrics
from bfc_lightning.files import write_atomically
from bfc_lightning.replicas import summarized


class ReplicaMetricsFile(Logger):
    """`metrics.csv` of several replicas: a row for each step and replica, written at every save.

    Args:
        path: the file.
        num_replicas: R.
    """

    def __init__(self, path: Path, num_replicas: int) -> None:
        super().__init__()
        self.path = path
        self.num_replicas = num_replicas
        self._rows: dict[int, list[dict[str, float]]] = {}
        self._latest: list[dict[str, float]] = [{} for _ in range(num_replicas)]

    @property
    def name(self) -> str:
        """Lightning's name for the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """Lightning's version of the logger; there is one file a run."""
        return ""

    @property
    @rank_zero_experiment
    def experiment(self) -> "ReplicaMetricsFile":
        """The logger itself."""
        return self

    @property
    def latest(self) -> dict[str, float]:
        """The median over replicas of the last value of every key."""
        middle = summarized(self._latest)
        return {key: middle[key] for key in middle if not key.startswith(("low/", "high/"))}

    @property
    def latest_of_each(self) -> list[dict[str, float]]:
        """The last value of every key, replica by replica."""
        return self._latest

    def keep_until(self, step: int) -> None:
        """Goes on with the rows of a run that stopped; drops those after a step.

        Args:
            step: the last step to keep.
        """
        for row in read_metrics(self.path) if self.path.exists() else []:
            values = {key: value for key, value in row.items() if key not in ("step", "replica")}
            if row["step"] <= step:
                self._add(values, step=int(row["step"]), replica=int(row["replica"]))

    def rows_of(self, replica: int) -> list[dict[str, float]]:
        """The rows of one replica, as of a run of its own.

        Args:
            replica: its number, from 0.

        Returns:
            One dictionary a step.
        """
        return [{"step": step, **rows[replica]} for step, rows in sorted(self._rows.items())]

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: object, **kwargs: object
    ) -> None:
        """Nothing: `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers that all replicas share.

        Args:
            metrics: values by key.
            step: optimiser steps taken so far.
        """
        values = {key: float(value) for key, value in metrics.items() if key != "epoch"}
        if values:
            self.log_rows([values] * self.num_replicas, step=step or 0)

    @rank_zero_only
    def log_rows(self, rows: Sequence[Mapping[str, float]], *, step: int) -> None:
        """Numbers of each replica.

        Args:
            rows: one a replica, values by key.
            step: optimiser steps taken so far.
        """
        for replica, values in enumerate(rows):
            self._add(values, step=step, replica=replica)

    @rank_zero_only
    def save(self) -> None:
        """Writes the file anew, beside its place, and renames it."""
        keys = dict.fromkeys(key for rows in self._rows.values() for row in rows for key in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", "replica", *keys], restval="", lineterminator="\n")
        writer.writeheader()
        for step, rows in sorted(self._rows.items()):
            for replica, row in enumerate(rows):
                writer.writerow({"step": step, "replica": replica, **row})
        write_atomically(self.path, text.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the file; called by Lightning at the end."""
        self.save()

    def _add(self, values: Mapping[str, float], *, step: int, replica: int) -> None:
        fresh: list[dict[str, float]] = [{} for _ in range(self.num_replicas)]
        self._rows.setdefault(step, fresh)[replica].update(values)
        self._latest[replica].update(values)
