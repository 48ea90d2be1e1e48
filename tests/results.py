"""Experiments and their results, made up for tests."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from bfc_lightning.experiments.spec import Axis, Experiment, Limits, Scaling, Tuning


def experiment(
    learners: Sequence[str] | Mapping[str, Mapping[str, object]] = ("a", "b"),
    *,
    seeds: Sequence[int] = (0, 1, 2),
    metrics: Sequence[str] = ("val/nmse",),
    scaling: Scaling | None = None,
    tuning: Tuning | None = None,
    **axes: Sequence[str],
) -> Experiment:
    """An experiment with these learners and labels by axis."""
    if not isinstance(learners, Mapping):
        learners = {name: {} for name in learners}
    return Experiment(
        base={},
        learners=learners,
        axes=tuple(Axis(name, {label: {} for label in labels}) for name, labels in axes.items()),
        seeds=tuple(seeds),
        metrics=tuple(metrics),
        tuning=tuning or Tuning(),
        limits=Limits(),
        scaling=scaling,
        test=False,
        workers=None,
        threads=1,
        source={"learners": dict(learners), "grid": {k: list(v) for k, v in axes.items()}},
    )


def results(spec: Experiment, value: Callable[..., object], *, steps: float = 10.0) -> pd.DataFrame:
    """`value(learner, *labels, seed)` is a run's val/nmse, all its metrics, or its status."""
    grid = list(itertools.product(*(axis.values for axis in spec.axes)))
    rows = []
    for learner, labels, seed in itertools.product(spec.learners, grid, spec.seeds):
        found = value(learner, *labels, seed)
        status = found if isinstance(found, str) else "finished"
        metrics = {} if isinstance(found, str) else found
        if not isinstance(metrics, Mapping):
            metrics = {"val/nmse": metrics}
        rows.append({
            "run": "-".join([learner, *labels, f"seed{seed}"]),
            "learner": learner,
            **dict(zip((axis.name for axis in spec.axes), labels, strict=True)),
            "seed": seed,
            "status": status,
            "steps": steps if metrics else math.nan,
            "samples_seen": math.nan,
            "wall_seconds": 1.5 if metrics else math.nan,
            **metrics,
        })
    return pd.DataFrame(rows)
