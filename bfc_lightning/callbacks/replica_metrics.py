"""`metrics.csv` of several replicas: a row for each step and replica."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from bfc_lightning.callbacks.metrics_file import FileLogger, read_metrics
from bfc_lightning.files import write_atomically


class ReplicaMetricsFile(FileLogger):
    """`metrics.csv` of several replicas: a row for each step and replica, written at every save.

    Args:
        path: the file.
        num_replicas: R.
    """

    def __init__(self, path: Path, num_replicas: int) -> None:
        super().__init__(path)
        self.num_replicas = num_replicas
        self._rows: dict[int, list[dict[str, float]]] = {}
        self._latest: list[dict[str, float]] = [{} for _ in range(num_replicas)]
        self._is_saved = False
        self._written = ""  # by this process

    @property
    def latest(self) -> list[dict[str, float]]:
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
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Numbers that all replicas share.

        Args:
            metrics: values by key.
            step: optimizer steps taken so far.
        """
        values = {key: value for key, value in metrics.items() if key != "epoch"}
        if values:
            self.log_rows([values] * self.num_replicas, step=step or 0)

    @rank_zero_only
    def log_rows(self, rows: Sequence[Mapping[str, float]], *, step: int) -> None:
        """Numbers of each replica.

        Args:
            rows: one a replica, values by key.
            step: optimizer steps taken so far.
        """
        for replica, values in enumerate(rows):
            self._add(values, step=step, replica=replica)

    @rank_zero_only
    def save(self) -> None:
        """Adds new rows at the end; writes the file anew where one or a column has changed."""
        if self._is_saved:
            return
        keys = sorted({key for rows in self._rows.values() for row in rows for key in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", "replica", *keys], restval="", lineterminator="\n")
        writer.writeheader()
        for step, rows in sorted(self._rows.items()):
            for replica, row in enumerate(rows):
                writer.writerow({"step": step, "replica": replica, **row})
        whole = text.getvalue()
        if self._written and whole.startswith(self._written):
            self._extend(whole.removeprefix(self._written))
        else:
            write_atomically(self.path, whole)
        self._written = whole
        self._is_saved = True

    def _add(self, values: Mapping[str, float], *, step: int, replica: int) -> None:
        fresh: list[dict[str, float]] = [{} for _ in range(self.num_replicas)]
        numbers = {key: float(value) for key, value in values.items()}  # as they are read again
        self._rows.setdefault(step, fresh)[replica].update(numbers)
        self._latest[replica].update(numbers)
        self._is_saved = False
