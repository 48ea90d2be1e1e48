"""`metrics.csv` as a logger: rows, columns, and going on after a kill."""

import math

import pytest

from bfc_lightning.callbacks.metrics_file import MetricsFile, read_metrics
from bfc_lightning.callbacks.replica_metrics import ReplicaMetricsFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def test_numbers_of_one_step_share_a_row(path):
    metrics = MetricsFile(path)
    metrics.log_metrics({"a": 1.0}, step=1)
    metrics.log_metrics({"b": 2.0, "epoch": 0.0}, step=1)
    metrics.log_metrics({"a": 3.0}, step=2)
    metrics.save()
    assert path.read_text() == "step,a,b\n1,1.0,2.0\n2,3.0,\n"
    assert metrics.latest == {"a": 3.0, "b": 2.0}


def test_number_that_comes_after_the_row_was_written_joins_it(path):
    metrics = MetricsFile(path)
    metrics.log_metrics({"a": 1.0}, step=1)
    metrics.save()
    metrics.log_metrics({"a": 5.0, "b": 2.0}, step=1)
    metrics.save()
    assert read_metrics(path) == [{"step": 1, "a": 5.0, "b": 2.0}]


def test_rows_before_the_last_are_on_disk_without_saving(path):
    metrics = MetricsFile(path)
    for step in range(5):
        metrics.log_metrics({"a": float(step)}, step=step)
    assert [row["step"] for row in read_metrics(path)] == [0, 1, 2, 3]


def test_new_key_brings_a_column_for_all_rows(path):
    metrics = MetricsFile(path)
    for step, key in enumerate("aab"):
        metrics.log_metrics({key: 1.0}, step=step)
    metrics.save()
    assert path.read_text() == "step,a,b\n0,1.0,\n1,1.0,\n2,,1.0\n"


def test_rows_past_a_checkpoint_are_dropped(path):
    before = MetricsFile(path)
    for step in range(5):
        before.log_metrics({"a": float(step)}, step=step)
    before.save()
    after = MetricsFile(path)
    after.keep_until(2)
    after.log_metrics({"a": 30.0}, step=3)
    after.save()
    assert [row["a"] for row in read_metrics(path)] == [0.0, 1.0, 2.0, 30.0]


def test_line_torn_by_a_kill_is_left_out(path):
    path.write_text("step,a\n1,1.0\n2,2.")
    assert read_metrics(path) == [{"step": 1, "a": 1.0}]


def test_numbers_keep_every_digit_and_nan_stays_nan(path):
    metrics = MetricsFile(path)
    metrics.log_metrics({"a": 0.1 + 0.2, "b": math.nan}, step=0)
    metrics.save()
    row = read_metrics(path)[0]
    assert row["a"] == 0.1 + 0.2
    assert math.isnan(row["b"])


def test_full_disk_costs_no_row_and_leaves_no_torn_one(path, monkeypatch):
    """A new column finds no space: the next write must not put longer rows under the old header."""
    metrics = MetricsFile(path)
    for step in (1, 2):
        metrics.log_metrics({"a": float(step)}, step=step)
    metrics.save()

    def refuse(path, text):
        raise OSError("no space")

    with monkeypatch.context() as full:
        full.setattr("bfc_lightning.callbacks.metrics_file.write_atomically", refuse)
        with pytest.raises(OSError, match="no space"):
            metrics.log_metrics({"a": 3.0, "b": 1.0}, step=3)
    assert path.read_text() == "step,a\n1,1.0\n2,2.0\n"
    metrics.save()
    assert path.read_text() == "step,a,b\n1,1.0,\n2,2.0,\n3,3.0,1.0\n"


def test_rows_of_replicas_are_added_at_the_end_where_nothing_before_has_changed(path):
    metrics, files = ReplicaMetricsFile(path, 2), []
    for step, key in enumerate(["a", "a", "b", "b"], start=1):
        metrics.log_rows([{key: 1.0}, {key: 2.0}], step=step)
        metrics.save()
        files.append((path.stat().st_ino, path.read_text()))
    assert files[0][0] == files[1][0] != files[2][0] == files[3][0]  # a new column
    assert files[1][1] == "step,replica,a\n1,0,1.0\n1,1,2.0\n2,0,1.0\n2,1,2.0\n"
    rows = [
        "1,0,1.0,",
        "1,1,2.0,",
        "2,0,1.0,",
        "2,1,2.0,",
        "3,0,,1.0",
        "3,1,,2.0",
        "4,0,,1.0",
        "4,1,,2.0",
    ]
    assert files[3][1].splitlines() == ["step,replica,a,b", *rows]
