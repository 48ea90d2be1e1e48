"""Medians and ranges over replicas, worked by hand."""

import math

from bfc_lightning.medians import median_of, medians, summarized

ROWS = [
    {"a": 1.0, "same": 2.0, "lost": math.nan},
    {"a": 5.0, "same": 2.0, "lost": math.inf},
    {"a": 2.0, "same": 2.0, "rare": 7.0},
    {"a": math.nan, "same": 2.0},
]


def test_median_is_that_of_the_finite_values():
    assert median_of([3.0, math.inf, 1.0, math.nan]) == 2.0
    assert math.isnan(median_of([math.nan, math.inf]))
    assert math.isnan(median_of([]))
    assert medians(ROWS) == {"a": 2.0, "same": 2.0, "rare": 7.0}


def test_range_is_told_where_values_differ():
    assert summarized(ROWS) == {"a": 2.0, "low/a": 1.0, "high/a": 5.0, "same": 2.0, "rare": 7.0}
