"""`metrics.csv`: rows, columns, and what remains of it after a resume."""

import math

import pytest

from bfc_lightning.callbacks.run_files import MetricsFile, read_metrics


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def test_numbers_of_one_step_share_a_row(path):
    metrics = MetricsFile(path)
    metrics.log_metrics({"b": 2.0, "epoch": 0.0}, step=1)
    metrics.log_metrics({"a": 1.0}, step=1)
    metrics.save()
    metrics.log_metrics({"a": 3.0}, step=2)
    metrics.log_metrics({"a": 5.0}, step=1)  # after its row was written
    metrics.save()
    assert path.read_text() == "step,a,b\n1,5.0,2.0\n2,3.0,\n"
    assert metrics.latest == [{"a": 5.0, "b": 2.0}]
    assert metrics.rows() == [{"step": 1, "a": 5.0, "b": 2.0}, {"step": 2, "a": 3.0}]


def test_numbers_keep_every_digit_and_nan_stays_nan(path):
    metrics = MetricsFile(path)
    metrics.log_metrics({"a": 0.1 + 0.2, "b": math.nan}, step=0)
    metrics.save()
    row = read_metrics(path)[0]
    assert row["a"] == 0.1 + 0.2
    assert math.isnan(row["b"])
