"""A comparison: learners, grid and seeds, and the runs that follow from them."""

import itertools
from dataclasses import dataclass, field
from typing import Any

from jsonargparse.typing import Path_fr

from bfc_lightning.experiments.plan import (
    ExperimentOptions,
    Limits,
    PlannedRun,
    Point,
    Trial,
)

# Settings that a user hands on to the learners are annotated as bare `dict` and `list`: with
# `dict[str, Any]`, jsonargparse would build the classes that a class_path in them names.

# Columns of compare.csv, which no axis may be named after.
COLUMNS = ("learner", "seed", "status", "steps", "samples_seen", "wall_seconds", "trials")
# Keys of a learner's block that are the comparison's, and no settings of a run.
TUNE, TUNE_WITH = "tune", "tune_with"
BASELINE = "baseline"


@dataclass
class Axis:
    """One axis of the grid.

    Args:
        key: what it varies, a dotted key of `bfc fit`, e.g. `target.init_args.level_scales`.
        values: a list of numbers or words; or label: value, where a value is more than that.
    """

    key: str
    values: list | dict  # type: ignore[type-arg]

    def labeled(self) -> dict[str, Any]:
        """Values by label, as words."""
        if isinstance(self.values, dict):
            return {str(label): value for label, value in self.values.items()}
        return {str(value): value for value in self.values}


@dataclass
class Tuning:
    """How learners that have `tune` are tuned, before any of the comparison's seeds is run.

    Args:
        seeds: of the trials; none of them may be a seed of the comparison. The trial with the best
            median over them wins, and is laid over the learner; a run that diverged or failed is
            worse than any other.
        trials: how many every learner must have, so that the comparison is fair; not checked if
            not given.
        metric: what is to be small.
    """

    seeds: list[int] = field(default_factory=lambda: [100])
    trials: int | None = None
    metric: str = "val/nmse"


@dataclass
class Scaling:
    """Which question about samples the grid answers: how many are needed as the dimension grows?

    Args:
        dimension: the axis of the grid with the input dimension; its labels are numbers.
        samples: the axis with the number of training samples, likewise. Any other axis has one
            value.
        error: that must be reached.
        metric: whose value that is; the first of `metrics` if not given.
    """

    dimension: str
    samples: str
    error: float
    metric: str | None = None


@dataclass
class Comparison:
    """What is compared.

    Args:
        base: configs of `bfc fit` that all learners share, relative to the file that names them.
        learners: name: settings in which this learner differs, laid over the base like a further
            -c; {} for the base itself. With `baseline: {class_path: ...}` among them it is run by
            `bfc baseline`. `tune: {dotted.key: [values]}` makes a trial of every combination, with
            the settings of `tune_with` laid over while it is tuned, e.g. fewer samples.
        seeds: each learner is trained with each of them; a seed means the same target and samples
            for all learners.
        grid: axis: {key: ..., values: ...}; every combination is run for every learner and seed.
        metrics: the metrics that the table and the figure show; the first is the headline.
        tuning: how the learners that have `tune` are tuned, at each point of the grid.
        limits: what a run may take.
        test: score the best checkpoint of every trained learner on the test samples, as `bfc test`
            does, so that it has test/nmse like the baselines.
        scaling: report how the samples needed for an error grow with the dimension, where the grid
            has both.
        run: the folder of the comparison.
        workers: runs at a time; cores / threads if not given.
        together: train runs that differ only in what replicas may differ in (seeds, learning rate,
            weight decay, regularization, gaps, label noise) in one process, as one batched program,
            where the fast training path can; the numbers are those of single runs, to rounding.
    """

    base: list[Path_fr]
    learners: dict[str, dict]  # type: ignore[type-arg]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    grid: dict[str, Axis] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=lambda: ["val/nmse"])
    tuning: Tuning = field(default_factory=Tuning)
    limits: Limits = field(default_factory=Limits)
    test: bool = False
    scaling: Scaling | None = None
    run: ExperimentOptions = field(default_factory=ExperimentOptions)
    workers: int | None = None
    together: bool = True


def points(comparison: Comparison) -> list[Point]:
    """Every learner at every point of the grid.

    Args:
        comparison: what is compared.

    Returns:
        Learner by learner; the last axis varies fastest.
    """
    axes = [[(name, label) for label in axis.labeled()] for name, axis in comparison.grid.items()]
    return [
        Point(learner, labels)
        for learner in comparison.learners
        for labels in itertools.product(*axes)
    ]


def planned_runs(comparison: Comparison) -> list[PlannedRun]:
    """Every run, seed by seed, so that the first ones already compare all learners.

    Args:
        comparison: what is compared.

    Returns:
        In the order in which they are begun.
    """
    return [PlannedRun(p, seed) for seed in comparison.seeds for p in points(comparison)]


def trials(comparison: Comparison, learner: str) -> list[Trial]:
    """What is tried for a learner: every combination of the values in its `tune`.

    Args:
        comparison: what is compared.
        learner: its name.

    Returns:
        The last key varies fastest; none without `tune`.
    """
    tune: dict[str, list[Any]] = comparison.learners[learner].get(TUNE, {})
    if not tune:
        return []
    return [
        Trial(tuple(zip(tune, values, strict=True))) for values in itertools.product(*tune.values())
    ]


def planned_trials(comparison: Comparison) -> list[PlannedRun]:
    """Every run of the tuning, learner by learner."""
    return [
        PlannedRun(point, seed, trial)
        for point in points(comparison)
        for trial in trials(comparison, point.learner)
        for seed in comparison.tuning.seeds
    ]
