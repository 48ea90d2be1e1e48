"""Which trial wins: by hand, with runs that did not finish, and what is warned of."""

import pandas as pd
import pytest

from bfc_lightning.experiments.spec import Tuning
from bfc_lightning.experiments.tables import choose, edge_warnings
from tests.results import experiment

LR = "model.optimizer.init_args.lr"
RATES = [0.1, 0.2, 0.3]
POINT = ("a", "1")
SPEC = experiment({"a": {"tune": {LR: RATES}}, "b": {}}, tuning=Tuning((7, 8, 9)), ratio=["1", "2"])


def trials(*scores: list[float | str], label: str = "1") -> pd.DataFrame:
    """Runs of learner a: a score or a status for each rate and seed."""
    rows = []
    for rate, mine in zip(RATES, scores, strict=True):
        for seed, score in zip(SPEC.tuning.seeds, mine, strict=True):
            is_score = not isinstance(score, str)
            trial = f"lr={rate}"
            where = {"learner": "a", "ratio": label, "trial": trial, "seed": seed}
            where["run"] = f"a-ratio={label}-trial({trial})-seed{seed}"
            status = "finished" if is_score else score
            rows.append({**where, "status": status, "val/nmse": score if is_score else None})
    return pd.DataFrame(rows).astype({"val/nmse": float})


def test_smallest_median_wins_and_unfinished_runs_are_worst():
    half, spread = [0.5, 0.5, 0.5], [0.01, 0.4, 0.9]
    rows = trials(half, spread, [0.001, "diverged", "timeout"])
    assert choose(SPEC, rows) == {POINT: "lr=0.2"}
    assert list(edge_warnings(SPEC, {POINT: "lr=0.2"}, rows)) == []
    rows = trials(half, spread, [0.001, 0.1, "oom"])
    assert choose(SPEC, rows) == {POINT: "lr=0.3"}


def test_first_of_equal_trials_wins():
    assert choose(SPEC, trials([0.5] * 3, [0.4] * 3, [0.4] * 3)) == {POINT: "lr=0.2"}


@pytest.mark.parametrize("status", ["missing", "interrupted", "failed"])
def test_point_waits_for_all_its_trials(status):
    done = trials([0.5] * 3, [0.4] * 3, [0.3] * 3, label="2")
    rows = pd.concat([trials([0.5] * 3, [0.4] * 3, [0.3, 0.3, status]), done])
    assert choose(SPEC, rows) == {("a", "2"): "lr=0.3"}


def test_best_value_at_the_end_is_warned_of():
    rows = trials([0.1] * 3, [0.4] * 3, [0.4] * 3)
    (line,) = edge_warnings(SPEC, choose(SPEC, rows), rows)
    assert LR in line
    assert "a-ratio=1, 0.1, is at the end" in line


def test_trials_without_a_finite_score_are_warned_of():
    rows = trials(["diverged"] * 3, ["oom"] * 3, ["timeout"] * 3)
    chosen = choose(SPEC, rows)
    assert chosen == {POINT: "lr=0.1"}
    assert list(edge_warnings(SPEC, chosen, rows)) == [
        "No trial of a-ratio=1 has a finite val/nmse; the first one is used."
    ]
