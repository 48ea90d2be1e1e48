"""`training_path`: runs on the fast path are those of the plain one, and who has to take which."""

import json
import re
from pathlib import Path

import pytest
import torch

from bfc_lightning.callbacks.metrics_file import read_metrics
from bfc_lightning.cli import main
from tests.fast_paths import BARE, callback_words, gap
from tests.runs import checkpoint, fit, intervene, same_weights, summary

DOUBLE = ["--trainer.precision", "64-true"]
HUNDRED = ["--trainer.max_steps", "100"]
CLASSES = ["--labels", "Classification", "--model.linear_readout", "true"]


def path_words(path: str) -> list[str]:
    return ["--run.name", path, "--training_path", path]


def train(root: Path, path: str, *words: str) -> Path:
    assert fit(root, *path_words(path), *words) == 0
    assert summary(root / path)["training_path"] == path
    return root / path


def assert_same_runs(one: Path, other: Path, tolerance: float) -> None:
    """The same weights, and a log with the same rows, columns and numbers, to rounding."""
    first, second = (checkpoint(run) for run in (one, other))
    assert gap(first["state_dict"], second["state_dict"]) <= tolerance
    assert first["global_step"] == second["global_step"]
    logs = [read_metrics(run / "metrics.csv") for run in (one, other)]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    for left, right in zip(*logs, strict=True):
        # Scores are kept in float32; leakages are differences of numbers near 1.
        assert left == pytest.approx(right, rel=max(100 * tolerance, 1e-6), abs=1e-6)


RUNS = {
    "joint": [],
    "progressive": ["--scheme", "Progressive", "--scheme.steps", "[37, 63]"],
    "layerwise": ["--scheme", "Layerwise", "--scheme.steps", "50"],
    "frozen": ["--scheme.freeze", '{"1": 33}', "--model.optimizer", "AdamW"],
    "classes": [*CLASSES, "--model.final_temperature", "0.05"],
    "finite": ["--data.num_train_samples", "100"],
    "odd sizes": ["--data.num_shards", "3", "--data.batch_size", "9", "--model.width", "[5, 1]"],
    "penalty": ["--model.regularization", "[0.01, 0.1]", "--labels.noise_std", "0.3"],
    "momentum": [
        *("--model.optimizer", "SGD", "--model.optimizer.lr", "0.05"),
        *("--model.optimizer.momentum", "0.9", "--model.lr_scheduler", "null"),
    ],
    "by value": [
        *("--trainer.gradient_clip_algorithm", "value", "--trainer.gradient_clip_val", "1e-3"),
    ],
    "not clipped": ["--trainer.gradient_clip_val", "-1"],
    "fixed readout": ["--model.train_readout", "false", "--model.activation", "torch.nn.ReLU"],
}
# With every measure, and intervals that divide neither each other nor the run.
LOGGED = ["--trainer.val_check_interval", "23", "--trainer.log_every_n_steps", "7"]


@pytest.mark.parametrize("name", RUNS)
def test_hundred_steps_are_those_of_the_plain_path(tmp_path, name):
    extent = LOGGED if name in ("joint", "progressive", "classes") else BARE
    words = [*RUNS[name], *HUNDRED, *DOUBLE, *extent]
    if name == "odd sizes":
        words += ["--data.eval_batch_size", "3"]
    fast, plain = (train(tmp_path, path, *words) for path in ("fast", "plain"))
    assert_same_runs(fast, plain, 1e-10)
    assert summary(fast)["steps"] == checkpoint(fast)["global_step"] == 100


@pytest.mark.parametrize("name", ["joint", "progressive", "classes"])
def test_fifty_steps_in_single_precision_are_those_of_the_plain_path(tmp_path, name):
    words = [*RUNS[name], *BARE, "--trainer.max_steps", "50"]
    words += ["--scheme.steps", "25"] if name == "progressive" else []
    fast, plain = (train(tmp_path, path, *words) for path in ("fast", "plain"))
    first, second = (checkpoint(run)["state_dict"] for run in (fast, plain))
    assert gap(first, second) <= 1e-5


