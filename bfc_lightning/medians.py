"""Medians and ranges of the metrics of several replicas. Non-finite values are ignored."""

import math
from collections.abc import Mapping, Sequence
from statistics import median


def median_of(values: Sequence[float]) -> float:
    """The median of the finite values, or NaN if there are none."""
    finite = [value for value in values if math.isfinite(value)]
    return median(finite) if finite else math.nan


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each metric over the rows, one row per replica."""
    return {key: median(values) for key, values in _finite_values(rows).items()}


def summarized(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`medians`. If replicas differ, `low/KEY` and `high/KEY` hold the range of a metric."""
    summary = medians(rows)
    for key, values in _finite_values(rows).items():
        if min(values) < max(values):
            summary |= {f"low/{key}": min(values), f"high/{key}": max(values)}
    return summary


def _finite_values(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """All finite values of each key that has at least one."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for key, value in row.items():
            if math.isfinite(value):
                found.setdefault(key, []).append(value)
    return found
