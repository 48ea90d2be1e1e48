"""A sweep: swept keys, their values, seeds, and the runs that follow from them."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from jsonargparse.typing import Path_fr

from bfc_lightning.experiments.plan import ExperimentOptions, Limits, PlannedRun, Point


@dataclass
class Sweep:
    """What is swept.

    Args:
        base: configs of `bfc fit` that all runs share, laid over each other, relative to the file
            that names them.
        grid: dotted.key: a list of values, or {label: value}. Every combination is a point.
        points: in place of a grid, a list of points {dotted.key: value, ...}, all with the same
            keys.
        seeds: every point is run with each of them.
        metrics: the metrics that the table and the figure show; the first is the headline.
        limits: what a run may take.
        run: the folder of the sweep.
        workers: runs at a time; if not given, cores / threads, or on GPUs one for each.
        together: train runs that differ only in what replicas may differ in (seeds, learning rate,
            weight decay, regularization, gaps, label noise) in one process, as one batched program,
            where the fast training path can; the numbers are those of single runs to rounding, no
            longer bit for bit.
    """

    # Bare `dict` and `list`: with parameters, jsonargparse would build the classes in them.
    base: list[Path_fr]
    grid: dict = field(default_factory=dict)  # type: ignore[type-arg]
    points: list = field(default_factory=list)  # type: ignore[type-arg]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    metrics: list[str] = field(default_factory=lambda: ["val/nmse"])
    limits: Limits = field(default_factory=Limits)
    run: ExperimentOptions = field(default_factory=ExperimentOptions)
    workers: int | None = None
    together: bool = False


def swept_keys(sweep: Sweep) -> list[str]:
    """The dotted keys that differ between points, in the user's order."""
    return list(sweep.grid or sweep.points[0])


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """How keys are called in the names of runs, in tables and on axes.

    Args:
        keys: dotted, all different.

    Returns:
        The last words of each, as few as tell it apart from the others.
    """
    parts = {key: key.split(".") for key in keys}
    lengths = dict.fromkeys(parts, 1)
    names = {key: words[-1] for key, words in parts.items()}
    while len(set(names.values())) < len(names):
        for key, name in list(names.items()):
            if list(names.values()).count(name) > 1:
                lengths[key] += 1
        names = {key: ".".join(words[-lengths[key] :]) for key, words in parts.items()}
    return names


def labeled(values: list | dict) -> dict[str, Any]:  # type: ignore[type-arg]
    """Values of the grid by their label."""
    if isinstance(values, dict):
        return {str(label): value for label, value in values.items()}
    return {label_of(value): value for value in values}


def label_of(value: object) -> str:
    """A value as a word: as YAML has it, the entries of a list with commas between them."""
    if isinstance(value, list):
        return ",".join(label_of(entry) for entry in value)
    return _as_word(value)


def as_option(value: object) -> str:
    """A value as it is given on the command line."""
    return json.dumps(value) if isinstance(value, list | dict) else _as_word(value)


def sweep_points(sweep: Sweep) -> dict[Point, dict[str, Any]]:
    """Every point, with its settings.

    Args:
        sweep: what is swept.

    Returns:
        Values by dotted key; in a grid, the last key varies fastest.
    """
    names = short_names(swept_keys(sweep))
    if sweep.grid:
        axes = [list(labeled(values).items()) for values in sweep.grid.values()]
        combinations = list(itertools.product(*axes))
    else:
        combinations = [
            tuple((label_of(point[key]), point[key]) for key in names) for point in sweep.points
        ]
    return {
        Point(
            learner="",
            labels=tuple(zip(names.values(), (label for label, _ in chosen), strict=True)),
        ): dict(zip(names, (value for _, value in chosen), strict=True))
        for chosen in combinations
    }


def sweep_runs(sweep: Sweep) -> list[PlannedRun]:
    """Every run, seed by seed, so that the first ones already show all points."""
    return [PlannedRun(point, seed) for seed in sweep.seeds for point in sweep_points(sweep)]


def _as_word(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)
