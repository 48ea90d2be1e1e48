"""A comparison: learners, grid and seeds, and the runs that follow from them."""

import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse.typing import Path_fr

from bfc_lightning.runs.folder import RunError

# Settings that a user hands on to the learners are annotated as bare `dict` and `list`: with
# `dict[str, Any]`, jsonargparse would build the classes that a class_path in them names.

# Columns of compare.csv, which no axis may be named after.
COLUMNS = ("learner", "seed", "status", "steps", "samples_seen", "wall_seconds")


@dataclass
class Axis:
    """One axis of the grid.

    Args:
        key: what it varies, a dotted key of `bfc fit`, e.g. `target.init_args.level_scales`.
        values: a list of numbers or words; or label: value, where a value is more than that.
    """

    key: str
    values: list | dict  # type: ignore[type-arg]

    def labelled(self) -> dict[str, Any]:
        """Values by label, as words."""
        if isinstance(self.values, dict):
            return {str(label): value for label, value in self.values.items()}
        return {str(value): value for value in self.values}


@dataclass
class ComparisonOptions:
    """Where a comparison lives, and what of the machine it takes.

    Args:
        name: of the comparison and its folder; the first config's name if not given. One that
            exists is gone on with.
        root: the folder that it is put in.
        overwrite: delete the comparison of this name first, with all its runs.
        threads: CPU threads of each run.
    """

    name: str | None = None
    root: str = "logs"
    overwrite: bool = False
    threads: int = 1


@dataclass
class Comparison:
    """What is compared.

    Args:
        base: configs of `bfc fit` that all learners share, relative to the file that names them.
        learners: name: settings in which this learner differs, laid over the base like a further
            -c; {} for the base itself.
        seeds: each learner is trained with each of them; a seed means the same target and samples
            for all learners.
        grid: axis: {key: ..., values: ...}; every combination is run for every learner and seed.
        metrics: the metrics that the table and the figure show; the first is the headline.
        run: the folder of the comparison.
        workers: runs at a time; cores / threads if not given.
    """

    base: list[Path_fr]
    learners: dict[str, dict]  # type: ignore[type-arg]
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    grid: dict[str, Axis] = field(default_factory=dict)
    metrics: list[str] = field(default_factory=lambda: ["val/nmse"])
    run: ComparisonOptions = field(default_factory=ComparisonOptions)
    workers: int | None = None


@dataclass(frozen=True)
class Point:
    """A learner at a point of the grid: what is repeated with every seed.

    Args:
        learner: its name.
        labels: (axis, label) for every axis.
    """

    learner: str
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """Learner and labels, as in the names of runs."""
        return "-".join([self.learner, *(f"{axis}={label}" for axis, label in self.labels)])


@dataclass(frozen=True)
class PlannedRun:
    """One `bfc fit` of a comparison.

    Args:
        point: learner and point of the grid.
        seed: of the run.
    """

    point: Point
    seed: int

    @property
    def name(self) -> str:
        """Of the run folder."""
        return f"{self.point.name}-seed{self.seed}"


def points(comparison: Comparison) -> list[Point]:
    """Every learner at every point of the grid.

    Args:
        comparison: what is compared.

    Returns:
        Learner by learner; the last axis varies fastest.
    """
    axes = [[(name, label) for label in axis.labelled()] for name, axis in comparison.grid.items()]
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


def num_workers(comparison: Comparison) -> int:
    """Runs at a time: the user's, or as many as the cores that this process may use allow."""
    if comparison.workers is not None:
        return comparison.workers
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, cores // comparison.run.threads)


def settings_files(comparison: Comparison) -> dict[str, str]:
    """The configs that the runs are made from, as a comparison's folder keeps them.

    Args:
        comparison: what is compared.

    Returns:
        Text by path in the folder: `base/*`, `learners/NAME.yaml`, `grid/AXIS=LABEL.yaml`.
    """
    files = {
        name: Path(path.absolute).read_text(encoding="utf-8")
        for name, path in zip(_base_names(comparison), comparison.base, strict=True)
    }
    for learner, block in comparison.learners.items():
        files[f"learners/{learner}.yaml"] = as_yaml(block)
    for name, axis in comparison.grid.items():
        for label, value in axis.labelled().items():
            files[f"grid/{name}={label}.yaml"] = as_yaml(_nested(axis.key, value))
    return files