@pytest.mark.parametrize("finite", [[], ["--data.num_train_samples", "100"]])
def test_both_paths_see_the_same_samples_bit_for_bit(tmp_path, finite):
    for path in ("fast", "plain"):
        watch = intervene("Witness", path=tmp_path / f"{path}.txt")
        train(tmp_path, path, *finite, *BARE, *watch)
    seen = [(tmp_path / f"{path}.txt").read_text() for path in ("fast", "plain")]
    assert seen[0] == seen[1]
    assert [int(line.split()[0]) for line in seen[0].splitlines()] == [*range(1, 61)]


# Steps are steps


@pytest.mark.parametrize(
    ("steps", "interval", "log"), [(1, 20, 5), (7, 3, 1000), (67, 1000, 1), (70, 0.3, 11)]
)
def test_run_stops_exactly_whatever_the_intervals(tmp_path, steps, interval, log):
    words = ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(interval)]
    run = train(tmp_path, "fast", *BARE, *words, "--trainer.log_every_n_steps", str(log))
    assert checkpoint(run)["global_step"] == summary(run)["steps"] == steps
    assert summary(run)["samples_seen"] == 32 * steps
    rows = {row["step"]: row for row in read_metrics(run / "metrics.csv")}
    assert {s for s, row in rows.items() if "train/loss" in row} == set(range(log, steps + 1, log))
    every = round(interval * steps) if interval < 1 else interval
    validated = {s for s, row in rows.items() if "val/nmse" in row}
    assert validated == {*range(every, steps + 1, every), steps}


def test_large_batches_come_one_a_chunk(tmp_path):
    words = ["--data.batch_size", "8192", "--trainer.max_steps", "3", *DOUBLE]
    fast, plain = (train(tmp_path, path, *BARE, *words) for path in ("fast", "plain"))
    assert_same_runs(fast, plain, 1e-10)


def test_callback_that_listens_to_every_step_gets_every_step_and_changes_no_bit(tmp_path):
    seen = tmp_path / "seen.txt"
    assert fit(tmp_path, "--run.name", "watched", *intervene("Witness", path=seen)) == 0
    assert summary(tmp_path / "watched")["training_path"] == "fast"
    assert [int(line.split()[0]) for line in seen.read_text().splitlines()] == [*range(1, 61)]
    assert fit(tmp_path, "--run.name", "alone") == 0
    assert same_weights(tmp_path / "watched", tmp_path / "alone")
    logs = [(tmp_path / name / "metrics.csv").read_text() for name in ("watched", "alone")]
    assert logs[0] == logs[1]


# The callback is not needed to go on; Lightning says so.
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
def test_checkpoints_of_the_users_own_are_saved_at_their_steps_and_can_be_gone_on_from(tmp_path):
    own = tmp_path / "own"
    words = callback_words("ModelCheckpoint", every_n_train_steps=7, save_top_k=-1, dirpath=own)
    run = train(tmp_path, "fast", *BARE, "--trainer.max_steps", "30", *words)
    saved = {int(re.search(r"step=(\d+)", path.name)[1]): path for path in own.iterdir()}
    assert sorted(saved) == [7, 14, 21, 28]
    for step, path in saved.items():
        assert torch.load(path, weights_only=True)["global_step"] == step
    words = ["--run.name", "again", "--resume", str(saved[21]), "--trainer.max_steps", "30"]
    assert fit(tmp_path, *BARE, *words) == 0
    assert same_weights(run, tmp_path / "again")


def test_loggers_of_the_users_own_count_optimizer_steps(tmp_path):
    words = ["--trainer.logger+", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path / "own")]
    words += callback_words("LearningRateMonitor")
    logs = []
    for path in ("fast", "plain"):
        train(tmp_path, path, *BARE, *words)
        (log,) = (tmp_path / "own").rglob("metrics.csv")
        logs.append([row["step"] for row in read_metrics(log)])
        log.unlink()
    assert logs[0] == logs[1]
    assert max(logs[0]) <= 60


