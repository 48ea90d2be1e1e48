"""`engine`: all engines give the same runs; which run gets which."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from bfc_lightning.callbacks.run_files import read_metrics
from bfc_lightning.cli import engines, main
from tests.engines import gap
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


def train(root: Path, engine: str, *argv: str) -> Path:
    assert fit(root, "--run.name", engine, "--engine", engine, *argv) == 0
    assert summary(root / engine)["engine"] == engine
    return root / engine


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
CONTROLLED = [*BARE, "--scheme", "Progressive", "--scheme.steps", "50", "--scheme.control"]
RUNS = {
    "joint": LOGGED,
    "progressive": [*LOGGED, "--scheme", "Progressive", "--scheme.steps", "[37, 63]"],
    "layerwise": [*BARE, "--scheme", "Layerwise", "--scheme.steps", "50"],
    "taught": [*CONTROLLED, "taught_levels"],
    "subtracted": [*CONTROLLED, "subtract"],
    "features detached": [*CONTROLLED, "detach_features"],
    "readout detached": [*CONTROLLED, "detach_readout"],
    "pulled": [
        *(*LOGGED, "--scheme", "PullBelow", "--scheme.first", "1", "--scheme.pull", "0.1"),
        *("--scheme.steps", "[37, 63]", "--model.regularization", "0.01"),
    ],
    "frozen": [*BARE, "--scheme.freeze", '{"1": 33}', "--model.optimizer", "AdamW"],
    "classes": [*LOGGED, *CLASSES, "--model.final_temperature", "0.05"],
    "finite": [*BARE, "--data.num_train_samples", "100"],
    "odd sizes": [
        *("--data.num_shards", "3", "--data.batch_size", "9", "--model.width", "[5, 1]"),
        *(*BARE, "--data.eval_batch_size", "3"),
    ],
    "large batches": [*BARE, "--data.batch_size", "8192", "--trainer.max_steps", "3"],
    "clipped by value": [
        *(*BARE, "--trainer.gradient_clip_algorithm", "value"),
        *("--trainer.gradient_clip_val", "1e-3"),
    ],
}


# tests/test_engine.py checks the steps themselves; `make test` runs some of these.
QUICK = ("progressive", "odd sizes")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in RUNS]
)
def test_hundred_steps_equal_those_of_autograd(tmp_path, name):
    argv = ["--trainer.max_steps", "100", *DOUBLE, *RUNS[name]]
    eager, autograd = (train(tmp_path, engine, *argv) for engine in ("eager", "autograd"))
    assert_close_runs(eager, autograd, 1e-10)
    steps = 3 if name == "large batches" else 100
    assert summary(eager)["steps"] == checkpoint(eager)["global_step"] == steps


@pytest.mark.parametrize("finite", [[], ["--data.num_train_samples", "100"]])
def test_engines_see_the_same_samples_bit_for_bit(tmp_path, finite):
    for engine in ("eager", "autograd"):
        watch = intervene("Witness", path=tmp_path / f"{engine}.txt")
        train(tmp_path, engine, *finite, *BARE, *watch)
    seen = [(tmp_path / f"{engine}.txt").read_text() for engine in ("eager", "autograd")]
    assert seen[0] == seen[1]
    assert [int(line.split()[0]) for line in seen[0].splitlines()] == [*range(1, 61)]


@pytest.mark.parametrize(
    ("steps", "interval", "log"), [(1, 20, 5), (7, 3, 1000), (67, 1000, 1), (70, 0.3, 11)]
)
def test_run_logs_and_stops_at_its_steps_whatever_the_intervals(tmp_path, steps, interval, log):
    argv = ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(interval)]
    run = train(tmp_path, "eager", *BARE, *argv, "--trainer.log_every_n_steps", str(log))
    assert checkpoint(run)["global_step"] == summary(run)["steps"] == steps
    rows = {row["step"]: row for row in read_metrics(run / "metrics.csv")}
    assert {s for s, row in rows.items() if "train/loss" in row} == set(range(log, steps + 1, log))
    every = round(interval * steps) if interval < 1 else interval
    validated = {s for s, row in rows.items() if "val/nmse" in row}
    assert validated == {*range(every, steps + 1, every), steps}


def test_callback_for_every_step_gets_every_step_and_changes_no_bit(tmp_path):
    seen = tmp_path / "seen.txt"
    assert fit(tmp_path, "--run.name", "watched", *intervene("Witness", path=seen)) == 0
    assert summary(tmp_path / "watched")["engine"] == "eager"
    assert [int(line.split()[0]) for line in seen.read_text().splitlines()] == [*range(1, 61)]
    assert fit(tmp_path, "--run.name", "alone") == 0
    assert_same_run(tmp_path / "watched", tmp_path / "alone")


def test_callbacks_and_loggers_of_lightning_act_as_with_autograd(tmp_path):
    argv = ["--trainer.logger+", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "own")]
    argv += [*BARE, *DOUBLE, *user_callback("LearningRateMonitor")]
    argv += user_callback("EMAWeightAveraging", decay=0.9)
    argv += user_callback("EarlyStopping", monitor="val/nmse", stopping_threshold=100)
    logs, averages = [], []
    for engine in ("eager", "autograd"):
        run = train(tmp_path, engine, *argv)
        (log,) = (tmp_path / "own").rglob("metrics.csv")
        logs.append([row["step"] for row in read_metrics(log)])
        log.unlink()
        averages.append(checkpoint(run)["current_model_state"])
        assert summary(run)["steps"] == 20
    assert logs[0] == logs[1]
    assert max(logs[0]) <= 20
    assert gap(*averages) <= 1e-10


def test_double_precision_run_is_scored_bit_for_bit(tmp_path):
    run = train(tmp_path, "autograd", *BARE, *DOUBLE)
    assert main(["validate", "-c", str(run / "config.yaml"), "--ckpt_path", "last"]) == 0
    scored = json.loads((run / "validate.json").read_text())["metrics"]
    assert scored["val/loss"] == summary(run)["metrics"]["val/loss"]
    assert checkpoint(run)["state_dict"]["network.constant"].dtype == torch.float64


# A resumed run keeps its engine


@pytest.mark.parametrize(
    ("first", "second"),
    [("autograd", "eager"), pytest.param("eager", "autograd", marks=pytest.mark.slow)],
)
def test_resumed_run_keeps_its_engine(tmp_path, capsys, first, second):
    argv = [*BARE, "--run.name"]
    assert fit(tmp_path, *argv, "whole", "--engine", first) == 0
    stop = intervene("SignalAt", step=33)
    assert fit(tmp_path, *argv, "cut", "--engine", first, *stop) == 130
    assert fit(tmp_path, *argv, "cut", "--engine", second, "--resume", "auto") == 2
    message = f"engine must stay {first} in a resumed run, got {second}"
    assert message in error_line(capsys.readouterr().err)
    assert fit(tmp_path, *argv, "cut", "--resume", "auto") == 0
    assert summary(tmp_path / "cut")["engine"] == first
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_engine_that_is_impossible_here_is_refused_and_its_run_resumes_with_another(
    tmp_path, capsys, monkeypatch
):
    assert fit(tmp_path, *BARE, *intervene("SignalAt", step=33)) == 130
    content = checkpoint(tmp_path / "tiny")
    content["bfc_lightning"]["environment"]["engine"] = "compiled"
    torch.save(content, tmp_path / "tiny" / "checkpoints" / "last.ckpt")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    capsys.readouterr()
    resume = [*BARE, "--resume", "auto"]
    for argv in (["--engine", "compiled"], resume):
        assert fit(tmp_path, *argv) == 2
        message = error_line(capsys.readouterr().err)
        assert "there is no C++ compiler" in message
        assert ("add --engine eager" in message) is (argv == resume)
    assert fit(tmp_path, *resume, "--engine", "eager") == 0
    assert "only to rounding, since engine is 'eager', was 'comp" in capsys.readouterr().err
    assert summary(tmp_path / "tiny")["engine"] == "eager"


# Which run gets which engine


CYCLE = ["--model.lr_scheduler", "CyclicLR", "--model.lr_scheduler.base_lr", "1e-3"]
NORM = ["--model.activation", "torch.nn.BatchNorm1d", "--model.activation.num_features", "8"]
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
    "optimizer": (["--model.optimizer", "LBFGS"], "LBFGS is not SGD, Adam or AdamW"),
    "momentum": ([*CYCLE, "--model.lr_scheduler.max_lr", "0.01"], "CyclicLR changes more than"),
    "buffers": (NORM, "the activation changes its own buffers"),
}


@pytest.mark.parametrize("name", REASONS)
def test_engine_is_refused_if_it_cannot_train_the_run(tmp_path, capsys, name):
    argv, reason = REASONS[name]
    assert fit(tmp_path / "logs", "--engine", "eager", *argv) == 2
    message = error_line(capsys.readouterr().err)
    assert message.startswith("engine must be autograd here, got eager: ")
    assert reason in message
    assert not list(tmp_path.iterdir())


AUTOGRAD = ("accumulation", "gradients", "optimizer", "anomalies", "momentum", "buffers")


@pytest.mark.parametrize("name", AUTOGRAD)
def test_auto_is_autograd_if_it_must_be_and_says_why(tmp_path, capsys, name):
    argv, reason = REASONS[name]
    assert fit(tmp_path, *BARE, *THREE_STEPS, *argv) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "autograd engine" in line]
    assert len(said) == 1
    assert reason in said[0]
    assert summary(tmp_path / "tiny")["engine"] == "autograd"
    assert summary(tmp_path / "tiny")["steps"] == 3


def test_auto_is_eager_for_a_short_run_and_config_yaml_names_it(tmp_path, capsys):
    assert fit(tmp_path, *BARE, *THREE_STEPS) == 0
    assert "eager" in capsys.readouterr().err
    config = yaml.safe_load((tmp_path / "tiny" / "config.yaml").read_text())
    assert config["engine"] == summary(tmp_path / "tiny")["engine"] == "eager"


def test_compiled_is_refused_with_a_callback_for_every_step(tmp_path, capsys):
    watch = intervene("Witness", path=tmp_path / "seen")
    assert fit(tmp_path / "logs", "--engine", "compiled", *watch) == 2
    assert "a callback listens to every step" in error_line(capsys.readouterr().err)


@pytest.mark.slow
def test_compiled_run_equals_autograd_and_resumes_bit_for_bit(tmp_path):
    argv = ["--engine", "compiled", *DOUBLE, "--run.name"]
    signals = ["--measures+", "tests.interventions.MeasureThatSignals", "--measures.call"]
    assert fit(tmp_path, *argv, "whole", *signals, "99") == 0
    assert fit(tmp_path, *argv, "cut", *signals, "5") == 130
    assert checkpoint(tmp_path / "cut")["global_step"] < 60
    assert fit(tmp_path, *argv, "cut", *signals, "99", "--resume", "auto") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    autograd = train(tmp_path, "autograd", *DOUBLE)
    assert_close_runs(tmp_path / "whole", autograd, 1e-10)


@pytest.mark.slow
def test_activation_that_cannot_be_compiled_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(engines, "_SAVED_PER_LAYER", 1.0)
    argv = ["--model.activation", "tests.interventions.uncompilable", "--engine"]
    assert fit(tmp_path / "logs", *argv, "compiled") == 2
    assert "got compiled: " in error_line(capsys.readouterr().err)
    assert not (tmp_path / "logs").exists()
    assert fit(tmp_path / "logs", *argv, "auto") == 0
    assert "the training step cannot be compiled: " in capsys.readouterr().err
