"""`training_path`: the fast path gives the same runs as the plain path; which run takes which."""

import json
from pathlib import Path

import pytest
import torch

from bfc_lightning.callbacks.loggers import read_metrics
from bfc_lightning.cli import main
from tests.fast_paths import gap
from tests.runs import (
    BARE,
    DOUBLE,
    assert_same_run,
    checkpoint,
    error_line,
    fit,
    intervene,
    summary,
    user_callback,
)

CLASSES = ["--labels", "Classification", "--model.linear_readout", "true"]
THREE_STEPS = ["--trainer.max_steps", "3"]


def train(root: Path, path: str, *argv: str) -> Path:
    assert fit(root, "--run.name", path, "--training_path", path, *argv) == 0
    assert summary(root / path)["training_path"] == path
    return root / path


def assert_close_runs(one: Path, other: Path, tolerance: float) -> None:
    """Equal weights, and logs with the same rows, columns and numbers, to rounding."""
    first, second = (checkpoint(run) for run in (one, other))
    assert gap(first["state_dict"], second["state_dict"]) <= tolerance
    assert first["global_step"] == second["global_step"]
    logs = [read_metrics(run / "metrics.csv") for run in (one, other)]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    for left, right in zip(*logs, strict=True):
        # Scores are float32; leakages are differences of numbers near 1.
        assert left == pytest.approx(right, rel=max(100 * tolerance, 1e-6), abs=1e-6)


# With all measures, and intervals that divide neither each other nor the run.
LOGGED = ["--trainer.val_check_interval", "23", "--trainer.log_every_n_steps", "7"]
SGD = ["--model.optimizer", "SGD", "--model.optimizer.lr", "0.05"]
RUNS = {
    "joint": LOGGED,
    "progressive": [*LOGGED, "--scheme", "Progressive", "--scheme.steps", "[37, 63]"],
    "layerwise": [*BARE, "--scheme", "Layerwise", "--scheme.steps", "50"],
    "frozen": [*BARE, "--scheme.freeze", '{"1": 33}', "--model.optimizer", "AdamW"],
    "classes": [*LOGGED, *CLASSES, "--model.final_temperature", "0.05"],
    "finite": [*BARE, "--data.num_train_samples", "100"],
    "odd sizes": [
        *("--data.num_shards", "3", "--data.batch_size", "9", "--model.width", "[5, 1]"),
        *(*BARE, "--data.eval_batch_size", "3"),
    ],
    "large batches": [*BARE, "--data.batch_size", "8192", "--trainer.max_steps", "3"],
    "penalty": [*BARE, "--model.regularization", "[0.01, 0.1]", "--labels.noise_std", "0.3"],
    "momentum": [*BARE, *SGD, "--model.optimizer.momentum", "0.9", "--model.lr_scheduler", "null"],
    "clipped by value": [
        *(*BARE, "--trainer.gradient_clip_algorithm", "value"),
        *("--trainer.gradient_clip_val", "1e-3"),
    ],
    "not clipped": [*BARE, "--trainer.gradient_clip_val", "-1"],
    "fixed readout": [
        *BARE,
        "--model.train_readout",
        "false",
        "--model.activation",
        "torch.nn.ReLU",
    ],
}


# tests/test_fast_path.py checks the steps themselves; `make test` runs some of these.
QUICK = ("joint", "progressive", "classes", "odd sizes", "finite")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in RUNS],
)
def test_hundred_steps_equal_those_of_the_plain_path(tmp_path, name):
    argv = ["--trainer.max_steps", "100", *DOUBLE, *RUNS[name]]
    fast, plain = (train(tmp_path, path, *argv) for path in ("fast", "plain"))
    assert_close_runs(fast, plain, 1e-10)
    steps = 3 if name == "large batches" else 100
    assert summary(fast)["steps"] == checkpoint(fast)["global_step"] == steps


@pytest.mark.parametrize("name", ["joint", "classes"])
def test_fifty_steps_in_single_precision_equal_those_of_the_plain_path(tmp_path, name):
    argv = [*RUNS[name], *BARE, "--trainer.max_steps", "50"]
    fast, plain = (checkpoint(train(tmp_path, path, *argv)) for path in ("fast", "plain"))
    assert gap(fast["state_dict"], plain["state_dict"]) <= 1e-5


@pytest.mark.parametrize("finite", [[], ["--data.num_train_samples", "100"]])
def test_both_paths_see_the_same_samples_bit_for_bit(tmp_path, finite):
    for path in ("fast", "plain"):
        train(tmp_path, path, *finite, *BARE, *intervene("Witness", path=tmp_path / f"{path}.txt"))
    seen = [(tmp_path / f"{path}.txt").read_text() for path in ("fast", "plain")]
    assert seen[0] == seen[1]
    assert [int(line.split()[0]) for line in seen[0].splitlines()] == [*range(1, 61)]


@pytest.mark.parametrize(
    ("steps", "interval", "log"), [(1, 20, 5), (7, 3, 1000), (67, 1000, 1), (70, 0.3, 11)]
)
def test_run_logs_and_stops_at_its_steps_whatever_the_intervals(tmp_path, steps, interval, log):
    argv = ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(interval)]
    run = train(tmp_path, "fast", *BARE, *argv, "--trainer.log_every_n_steps", str(log))
    assert checkpoint(run)["global_step"] == summary(run)["steps"] == steps
    rows = {row["step"]: row for row in read_metrics(run / "metrics.csv")}
    assert {s for s, row in rows.items() if "train/loss" in row} == set(range(log, steps + 1, log))
    every = round(interval * steps) if interval < 1 else interval
    validated = {s for s, row in rows.items() if "val/nmse" in row}
    assert validated == {*range(every, steps + 1, every), steps}