def test_bursts_are_counted_as_the_plain_path_counts_steps(tmp_path):
    runs = [train(tmp_path, path, *BARE) for path in ("fast", "plain")]
    loops = [checkpoint(run)["loops"]["fit_loop"] for run in runs]
    for key in ("epoch_loop.state_dict", "epoch_loop.batch_progress", "epoch_progress"):
        assert loops[0][key] == loops[1][key]


def test_averaging_of_weights_sees_every_step(tmp_path):
    words = [*BARE, *DOUBLE, *callback_words("EMAWeightAveraging", decay=0.9)]
    fast, plain = (train(tmp_path, path, *words) for path in ("fast", "plain"))
    assert_same_runs(fast, plain, 1e-10)
    one, other = (checkpoint(run)["current_model_state"] for run in (fast, plain))
    assert gap(one, other) <= 1e-10


# Going on


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("whole"), "plain", *DOUBLE)


@pytest.mark.parametrize("step", [20, 33])
@pytest.mark.parametrize(("first", "second"), [("plain", "fast"), ("fast", "plain")])
def test_run_goes_on_on_the_other_path(whole, tmp_path, capsys, first, second, step):
    words = ["--run.name", "cut", *DOUBLE]
    stop = intervene("SignalAt", step=step)
    assert fit(tmp_path, *words, "--training_path", first, *stop) == 130
    capsys.readouterr()
    assert fit(tmp_path, *words, "--training_path", second, "--resume", "auto") == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(told) == 1
    assert f"training_path '{second}' instead of '{first}'" in told[0]
    assert_same_runs(whole, tmp_path / "cut", 1e-10)
    assert summary(tmp_path / "cut")["samples_seen"] == 60 * 32


def test_phased_run_goes_on_on_the_other_path(tmp_path):
    words = [*DOUBLE, "--scheme", "Progressive", "--scheme.steps", "30", "--run.name"]
    plain = ["--training_path", "plain"]
    assert fit(tmp_path, *words, "whole", *plain) == 0
    assert fit(tmp_path, *words, "cut", *plain, *intervene("SignalAt", step=30)) == 130
    assert fit(tmp_path, *words, "cut", "--resume", "auto") == 0
    assert_same_runs(tmp_path / "whole", tmp_path / "cut", 1e-10)


def test_finished_run_has_nothing_left_on_the_other_path(whole, tmp_path, capsys):
    assert fit(tmp_path, "--run.name", "done", *DOUBLE, "--training_path", "plain") == 0
    before = (tmp_path / "done" / "metrics.csv").read_text()
    capsys.readouterr()
    assert fit(tmp_path, "--run.name", "done", *DOUBLE, "--resume", "auto") == 0
    assert "nothing is left to train" in capsys.readouterr().err
    assert (tmp_path / "done" / "metrics.csv").read_text() == before


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_run_in_double_precision_goes_on_and_is_scored_bit_for_bit(tmp_path, path):
    words = [*BARE, *DOUBLE, "--training_path", path, "--run.name"]
    assert fit(tmp_path, *words, "whole") == 0
    assert fit(tmp_path, *words, "cut", *intervene("SignalAt", step=33)) == 130
    assert fit(tmp_path, *words, "cut", "--resume", "auto") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    config = str(tmp_path / "whole" / "config.yaml")
    assert main(["validate", "-c", config, "--ckpt_path", "last"]) == 0
    scored = json.loads((tmp_path / "whole" / "validate.json").read_text())["metrics"]
    assert scored["val/loss"] == summary(tmp_path / "whole")["metrics"]["val/loss"]


# Measures are taken at 0, 1, ..., 8, 10, 11, 13, 15, 17, ...; a validation follows step 15.
@pytest.mark.parametrize(("call", "step"), [(12, 13), (13, 15)])
def test_run_that_is_stopped_between_two_bursts_goes_on_bit_for_bit(tmp_path, call, step):
    words = ["--training_path", "fast", "--trainer.val_check_interval", "15", "--run.name"]
    signal = ["--measures+", "tests.interventions.MeasureThatSignals"]
    signal += ["--measures.call", str(call)]
    assert fit(tmp_path, *words, "whole") == 0
    assert fit(tmp_path, *words, "cut", *signal) == 130
    assert checkpoint(tmp_path / "cut")["global_step"] == step
    assert fit(tmp_path, *words, "cut", "--resume", "auto") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    logs = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_bursts_that_are_cut_elsewhere_after_a_stop_change_no_bit(tmp_path):
    words = ["--training_path", "fast", "--run.name"]
    assert fit(tmp_path, *words, "whole") == 0
    assert fit(tmp_path, *words, "cut", *intervene("SignalAt", step=13)) == 130
    others = ["--trainer.log_every_n_steps", "1000", "--num_measures", "0"]
    assert fit(tmp_path, *words, "cut", "--resume", "auto", *others) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


