"""Experiments and their results, made up for tests."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from bfc_lightning.experiments.spec import Experiment, ExperimentFile, Scaling, Tuning


def experiment(
    learners: Sequence[str] | Mapping[str, Mapping[str, object]] = ("a", "b"),
    *,
    seeds: Sequence[int] = (0, 1, 2),
    metrics: Sequence[str] = ("val/nmse",),
    scaling: Scaling | None = None,
    tuning: Tuning | None = None,
    folder: Path = Path("few"),
    **axes: Sequence[str],
) -> Experiment:
    """An experiment with these learners and labels by axis."""
    if not isinstance(learners, Mapping):
        learners = {name: {} for name in learners}
    return Experiment(
        base=[],
        settings={},
        learners=learners,
        axes={name: {label: {} for label in labels} for name, labels in axes.items()},
        seeds=list(seeds),
        metrics=list(metrics),
        tuning=tuning or Tuning(),
        scaling=scaling,
        source=ExperimentFile([], dict(learners), {k: list(v) for k, v in axes.items()}),
        folder=folder,
        command="bfc compare -c few.yaml",
    )


def results(spec: Experiment, value: Callable[..., object], *, steps: float = 10.0) -> pd.DataFrame:
    """`value(learner, *labels, seed)` is a run's val/nmse, all its metrics, or its status."""
    grid = list(itertools.product(*spec.axes.values()))
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
            **dict(zip(spec.axes, labels, strict=True)),
            "seed": seed,
            "status": status,
            "steps": steps if metrics else math.nan,
            "samples_seen": math.nan,
            "wall_seconds": 1.5 if metrics else math.nan,
            **metrics,
        })
    return pd.DataFrame(rows)
