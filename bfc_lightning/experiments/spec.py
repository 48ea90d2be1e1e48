"""An experiment as data: learners, a grid, seeds, and the runs that follow from them."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

Status = StrEnum("Status", "FINISHED DIVERGED FAILED TIMEOUT OOM INTERRUPTED SUBMITTED MISSING")
DONE = (Status.FINISHED, Status.DIVERGED, Status.TIMEOUT, Status.OOM)
"""States of runs that are not run again."""

MARK = "compare.yaml"
"""The file that makes a folder that of an experiment."""

Settings = Mapping[str, Any]
Chosen = dict[tuple[str, ...], str]
"""The trial that won, by learner and labels."""


@dataclass(frozen=True)
class Limits:
    """The most that a run may take: wall-clock seconds, and gigabytes of memory (Linux only)."""

    seconds: PositiveFloat | None = None
    gigabytes: PositiveFloat | None = None


@dataclass(frozen=True)
class Tuning:
    """How learners with `tune` are tuned: seeds of the trials, trials per learner, metric."""

    seeds: list[NonNegativeInt] = field(default_factory=lambda: [100])
    trials: PositiveInt | None = None
    metric: str = "val/nmse"


@dataclass(frozen=True)
class Scaling:
    """Axes of the grid with input dimension and samples, and the error that must be reached."""

    dimension: str
    samples: str
    error: PositiveFloat
    metric: str | None = None


@dataclass(frozen=True)
class ExperimentOptions:
    """Folder and threads: a name that exists is continued unless `overwrite` deletes it first."""

    name: str | None = None
    root: str = "logs"
    overwrite: bool = False
    threads: PositiveInt = 1


@dataclass(frozen=True)
class Cluster:
    """Where runs are made: in this machine's pool, or in jobs by submitit, and what a job gets.

    `debug` and `subprocess` are submitit's executors without a scheduler.
    """

    name: Literal["local", "slurm", "debug", "subprocess"] = "local"
    partition: str | None = None
    time: PositiveInt = 30  # minutes
    cpus: PositiveInt = 1
    gpus: NonNegativeInt = 0
    memory: str | None = None
    parallelism: PositiveInt = 256
    runs_per_job: PositiveInt | None = None
    wait: bool = False
    options: dict = field(default_factory=dict)  # type: ignore[type-arg]


@dataclass(frozen=True)
class ExperimentFile:
    """What the YAML file of an experiment may contain, and the command line may change."""

    # Bare `dict`: with parameters, jsonargparse would build the classes in them.
    base: list[str] = field(default_factory=list)
    learners: dict = field(default_factory=dict)  # type: ignore[type-arg]
    grid: dict = field(default_factory=dict)  # type: ignore[type-arg]
    points: list[dict] = field(default_factory=list)  # type: ignore[type-arg]
    seeds: list[NonNegativeInt] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    metrics: list[str] = field(default_factory=lambda: ["val/nmse"])
    published: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=Tuning)
    limits: Limits = field(default_factory=Limits)
    scaling: Scaling | None = None
    test: bool = False
    replicas: bool = False
    workers: PositiveInt | None = None
    run: ExperimentOptions = field(default_factory=ExperimentOptions)
    cluster: Cluster = field(default_factory=Cluster)


@dataclass(frozen=True, kw_only=True)
class Experiment(ExperimentFile):
    """An experiment, read: `settings` are those of the base, and a sweep has one learner, "".

    An axis of the grid has, for each label, the values that it gives to dotted keys.
    """

    settings: Settings
    axes: Mapping[str, Mapping[str, Settings]]
    source: ExperimentFile
    folder: Path
    command: str


@dataclass(frozen=True)
class RunSpec:
    """One run of an experiment: every setting but seed and folder, and a digest with the seed.

    Replicas have consecutive seeds, of which `seed` is the first. Runs of the same shape, of which
    there are `num_alike`, share a compiled training step.
    A learner that is tuned has a run for every trial; those of the tuning are `is_trial`. The best
    checkpoint of a run that `is_tested` is scored on the test samples.
    """

    stem: str
    seed: int
    config: Settings
    digest: str
    learner: str
    labels: Mapping[str, str]
    trial: str
    num_seeds: int = 1
    num_alike: int = 1
    is_trial: bool = False
    is_tested: bool = False

    @property
    def name(self) -> str:
        """The name of the run folder below `runs/`."""
        if self.num_seeds == 1:
            return f"{self.stem}-seed{self.seed}"
        return f"{self.stem}-seeds{self.seed}-{self.seed + self.num_seeds - 1}"

    @property
    def point(self) -> tuple[str, ...]:
        """Learner and labels."""
        return self.learner, *self.labels.values()


def trials_of(learner: Settings) -> dict[str, Settings]:
    """Every combination of the values of `tune`, by name; empty if nothing is tuned.

    A name is e.g. `lr=0.007,width=4`.
    """
    tune = learner.get("tune", {})
    combinations = itertools.product(*tune.values()) if tune else ()
    tried = [dict(zip(tune, values, strict=True)) for values in combinations]
    names = (",".join(f"{key.rpartition('.')[2]}={each[key]}" for key in each) for each in tried)
    return dict(zip(names, tried, strict=True))