def test_checkpoint_that_kept_the_sum_of_losses_goes_on(whole, tmp_path, capsys):
    """Format 2, from before there was a fast path."""
    words = ["--run.name", "cut", *DOUBLE]
    stop = intervene("SignalAt", step=33)
    assert fit(tmp_path, *words, "--training_path", "plain", *stop) == 130
    path = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["bfc_lightning"]["format"] = 2
    del content["bfc_lightning"]["environment"]["training_path"]
    log = content["callbacks"]["TrainingLog"]
    losses = log.pop("losses")
    assert len(losses) == 3  # since step 30
    log.update(total=losses.sum(), count=len(losses))
    torch.save(content, path)
    capsys.readouterr()
    assert fit(tmp_path, *words, "--resume", "auto") == 0
    assert "training_path 'fast' instead of 'plain'" in capsys.readouterr().err
    assert_same_runs(whole, tmp_path / "cut", 1e-10)


# The Trainer's other flags


def test_trial_of_a_few_steps_takes_them_and_leaves_nothing(tmp_path):
    seen = tmp_path / "seen.txt"
    words = ["--trainer.fast_dev_run", "5", *intervene("Witness", path=seen)]
    assert fit(tmp_path, "--training_path", "fast", *words) == 0
    assert [int(line.split()[0]) for line in seen.read_text().splitlines()] == [1, 2, 3, 4, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["seen.txt"]
    assert fit(tmp_path, "--training_path", "fast", "--trainer.fast_dev_run", "true") == 0


def test_validation_by_the_clock_works(tmp_path):
    words = ["--trainer.val_check_interval", "00:00:00:01", "--trainer.max_steps", "30"]
    run = train(tmp_path, "fast", *BARE, *words)
    assert summary(run)["steps"] == 30
    assert "val/nmse" in read_metrics(run / "metrics.csv")[-1]


def test_run_stops_when_its_time_is_over(tmp_path):
    words = ["--trainer.max_time", "00:00:00:01", "--trainer.max_steps", "1000000"]
    run = train(tmp_path, "fast", *BARE, *words, "--trainer.val_check_interval", "1000000")
    content = summary(run)
    assert content["status"] == "finished"
    assert 0 < content["steps"] < 1_000_000
    assert checkpoint(run)["global_step"] == content["steps"]


def test_early_stopping_stops_where_the_plain_path_does(tmp_path):
    words = callback_words("EarlyStopping", monitor="val/nmse", stopping_threshold=100)
    steps = [summary(train(tmp_path, path, *BARE, *words))["steps"] for path in ("fast", "plain")]
    assert steps == [20, 20]


@pytest.mark.parametrize("profiler", ["simple", "advanced"])
def test_profilers_run(tmp_path, profiler):
    words = ["--trainer.profiler", profiler, "--trainer.max_steps", "10"]
    assert summary(train(tmp_path, "fast", *BARE, *words))["steps"] == 10


def test_learner_that_diverges_within_a_chunk_ends_the_run_as_on_the_plain_path(tmp_path, capsys):
    words = ["--model.optimizer", "SGD", "--model.optimizer.lr", "1e4"]
    words += ["--trainer.gradient_clip_val", "null"]
    told = []
    for path in ("fast", "plain"):
        assert fit(tmp_path, *path_words(path), *BARE, *words) == 3
        told.append(capsys.readouterr().err.splitlines()[-1])
        assert summary(tmp_path / path)["status"] == "diverged"
    assert told[0] == told[1]
