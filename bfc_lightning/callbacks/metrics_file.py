"""`metrics.csv`: every logged number, one row a step, one column a key."""

import csv
import io
import os
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from bfc_lightning.files import write_atomically


class FileLogger(Logger):
    """What Lightning asks of every logger, for one that writes a single file of the run.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    @property
    def name(self) -> str:
        """Lightning's name for the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """Lightning's version of the logger; there is one file a run."""
        return ""

    @abstractmethod
    def keep_until(self, step: int) -> None:
        """Goes on with the rows of a run that stopped; drops those after a step.

        Args:
            step: the last step to keep.
        """

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
    def finalize(self, status: str) -> None:
        """Writes out every row; called by Lightning at the end."""
        self.save()

    def _extend(self, text: str) -> None:
        """Adds whole lines or, on a full disk, nothing: what is added later starts on its own.

        Raises:
            OSError: if there is no space.
        """
        size = self.path.stat().st_size
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError:
            os.truncate(self.path, size)
            raise


class MetricsFile(FileLogger):
    """A logger that writes `metrics.csv` and remembers the latest value of every key.

    Numbers logged at one step share a row. Columns are in alphabetical order, as a run that was
    stopped may log what belongs to a step in another one. The file only grows at its end, except
    when a new key brings a new column: then it is written anew and renamed into place.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.latest: dict[str, float] = {}
        self._rows: list[dict[str, float]] = []
        self._columns = ["step"]
        self._num_written = 0

    def keep_until(self, step: int) -> None:
        """Goes on with the rows of a run that stopped; drops those after a step.

        Args:
            step: the last step to keep.
        """
        if not self.path.exists():
            return
        for row in read_metrics(self.path):
            if row["step"] <= step:
                self._add(row)
        self._rewrite()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Adds numbers to the row of a step; writes out the rows before it.

        Args:
            metrics: values by key.
            step: optimizer steps taken so far.
        """
        values = {key: float(value) for key, value in metrics.items() if key != "epoch"}
        if not values:
            return
        self._add({"step": 0 if step is None else step, **values})
        if len(self._rows) > self._num_written + 1:
            self._append(len(self._rows) - 1)

    @rank_zero_only
    def save(self) -> None:
        """Writes out every row."""
        self._append(len(self._rows))

    def _add(self, row: Mapping[str, float]) -> None:
        new = row.keys() - self._columns
        same_step = bool(self._rows) and self._rows[-1]["step"] == row["step"]
        if same_step:
            self._rows[-1].update(row)
        else:
            self._rows.append(dict(row))
        if new:
            self._columns = ["step", *sorted(new.union(self._columns[1:]))]
        self.latest.update({key: value for key, value in row.items() if key != "step"})
        if self._num_written and (new or (same_step and self._num_written == len(self._rows))):
            self._rewrite()

    def _format(self, rows: list[dict[str, float]], *, header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def _append(self, stop: int) -> None:
        if not self._num_written:
            self._rewrite(stop)
            return
        fresh = self._rows[self._num_written : stop]
        if fresh:
            self._extend(self._format(fresh, header=False))
            self._num_written = stop

    def _rewrite(self, stop: int | None = None) -> None:
        rows = self._rows[:stop]
        self._num_written = 0  # should it fail, the next one writes everything, too
        write_atomically(self.path, self._format(rows, header=True))
        self._num_written = len(rows)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`, without empty cells; a torn last line is left out.

    Args:
        path: the file.

    Returns:
        One dictionary a row; `step` is an int.
    """
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = []
    for cells in csv.DictReader(io.StringIO(whole)):
        row: dict[str, float] = {"step": int(cells["step"])}
        row.update({k: float(v) for k, v in cells.items() if k != "step" and v not in ("", None)})
        rows.append(row)
    return rows
