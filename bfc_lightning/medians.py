"""Medians and ranges of the metrics of several replicas."""

import math
from collections.abc import Mapping, Sequence
from statistics import median


def median_of(values: Sequence[float]) -> float:
    """The median of the finite values, or NaN if there are none.

    Args:
        values: one per replica.

    Returns:
        The median.
    """
    finite = [value for value in values if math.isfinite(value)]
    return median(finite) if finite else math.nan


def summarized(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each metric. If replicas differ, `low/KEY` and `high/KEY` hold the range.

    Args:
        rows: one per replica, values by key. Non-finite values are ignored.

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
    """The median of each metric, without ranges.

    Args:
        rows: one per replica, values by key. Non-finite values are ignored.

    Returns:
        Values by key.
    """
    return {key: median(values) for key, values in _finite_values(rows).items()}


def _finite_values(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """All finite values of each key that has at least one."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if math.isfinite(value):
                found.setdefault(key, []).append(value)
    return found
