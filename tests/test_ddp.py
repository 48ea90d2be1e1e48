"""Several processes train as one does: same samples, same weights, one folder, one score."""

from pathlib import Path

import pytest
import torch

from bfc_lightning.callbacks.metrics_file import read_metrics
from tests.launches import (
    bfc,
    draws,
    end,
    fit_with,
    recording,
    said,
    two_nodes,
    weight_gap,
    words_of,
)
from tests.runs import checkpoint, fit_with_one_and_two_processes, intervene, summary

pytestmark = pytest.mark.ddp

DOUBLE = ["--trainer.precision", "64-true"]
SHORT = ["--trainer.max_steps", "100", "--trainer.val_check_interval", "50"]


def run(devices: int, root: Path, *words: str, status: int = 0) -> Path:
    """A recorded run under the name of its number of processes."""
    name = str(devices)
    given = ["--run.name", name, *recording(root / f"{name}.draws"), *words]
    code, told = fit_with(devices, root, *given)
    assert code == status, told
    return root / name


@pytest.mark.parametrize("path", ["fast", pytest.param("plain", marks=pytest.mark.slow)])
def test_two_processes_train_as_one(tmp_path, path):
    words = ["--training_path", path, "--model.regularization", "1e-4"]
    one, two = fit_with_one_and_two_processes(tmp_path, *words)
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-10, atol=1e-12), name
    scores = [summary(tmp_path / name)["metrics"]["val/nmse"] for name in ("1", "2")]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


@pytest.fixture(scope="module")
def doubles(tmp_path_factory) -> Path:
    """100 steps in float64 with 1, 2 and 4 processes."""
    root = tmp_path_factory.mktemp("doubles")
    for devices in (1, 2, 4):
        run(devices, root, *DOUBLE, *SHORT)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["2", "4"])
def test_weights_of_float64_are_those_of_one_process_after_100_steps(doubles, devices):
    assert weight_gap(doubles / "1", doubles / devices) <= 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["2", "4"])
def test_draws_are_those_of_one_process(doubles, devices):
    alone, shared = (draws(doubles / f"{name}.draws") for name in ("1", devices))
    assert torch.equal(alone, shared)
    assert len(alone) == 100
    assert len(torch.unique(alone[..., 0])) == alone[..., 0].numel()  # no two ranks have the same


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["2", "4"])
def test_everything_is_written_and_counted_once(doubles, devices):
    alone, shared = (read_metrics(doubles / name / "metrics.csv") for name in ("1", devices))
    assert [row.keys() for row in alone] == [row.keys() for row in shared]
    for one, other in zip(alone, shared, strict=True):
        assert one == pytest.approx(other, rel=1e-6)
    assert {path.name for path in doubles.iterdir()} == {
        *("1", "2", "4", "1.draws", "2.draws", "4.draws")
    }
    files = [
        {path.name.partition("events")[0] or "events" for path in (doubles / name).rglob("*")}
        for name in ("1", devices)
    ]
    assert files[0] == files[1]
    content = summary(doubles / devices)
    assert content["devices"] == int(devices)
    assert content["samples_seen"] == summary(doubles / "1")["samples_seen"] == 100 * 32


@pytest.mark.slow
def test_weights_of_float32_are_those_of_one_process_after_50_steps(tmp_path):
    words = ["--trainer.max_steps", "50", "--trainer.val_check_interval", "50"]
    folders = [run(devices, tmp_path, *words) for devices in (1, 2, 4)]
    assert weight_gap(folders[0], folders[1]) <= 1e-5
    assert weight_gap(folders[0], folders[2]) <= 1e-5


@pytest.mark.slow
def test_two_launchers_of_two_processes_train_as_one(doubles, tmp_path):
    given = words_of(tmp_path, "--run.name", "nodes", *DOUBLE, *SHORT)
    for status, told in two_nodes([*given, *recording(tmp_path / "draws")]):
        assert status == 0, told
    assert torch.equal(draws(tmp_path / "draws"), draws(doubles / "1.draws"))
    assert weight_gap(tmp_path / "nodes", doubles / "1") <= 1e-10
    assert summary(tmp_path / "nodes")["devices"] == 4
    assert {path.name for path in tmp_path.iterdir()} == {"nodes", "draws"}


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2)])
def test_resumed_run_takes_another_number_of_processes(doubles, tmp_path, before, after):
    given = ["--run.name", "run", *DOUBLE, *SHORT]
    stopped = [*given, *intervene("SignalTheFirst", step=63)]
    code, told = fit_with(before, tmp_path, *stopped)
    assert code == 143, told
    step = checkpoint(tmp_path / "run")["global_step"]
    assert step == (63 if before == 1 else 65)  # several agree at the logging interval
    resumed = [*given, "--resume", "auto", *recording(tmp_path / "draws")]
    code, told = fit_with(after, tmp_path, *resumed)
    assert code == 0, told
    assert f"processes {after} instead of {before}" in told
    assert torch.equal(draws(tmp_path / "draws"), draws(doubles / "1.draws")[step:])
    assert weight_gap(tmp_path / "run", doubles / "1") <= 1e-10
    steps = [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.csv")]
    assert steps == [row["step"] for row in read_metrics(doubles / "1" / "metrics.csv")]


@pytest.mark.slow
def test_signal_to_one_process_stops_all_at_one_step_and_loses_nothing(doubles, tmp_path):
    given = ["--run.name", "run", *DOUBLE, *SHORT]
    for step in (13, 50):  # between two agreements, and where a validation saves
        code, told = fit_with(2, tmp_path, *given, "--resume", "auto", *_signal(step))
        assert code == 143, told
        assert "stopped by SIGTERM" in told
        assert summary(tmp_path / "run")["status"] == "interrupted"
    assert checkpoint(tmp_path / "run")["global_step"] == 50
    assert fit_with(2, tmp_path, *given, "--resume", "auto")[0] == 0
    assert weight_gap(tmp_path / "run", doubles / "2") == 0  # bit for bit


def _signal(step: int) -> list[str]:
    return intervene("SignalTheFirst", step=step)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "count"), [("fast", "3"), ("plain", "0")])
def test_three_steps_need_no_collective_but_that_of_the_gradients(tmp_path, path, count):
    """On the plain path that is PyTorch's own, which is not counted."""
    written = tmp_path / "count"
    watch = intervene("CollectiveCounter", path=written, first=21, last=24)
    code, told = fit_with(2, tmp_path, *watch, "--training_path", path)
    assert code == 0, told
    assert written.read_text() == count


@pytest.mark.slow
def test_test_scores_of_two_processes_are_those_of_one(doubles):
    scores = []
    for devices in (1, 2):
        config = str(doubles / "1" / "config.yaml")
        words = ["test", "-c", config, "--trainer.callbacks", "null"]
        code, told = end(bfc(words, devices))
        assert code == 0, told
        assert len(said(told)) == 1
        scores.append(told.partition("metric")[2].partition("bfc:")[0])
    assert scores[0] == scores[1]
    assert "test/nmse" in scores[0]
