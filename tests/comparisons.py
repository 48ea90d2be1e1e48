"""Comparisons of tiny learners, for tests."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from bfc_lightning.cli.comparing import parse_comparison
from bfc_lightning.cli.fit_parser import read_fit
from bfc_lightning.experiments.commands import commands_of
from bfc_lightning.experiments.folder import claimed
from bfc_lightning.experiments.grouping import Grouping
from bfc_lightning.experiments.kept_plan import KeptPlan
from bfc_lightning.experiments.plan import PlannedRun
from tests.runs import TINY

POISON = {"callbacks": [{"class_path": "tests.interventions.PoisonAt", "init_args": {"step": 9}}]}
KILL = {
    "callbacks": [
        {"class_path": "tests.interventions.SignalAt", "init_args": {"step": 9, "signum": 9}}
    ]
}


def write(folder: Path, name: str = "few", **content: object) -> Path:
    """A comparison of tiny learners, in a file of its own."""
    learners = {"narrow": {"model": {"width": 4}}, "wide": {}}
    return write_experiment(folder, name, {"learners": learners, **content})


def write_experiment(folder: Path, name: str, content: Mapping[str, object]) -> Path:
    """Two seeds of something tiny and short, in a file of its own."""
    short = folder / "short.yaml"
    if not short.exists():
        short.write_text("trainer: {max_steps: 20, val_check_interval: 10}\n")
    settings = {
        "base": [str(Path(TINY).resolve()), "short.yaml"],
        "seeds": [0, 1],
        "run": {"root": str(folder / "logs")},
        "workers": 1,
        **content,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def parse(path: Path, *words: str):
    return parse_comparison(["-c", str(path), *words])[0]


def cells(folder: Path) -> list[dict[str, str]]:
    with (folder / "compare.csv").open() as file:
        return list(csv.DictReader(file))


def plan_together(path: Path, folder: Path, runs: Sequence[PlannedRun]) -> Path:
    """Leaves what a comparison leaves that is killed while it trains a group of these runs.

    Returns:
        The folder of the replicas.
    """
    comparison = parse(path)
    with claimed(comparison, folder):
        grouping = Grouping(lambda run: commands_of(comparison, run, folder), read_fit)
        group = grouping.group(runs)
        kept = KeptPlan(folder / "together" / "runs")
        kept.write([group])
    return kept.folder / group.name
