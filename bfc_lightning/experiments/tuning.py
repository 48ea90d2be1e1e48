"""Which of a learner's trials wins."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from bfc_lightning.experiments.spec import DONE, FAILED, FINISHED, Experiment, Point
from bfc_lightning.experiments.tables import Chosen, by_point

_MIN_VALUES_FOR_EDGES = 3


def choose(
    experiment: Experiment, trials: pd.DataFrame, values: Mapping[str, Mapping[str, Any]]
) -> dict[Point, dict[str, Any]]:
    """The trial with the smallest median over the tuning seeds; the first of several equal ones.

    `values` has the tuned values by `LEARNER:TRIAL`. A run that did not finish counts as infinite.
    A point is left out until all its trials are over.
    """
    return {
        point: dict(values[f"{point[0]}:{_scores(experiment, rows).idxmin()}"])
        for point, rows in by_point(experiment, trials)
        if rows["status"].isin([*DONE, FAILED]).all()
    }


def edge_warnings(experiment: Experiment, chosen: Chosen, trials: pd.DataFrame) -> list[str]:
    """What to warn of: no finite score, or the best value is the first or last of those tried."""
    lines = []
    for point, rows in by_point(experiment, trials):
        axes = zip((axis.name for axis in experiment.axes), point[1], strict=True)
        name = "-".join([*filter(None, point[:1]), *(f"{axis}={label}" for axis, label in axes)])
        values, tried = chosen.get(point, {}), experiment.learners[point[0]]["tune"]
        if values and math.isinf(_scores(experiment, rows).min()):
            metric = experiment.tuning.metric
            lines.append(f"No trial of {name} has a finite {metric}; the first one is used.")
            continue
        for key, value in values.items():
            has_ends = len(tried[key]) >= _MIN_VALUES_FOR_EDGES and isinstance(value, int | float)
            if has_ends and value in (min(tried[key]), max(tried[key])):
                lines.append(
                    f"The best {key} of {name}, {value}, is at the end of the values tried."
                )
    return lines


def _scores(experiment: Experiment, rows: pd.DataFrame) -> "pd.Series[float]":
    """The median over the tuning seeds by trial, in the order of the rows."""
    scores = rows.reindex(columns=[experiment.tuning.metric])[experiment.tuning.metric]
    scores = scores.where(rows["status"] == FINISHED).fillna(math.inf)
    return scores.groupby(rows["trial"], sort=False).median()
