"""Tables of results: numbers worked by hand, and files that are read back."""

import math

import pandas as pd
import pytest
import yaml

from bfc_lightning.experiments.tables import load_results, summary_table, write_tables
from tests.results import experiment, results

TUNED = {"a": {"tune": {"model.lr": [0.1, 0.2, 0.3], "model.width": [4, 8]}}, "b": {}}


def test_medians_ranges_and_counts_by_hand():
    spec = experiment(seeds=range(5))
    values = {0: 0.5, 1: 0.1, 2: "diverged", 3: 0.2, 4: 0.4}
    rows = results(spec, lambda learner, seed: values[seed] if learner == "a" else 0.25)
    table = summary_table(spec, rows, {})
    assert list(table.columns) == ["learner", "runs finished", "steps", "val/nmse"]
    assert table.to_numpy().tolist() == [
        ["a", "4 of 5, 1 diverged", "10", "3.0e-01 [1.0e-01, 5.0e-01]"],
        ["b", "5 of 5", "10", "2.5e-01"],
    ]


def test_rows_are_points_and_steps_may_differ():
    spec = experiment([""], seeds=[0, 1], lr=["0.10", "0.2"], width=["4"])
    rows = results(spec, lambda learner, lr, width, seed: 1.0)
    rows.loc[0, "steps"] = 2000.0
    table = summary_table(spec, rows, {})
    assert list(table.columns) == ["lr", "width", "runs finished", "steps", "val/nmse"]
    assert table["lr"].tolist() == ["0.10", "0.2"]
    assert table["steps"].tolist() == ["10 to 2,000", "10"]


def test_untrained_value_stands_beside_its_metric_if_logged():
    spec = experiment(["a"], metrics=["features/richness_1", "val/nmse"])
    metrics = {"features/richness_1": 2.0, "features/richness_1_untrained": 1.0, "val/nmse": 0.5}
    table = summary_table(spec, results(spec, lambda learner, seed: metrics), {})
    assert list(table.columns)[3:] == list(metrics)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_have_no_part_in_the_median(value):
    spec = experiment(["a"])
    rows = results(spec, lambda learner, seed: value if seed == 0 else float(seed))
    assert summary_table(spec, rows, {})["val/nmse"].tolist() == ["1.5e+00 [1.0e+00, 2.0e+00]"]


def test_csv_is_read_back_with_labels_as_text(tmp_path):
    spec = experiment(folder=tmp_path, ratio=["0.50", "1e3"], size=["NA", "None"])
    rows = results(spec, lambda *where: "missing" if where[-1] == 1 else 0.1 + where[-1])
    write_tables(spec, rows, {}, pd.DataFrame())
    for path in (tmp_path, tmp_path / "compare.csv"):
        found = load_results(path)
        pd.testing.assert_frame_equal(found, rows)
        assert found["ratio"].unique().tolist() == ["0.50", "1e3"]
    line = (tmp_path / "compare.csv").read_text().splitlines()[1]
    assert line == "a-0.50-NA-seed0,a,0.50,NA,0,finished,10,,1.5,0.1"


def test_markdown_shows_table_differences_and_command(tmp_path):
    spec = experiment(TUNED, folder=tmp_path, ratio=["0.1"])
    write_tables(spec, results(spec, lambda *where: 0.1), {}, pd.DataFrame())
    text = (tmp_path / "compare.md").read_text()
    assert text.startswith(f"# {tmp_path.name}\n\nMedian [lowest, highest] over")
    assert "smallest median val/nmse over the tuning seeds 100" in text
    assert "| a | 0.1 | 3 of 3 | 6 | - | 10 | 1.0e-01 |" in text
    assert text.endswith("\n    bfc compare -c few.yaml\n")
    differing = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert differing == {"learners": TUNED, "grid": {"ratio": ["0.1"]}}
    assert r"a & 0.1 & 3 of 3 & 6 & - & 10 & 1.0e-01 \\" in (tmp_path / "compare.tex").read_text()


def test_trials_are_listed_with_the_winner(tmp_path):
    spec = experiment(TUNED, folder=tmp_path, ratio=["1"])
    rows = results(spec, lambda *where: 0.1)
    trials = rows[rows["learner"] == "a"].assign(trial=["lr=0.1", "lr=0.2", "lr=0.2"])
    write_tables(spec, rows, {("a", "1"): "lr=0.2"}, trials)
    lines = (tmp_path / "trials.csv").read_text().splitlines()
    assert lines[0] == "learner,ratio,trial,seed,status,wall_seconds,val/nmse,chosen"
    assert lines[1:3] == ["a,1,lr=0.1,0,finished,1.5,0.1,no", "a,1,lr=0.2,1,finished,1.5,0.1,yes"]
    write_tables(spec, rows, {}, trials)
    assert (tmp_path / "trials.csv").read_text().splitlines()[1].endswith(",0.1,")
