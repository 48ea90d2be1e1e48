"""What a sweep may be told, as far as its settings alone show."""

from collections.abc import Mapping, Sequence
from typing import Any

from bfc_lightning.experiments.checks import check_different, check_experiment, check_word
from bfc_lightning.experiments.sweeps.sweep import Sweep, label_of, labeled, sweep_runs
from bfc_lightning.runs.folder import LONGEST_NAME, RunError


def check_sweep(sweep: Sweep) -> None:
    """Refuses what can't be run, without looking into the settings of the runs.

    Args:
        sweep: what is swept.

    Raises:
        RunError: if something is missing, stands twice, or makes no folder name.
    """
    check_experiment(sweep)
    if bool(sweep.grid) == bool(sweep.points):
        raise RunError(f"one of grid and points must be given, got {_both(sweep)}.")
    for key, values in sweep.grid.items():
        _check_key(key)
        _check_values(key, values)
    for number, point in enumerate(sweep.points):
        _check_point(f"points[{number}]", point, sweep.points[0])
    check_different("points", [_in_words(point) for point in sweep.points])
    longest = max((run.name for run in sweep_runs(sweep)), key=lambda name: len(name.encode()))
    if len(longest.encode()) > LONGEST_NAME:
        raise RunError(
            f"the name of a run must have at most {LONGEST_NAME} bytes, got {longest}: give the "
            "values short labels, label: value."
        )


def _both(sweep: Sweep) -> str:
    return "both" if sweep.grid else "neither"


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not all(key.split(".")):
        raise RunError(f"a swept key must be a dotted key of bfc fit, got {key!r}.")


def _check_values(key: str, values: object) -> None:
    if not isinstance(values, list | dict) or not values:
        raise RunError(
            f"grid.{key} must be a list of values, or label: value for each, got {values!r}."
        )
    if isinstance(values, list):
        for value in values:
            _check_plain(f"a value of grid.{key}", value)
        check_different(f"grid.{key}", [label_of(value) for value in values])
    for label in labeled(values):
        check_word(f"a label of grid.{key}", label)


def _check_point(name: str, point: object, first: Mapping[str, Any]) -> None:
    if not isinstance(point, dict) or not point:
        raise RunError(f"{name} must be a mapping of dotted keys to values, got {point!r}.")
    for key, value in point.items():
        _check_key(key)
        _check_plain(f"{name}.{key}", value)
        check_word(f"{name}.{key}", label_of(value))
    differing = sorted(set(point) ^ set(first))
    if differing:
        raise RunError(
            f"{name} must have the same keys as the first point, {', '.join(first)}, got "
            f"{', '.join(point)}."
        )


def _check_plain(name: str, value: object) -> None:
    """Refuses what has no plain word for a name.

    Raises:
        RunError: if it has none.
    """
    entries: Sequence[object] = value if isinstance(value, list) else [value]
    if any(isinstance(entry, list | dict) for entry in entries):
        raise RunError(
            f"{name} must be a number, a word or a list of them (or, in a grid, label: value for "
            f"what is more), got {value!r}."
        )


def _in_words(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {label_of(point[key])}" for key in sorted(point))
