"""What several learners have in common: medians and ranges of their numbers."""

import math
from collections.abc import Mapping, Sequence
from statistics import median


def median_of(values: Sequence[float]) -> float:
    """The median of the finite values; NaN where there are none.

    Args:
        values: one a replica.

    Returns:
        The median.
    """
    finite = [value for value in values if math.isfinite(value)]
    return median(finite) if finite else math.nan


def summarized(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Numbers of all replicas as medians; where they differ, their range as `low/` and `high/KEY`.

    Args:
        rows: one a replica, values by key; NaN and infinity are left out.

    Returns:
        Values by key.
    """
    together: dict[str, float] = {}
    for key, values in _finite_values(rows).items():
        together[key] = median(values)
        if min(values) < max(values):
            together[f"low/{key}"], together[f"high/{key}"] = min(values), max(values)
    return together


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The medians alone.

    Args:
        rows: one a replica, values by key; NaN and infinity are left out.

    Returns:
        Values by key.
    """
    return {key: median(values) for key, values in _finite_values(rows).items()}


def _finite_values(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """All finite values of every key that has one."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if math.isfinite(value):
                found.setdefault(key, []).append(value)
    return found
