"""What every experiment of many runs is made of: points, seeds, limits, a folder."""

import os
from dataclasses import dataclass
from typing import Any, Protocol

from jsonargparse.typing import Path_fr


@dataclass
class ExperimentOptions:
    """Where an experiment of many runs lives, and what of the machine it takes.

    Args:
        name: of the experiment and its folder; the first config's name if not given. One that
            exists is gone on with.
        root: the folder that it is put in.
        overwrite: delete the experiment of this name first, with all its runs.
        threads: CPU threads of each run.
    """

    name: str | None = None
    root: str = "logs"
    overwrite: bool = False
    threads: int = 1


@dataclass
class Limits:
    """What a run may take.

    One that takes more is stopped, is a row that says so, and the others go on. It is not run again
    unless the limit has grown or its settings have changed.

    Args:
        seconds: of wall time for each run.
        gigabytes: of memory for each run, on top of what its process holds before; enforced where
            the system limits a process's address space, which Linux does and macOS does not.
    """

    seconds: float | None = None
    gigabytes: float | None = None


@dataclass(frozen=True)
class Point:
    """A learner at a point of the grid: what is repeated with every seed.

    Args:
        learner: its name; none in a sweep, where there is only one.
        labels: (axis, label) for every axis.
    """

    learner: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Learner and labels, as in the names of runs."""
        labels = [f"{axis}={label}" for axis, label in self.labels]
        return "-".join([self.learner, *labels] if self.learner else labels)


@dataclass(frozen=True)
class Trial:
    """One choice of the settings that a learner is tuned in.

    Args:
        chosen: (dotted key, value) for every key.
    """

    chosen: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """Keys by their last word, with their values, as in the names of runs."""
        return ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.chosen)


@dataclass(frozen=True)
class PlannedRun:
    """One `bfc fit` or `bfc baseline` of an experiment.

    Args:
        point: learner and point of the grid.
        seed: of the run.
        trial: what is tried, where the run is for tuning.
    """

    point: Point
    seed: int
    trial: Trial | None = None

    @property
    def name(self) -> str:
        """Of the run folder."""
        tried = "" if self.trial is None else f"-tune({self.trial.name})"
        return f"{self.point.name}{tried}-seed{self.seed}"


class Experiment(Protocol):
    """What comparisons and sweeps have in common."""

    base: list[Path_fr]
    seeds: list[int]
    metrics: list[str]
    limits: Limits
    run: ExperimentOptions
    workers: int | None
    together: bool


def num_cores() -> int:
    """Cores that this process may use, where the system tells; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_workers(experiment: Experiment) -> int:
    """Runs at a time: the user's, or as many as the cores that this process may use allow."""
    if experiment.workers is not None:
        return experiment.workers
    return max(1, num_cores() // experiment.run.threads)
