"""What a comparison may be told, as far as its settings alone show."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bfc_lightning.experiments.comparison import (
    COLUMNS,
    TUNE,
    TUNE_WITH,
    Axis,
    Comparison,
    Scaling,
    trials,
)
from bfc_lightning.experiments.plan import Experiment, Limits
from bfc_lightning.runs.folder import RunError


def check_comparison(comparison: Comparison) -> None:
    """Refuses what can't be run, without looking into the learners' settings.

    Args:
        comparison: what is compared.

    Raises:
        RunError: if something is missing, stands twice, or makes no folder name.
    """
    check_experiment(comparison)
    if not comparison.learners:
        raise RunError("learners must not be empty.")
    for learner in comparison.learners:
        check_word("the name of a learner", learner)
    for name, axis in comparison.grid.items():
        _check_axis(name, axis)
    _check_tuning(comparison)
    _check_scaling(comparison.scaling, comparison.grid)


def check_experiment(experiment: Experiment) -> None:
    """Refuses what no experiment can be run with.

    Args:
        experiment: a comparison or a sweep.

    Raises:
        RunError: if something is missing, stands twice or is out of range.
    """
    for name in ("base", "seeds", "metrics"):
        if not getattr(experiment, name):
            raise RunError(f"{name} must not be empty.")
    for name in ("seeds", "metrics"):
        check_different(name, getattr(experiment, name))
    for seed in experiment.seeds:
        if not 0 <= seed < 2**32:
            raise RunError(f"seeds must lie in [0, 2^32), got {seed}.")
    for name, count in (("run.threads", experiment.run.threads), ("workers", experiment.workers)):
        if count is not None and count < 1:
            raise RunError(f"{name} must be at least 1, got {count}.")
    _check_limits(experiment.limits)


def _check_limits(limits: Limits) -> None:
    for name in ("seconds", "gigabytes"):
        limit = getattr(limits, name)
        if limit is not None and not limit > 0:
            raise RunError(f"limits.{name} must be positive, got {limit}.")


def _check_scaling(scaling: Scaling | None, grid: Mapping[str, Axis]) -> None:
    if scaling is None:
        return
    if not (scaling.error > 0 and math.isfinite(scaling.error)):
        raise RunError(f"scaling.error must be positive, got {scaling.error}.")
    asked = (scaling.dimension, scaling.samples)
    for what, name in zip(("dimension", "samples"), asked, strict=True):
        if name not in grid:
            raise RunError(f"scaling.{what} must be an axis of grid, got {name!r}.")
        labels = list(grid[name].labeled())
        numbers = {_positive(label) for label in labels}
        if None in numbers or len(numbers) < 2:
            raise RunError(
                f"scaling.{what} must be an axis of at least two positive numbers, got "
                f"{', '.join(labels)}."
            )
    if scaling.dimension == scaling.samples:
        raise RunError(f"scaling.samples must differ from scaling.dimension, got {asked[0]!r}.")
    for name, axis in grid.items():
        if name not in asked and len(axis.values) > 1:
            raise RunError(
                f"grid.{name} must have one value where scaling is given, got {len(axis.values)}."
            )


def _positive(label: str) -> float | None:
    try:
        number = float(label)
    except ValueError:
        return None
    return number if 0 < number < math.inf else None


def _check_tuning(comparison: Comparison) -> None:
    for learner, block in comparison.learners.items():
        _check_tune(f"learners.{learner}", block)
    counts = {learner: len(trials(comparison, learner)) for learner in comparison.learners}
    wanted = comparison.tuning.trials
    unequal = [learner for learner, count in counts.items() if wanted not in (None, count)]
    if unequal:
        raise RunError(
            f"every learner must have {wanted} trials (tuning.trials), got {counts[unequal[0]]} "
            f"for {unequal[0]}."
        )
    both = sorted(set(comparison.tuning.seeds) & set(comparison.seeds))
    if any(counts.values()) and both:
        raise RunError(f"tuning.seeds must not be among seeds, got {both[0]} in both.")
    if any(counts.values()) and not comparison.tuning.seeds:
        raise RunError("tuning.seeds must not be empty.")


def _check_tune(name: str, block: Mapping[str, Any]) -> None:
    tune, tune_with = block.get(TUNE, {}), block.get(TUNE_WITH, {})
    if not isinstance(tune, dict) or not isinstance(tune_with, dict):
        raise RunError(f"{name}: tune and tune_with must be mappings.")
    if tune_with and not tune:
        raise RunError(f"{name}.tune_with must come with tune.")
    for key, values in tune.items():
        if not isinstance(values, list) or not values:
            raise RunError(f"{name}.tune.{key} must be a list of values, got {values!r}.")
        for value in values:
            if isinstance(value, list | dict):
                raise RunError(f"{name}.tune.{key} must list numbers or words, got {value!r}.")
            check_word(f"a value of {name}.tune.{key}", str(value))
        check_different(f"{name}.tune.{key}", [str(value) for value in values])


def _check_axis(name: str, axis: Axis) -> None:
    check_word("the name of an axis", name)
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
    check_different(f"grid.{name}.values", [str(value) for value in axis.values])
    for label in axis.labeled():
        check_word(f"a label of the axis {name}", label)


def check_different(name: str, values: Iterable[object]) -> None:
    """Refuses values of which one stands twice.

    Args:
        name: of the setting.
        values: in it.

    Raises:
        RunError: if one does.
    """
    seen: set[object] = set()
    for value in values:
        if value in seen:
            raise RunError(f"{name} must all be different, got {value} twice.")
        seen.add(value)


def check_word(what: str, word: str) -> None:
    """Refuses words that can't be a part of the name of a folder.

    Args:
        what: is called so.
        word: its name.

    Raises:
        RunError: if it can't.
    """
    plain = word == word.strip() and not word.startswith(".") and word.isprintable()
    if not word or not plain or any(sign in word for sign in "/\\="):
        raise RunError(f"{what} must be a plain folder name without '=', got {word!r}.")
