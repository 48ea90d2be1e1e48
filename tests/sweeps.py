"""Sweeps of tiny learners, for tests."""

import csv
from pathlib import Path

from bfc_lightning.cli.sweeping import parse_sweep
from bfc_lightning.experiments.results import Row
from bfc_lightning.experiments.sweeps.sweep import Sweep, sweep_runs
from tests.comparisons import write_experiment

LR = "model.optimizer.init_args.lr"
WIDTHS = "target.init_args.widths"


def write(folder: Path, name: str = "few", **content: object) -> Path:
    """A sweep of tiny learners, in a file of its own."""
    grid = {} if {"grid", "points"} & set(content) else {"grid": {"model.width": [4, 8]}}
    return write_experiment(folder, name, {**content, **grid})


def parse(path: Path, *words: str) -> Sweep:
    return parse_sweep(["-c", str(path), *words])[0]


def cells(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def rows_of(sweep: Sweep, value) -> list[Row]:
    """Rows of runs that were never run: `value(labels, seed)` is a val/nmse, or a status."""
    rows = []
    for run in sweep_runs(sweep):
        found = value(dict(run.point.labels), run.seed)
        status = found if isinstance(found, str) else "finished"
        metrics = {} if isinstance(found, str) else {"val/nmse": found}
        rows.append(Row(run, Path(run.name), status, {"metrics": metrics, "steps": 20}))
    return rows