def files_of(comparison: Comparison, point: Point) -> list[str]:
    """Which of `settings_files` a point's runs are made from, later ones laid over earlier ones."""
    grid = [f"grid/{axis}={label}.yaml" for axis, label in point.labels]
    return [*_base_names(comparison), f"learners/{point.learner}.yaml", *grid]


def fit_words(comparison: Comparison, run: PlannedRun, folder: Path) -> list[str]:
    """The words after `bfc` that make a run.

    Args:
        comparison: what is compared.
        run: one of its runs.
        folder: of the comparison.

    Returns:
        `fit` and its arguments.
    """
    configs = [("-c", str(folder / name)) for name in files_of(comparison, run.point)]
    options = {
        "seed_everything": run.seed,
        "run.root": folder / "runs",
        "run.name": run.name,
        "run.overwrite": "false",
        "run.figures": "false",
        "run.threads": comparison.run.threads,
        "resume": "auto",
        "trainer.enable_progress_bar": "false",
    }
    given = [(f"--{key}", str(value)) for key, value in options.items()]
    return ["fit", *itertools.chain.from_iterable([*configs, *given])]


def check_comparison(comparison: Comparison) -> None:
    """Refuses what can't be run, without looking into the learners' settings.

    Args:
        comparison: what is compared.

    Raises:
        RunError: if something is missing, stands twice, or makes no folder name.
    """
    for name in ("base", "learners", "seeds", "metrics"):
        if not getattr(comparison, name):
            raise RunError(f"{name} must not be empty.")
    for name in ("seeds", "metrics"):
        _check_different(name, getattr(comparison, name))
    for seed in comparison.seeds:
        if not 0 <= seed < 2**32:
            raise RunError(f"seeds must lie in [0, 2^32), got {seed}.")
    for name, count in (("run.threads", comparison.run.threads), ("workers", comparison.workers)):
        if count is not None and count < 1:
            raise RunError(f"{name} must be at least 1, got {count}.")
    for learner in comparison.learners:
        _check_word("the name of a learner", learner)
    for name, axis in comparison.grid.items():
        _check_axis(name, axis)


def _check_axis(name: str, axis: Axis) -> None:
    _check_word("the name of an axis", name)
    if name in COLUMNS:
        raise RunError(f"an axis must not be named like a column of compare.csv, got {name!r}.")
    if not axis.key or not all(axis.key.split(".")):
        raise RunError(f"grid.{name}.key must be a dotted key of bfc fit, got {axis.key!r}.")
    if not axis.values:
        raise RunError(f"grid.{name}.values must not be empty.")
    if isinstance(axis.values, list):
        nested = [value for value in axis.values if isinstance(value, list | dict)]
        if nested:
            raise RunError(
                f"grid.{name}.values must be numbers or words, or label: value for what is more, "
                f"got {nested[0]!r}."
            )
    _check_different(f"grid.{name}.values", [str(value) for value in axis.values])
    for label in axis.labelled():
        _check_word(f"a label of the axis {name}", label)


def _check_different(name: str, values: Iterable[object]) -> None:
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise RunError(f"{name} must all be different, got {value} twice.")
        seen.add(value)


def _check_word(what: str, word: str) -> None:
    plain = word == word.strip() and not word.startswith(".") and word.isprintable()
    if not word or not plain or any(sign in word for sign in "/\\="):
        raise RunError(f"{what} must be a plain folder name without '=', got {word!r}.")


def as_yaml(content: Mapping[str, Any]) -> str:
    """A mapping as YAML text, in its order; short lists in one line."""
    text: str = yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=None, width=100)
    return text


def _base_names(comparison: Comparison) -> list[str]:
    """The bases' names in the folder; a number tells apart those of the same name."""
    names: list[str] = []
    for path in comparison.base:
        name, number = f"base/{Path(path.absolute).name}", 1
        while name in names:
            number += 1
            name = f"base/{number}-{Path(path.absolute).name}"
        names.append(name)
    return names


def _nested(key: str, value: object) -> dict[str, Any]:
    first, _, rest = key.partition(".")
    return {first: _nested(rest, value) if rest else value}