def test_callback_for_every_step_gets_every_step_and_changes_no_bit(tmp_path):
    seen = tmp_path / "seen.txt"
    assert fit(tmp_path, "--run.name", "watched", *intervene("Witness", path=seen)) == 0
    assert summary(tmp_path / "watched")["training_path"] == "fast"
    assert [int(line.split()[0]) for line in seen.read_text().splitlines()] == [*range(1, 61)]
    assert fit(tmp_path, "--run.name", "alone") == 0
    assert_same_run(tmp_path / "watched", tmp_path / "alone")


def test_callbacks_and_loggers_of_lightning_act_as_on_the_plain_path(tmp_path):
    argv = ["--trainer.logger+", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "own")]
    argv += [*BARE, *DOUBLE, *user_callback("LearningRateMonitor")]
    argv += user_callback("EMAWeightAveraging", decay=0.9)
    argv += user_callback("EarlyStopping", monitor="val/nmse", stopping_threshold=100)
    logs, averages = [], []
    for path in ("fast", "plain"):
        run = train(tmp_path, path, *argv)
        (log,) = (tmp_path / "own").rglob("metrics.csv")
        logs.append([row["step"] for row in read_metrics(log)])
        log.unlink()
        averages.append(checkpoint(run)["current_model_state"])
        assert summary(run)["steps"] == 20
    assert logs[0] == logs[1]
    assert max(logs[0]) <= 20
    assert gap(*averages) <= 1e-10


# A run that changes its path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("whole"), "plain", *DOUBLE)


@pytest.mark.parametrize("step", [20, 33])
@pytest.mark.parametrize(("first", "second"), [("plain", "fast"), ("fast", "plain")])
def test_run_can_resume_on_the_other_path(whole, tmp_path, capsys, first, second, step):
    argv = ["--run.name", "cut", *DOUBLE]
    stop = intervene("SignalAt", step=step)
    assert fit(tmp_path, *argv, "--training_path", first, *stop) == 130
    capsys.readouterr()
    assert fit(tmp_path, *argv, "--training_path", second, "--resume", "auto") == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert f"training_path is '{second}', was '{first}'" in warnings[0]
    assert_close_runs(whole, tmp_path / "cut", 1e-10)
    assert summary(tmp_path / "cut")["samples_seen"] == 60 * 32


def test_double_precision_run_is_scored_bit_for_bit(whole):
    config = str(whole / "config.yaml")
    assert main(["validate", "-c", config, "--ckpt_path", "last"]) == 0
    scored = json.loads((whole / "validate.json").read_text())["metrics"]
    assert scored["val/loss"] == summary(whole)["metrics"]["val/loss"]
    assert checkpoint(whole)["state_dict"]["network.constant"].dtype == torch.float64


# Which run takes which path


AVERAGING = ["--trainer.strategy", "DDPStrategy", "--trainer.strategy.model_averaging_period", "2"]
REASONS = {
    "accumulation": (["--trainer.accumulate_grad_batches", "4"], "accumulate_grad_batches"),
    "mixed precision": (["--trainer.precision", "bf16-mixed"], "precision bf16-mixed"),
    "anomalies": (["--trainer.detect_anomaly", "true"], "trainer.detect_anomaly"),
    "strategy": (AVERAGING, "DDPStrategy"),
    "gradients": (intervene("GradientWatcher"), "GradientWatcher uses on_before_optimizer_step"),
    "time": (
        user_callback("ModelCheckpoint", train_time_interval="0:01:00", dirpath="unused"),
        "ModelCheckpoint saves at times",
    ),
    "optimizer": (["--model.optimizer", "LBFGS"], "LBFGS evaluates the loss by itself"),
    "activation": (["--model.activation", "torch.nn.SiLU"], "SiLU has no form in place"),
    "function": (["--model.activation", "torch.square"], "square has no form in place"),
    "linearized": (["--model.linearized", "true"], "LinearizedDenseNet has no gradients by hand"),
    "control": (
        ["--scheme", "Progressive", "--scheme.control", "subtract"],
        "scheme.control",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_fast_path_is_refused_if_it_cannot_train_the_run(tmp_path, capsys, name):
    argv, reason = REASONS[name]
    assert fit(tmp_path / "logs", "--training_path", "fast", *argv) == 2
    message = error_line(capsys.readouterr().err)
    assert message.startswith("training_path must be auto or plain here, got fast: ")
    assert reason in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["accumulation", "gradients", "activation", "anomalies"])
def test_auto_takes_the_plain_path_if_it_must_and_says_why(tmp_path, capsys, name):
    argv, reason = REASONS[name]
    assert fit(tmp_path, *BARE, *THREE_STEPS, *argv) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "training path" in line]
    assert len(said) == 1
    assert reason in said[0]
    assert (summary(tmp_path / "tiny")["training_path"], summary(tmp_path / "tiny")["steps"]) == (
        "plain",
        3,
    )


def test_auto_takes_the_fast_path_if_it_can_and_says_nothing(tmp_path, capsys):
    assert fit(tmp_path, *BARE, *THREE_STEPS) == 0
    assert "training path" not in capsys.readouterr().err
    assert summary(tmp_path / "tiny")["training_path"] == "fast"
