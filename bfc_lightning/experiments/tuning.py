"""Which of a learner's trials wins."""

import math

import pandas as pd

from bfc_lightning.experiments.spec import (
    DONE,
    FAILED,
    FINISHED,
    Chosen,
    Experiment,
    trials_of,
)
from bfc_lightning.experiments.tables import by_point

_MIN_VALUES_FOR_EDGES = 3


def choose(experiment: Experiment, trials: pd.DataFrame) -> Chosen:
    """The trial with the smallest median over the tuning seeds; the first of several equal ones.

    A run that did not finish counts as infinite. A point is left out until its trials are over.
    """
    return {
        point: str(_scores(experiment, rows).idxmin())
        for point, rows in by_point(experiment, trials)
        if rows["status"].isin([*DONE, FAILED]).all()
    }


def edge_warnings(experiment: Experiment, chosen: Chosen, trials: pd.DataFrame) -> list[str]:
    """What to warn of: no finite score, or the best value is the first or last of those tried."""
    lines = []
    for point, rows in by_point(experiment, trials):
        if point not in chosen:
            continue
        name = rows["run"].iloc[0].rpartition("-trial(")[0]
        if math.isinf(_scores(experiment, rows).min()):
            metric = experiment.tuning.metric
            lines.append(f"No trial of {name} has a finite {metric}; the first one is used.")
            continue
        block = experiment.learners[point[0]]
        for key, value in trials_of(block)[chosen[point]].items():
            tried = block["tune"][key]
            has_ends = len(tried) >= _MIN_VALUES_FOR_EDGES and isinstance(value, int | float)
            if has_ends and value in (min(tried), max(tried)):
                lines.append(
                    f"The best {key} of {name}, {value}, is at the end of the values tried."
                )
    return lines


def _scores(experiment: Experiment, rows: pd.DataFrame) -> "pd.Series[float]":
    """The median over the tuning seeds by trial, in the order of the rows."""
    scores = rows.reindex(columns=[experiment.tuning.metric])[experiment.tuning.metric]
    scores = scores.where(rows["status"] == FINISHED).fillna(math.inf)
    return scores.groupby(rows["trial"], sort=False).median()
