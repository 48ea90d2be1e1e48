"""An experiment as data: learners, a grid, seeds, and the runs that follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"
TIMEOUT, OOM = "timeout", "oom"
INTERRUPTED, MISSING = "interrupted", "missing"
DONE = (FINISHED, DIVERGED, TIMEOUT, OOM)
"""States of runs that are not run again."""

Point = tuple[str, tuple[str, ...]]
"""A learner and the label of every axis: what is repeated with every seed."""


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
class ExperimentFile:
    """What the YAML file of an experiment may contain, and the command line may change."""

    # Bare `dict` and `list`: with parameters, jsonargparse would build the classes in them.
    base: list[str]
    learners: dict = field(default_factory=dict)  # type: ignore[type-arg]
    grid: dict = field(default_factory=dict)  # type: ignore[type-arg]
    points: list = field(default_factory=list)  # type: ignore[type-arg]
    seeds: list[NonNegativeInt] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    metrics: list[str] = field(default_factory=lambda: ["val/nmse"])
    tuning: Tuning = field(default_factory=Tuning)
    limits: Limits = field(default_factory=Limits)
    scaling: Scaling | None = None
    test: bool = False
    workers: PositiveInt | None = None
    run: ExperimentOptions = field(default_factory=ExperimentOptions)


@dataclass(frozen=True)
class Axis:
    """One axis of the grid: for each label the values that it gives to dotted keys."""

    name: str
    values: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class RunSpec:
    """One run of an experiment, fully resolved.

    Attributes:
        name: of the run folder below `runs/`.
        learner: name of the learner; empty in a sweep.
        labels: the label of every axis.
        seed: of the run.
        config: every setting but seed and folder.
        digest: of the settings that determine the numbers, seed included.
        is_baseline: whether `bfc baseline` makes the run.
        trial: values of the tuned keys; empty for a learner that is not tuned.
        is_trial: whether the run belongs to the tuning.
    """

    name: str
    learner: str
    labels: Mapping[str, str]
    seed: int
    config: Mapping[str, Any]
    digest: str
    is_baseline: bool = False
    trial: Mapping[str, Any] = field(default_factory=dict)
    is_trial: bool = False

    @property
    def point(self) -> Point:
        """Learner and labels."""
        return self.learner, tuple(self.labels.values())

    @property
    def stem(self) -> str:
        """The name without the seed, which the file of the settings has."""
        return self.name.rpartition("-seed")[0]


@dataclass(frozen=True)
class Experiment:
    """An experiment, read: settings merged and axes labeled.

    Attributes:
        base: settings of `bfc fit` that all runs share.
        learners: settings by name of the learner; one without a name in a sweep.
        axes: of the grid, or one axis of points.
        seeds: every learner is run with each of them at every point of the grid.
        metrics: of tables and figures; the first is the headline.
        tuning: of the learners that have `tune`.
        limits: for each run.
        scaling: which question about samples the grid answers, if any.
        test: whether the best checkpoint is scored on the test samples.
        workers: runs at a time.
        threads: CPU threads of each run.
        source: the content of the file, for `compare.yaml`.
    """

    base: Mapping[str, Any]
    learners: Mapping[str, Mapping[str, Any]]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    tuning: Tuning
    limits: Limits
    scaling: Scaling | None
    test: bool
    workers: int | None
    threads: int
    source: Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where an experiment lives: its folder, and the command that runs it."""

    folder: Path
    command: str


def trial_name(values: Mapping[str, Any]) -> str:
    """The values of the tuned keys, e.g. `lr=0.007,width=4`."""
    return ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())
