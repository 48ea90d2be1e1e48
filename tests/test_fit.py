"""`bfc fit` from end to end: what a run leaves behind, and that it has learned."""

import csv
import math
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bfc_lightning.callbacks.measurements import measure_steps
from bfc_lightning.callbacks.metrics_file import read_metrics
from bfc_lightning.schemes import Joint
from tests.runs import TINY, checkpoint, fit, same_weights, summary


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("fit")
    assert fit(root, "--run.figures", "true") == 0
    return root / "tiny"


def test_run_folder_holds_what_the_documentation_names(run):
    names = {path.name.split(".tfevents")[0] for path in run.iterdir()}
    assert names == {
        "config.yaml",
        "summary.json",
        "metrics.csv",
        "checkpoints",
        "figures",
        "events.out",
    }
    saved = {path.name for path in (run / "checkpoints").iterdir()}
    assert saved == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    assert (run / "figures" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_summary_says_how_the_run_ended(run):
    content = summary(run)
    assert content["status"] == "finished"
    assert content["steps"] == 60
    assert content["samples_seen"] == 60 * 32
    assert content["wall_seconds"] > content["measure_seconds"] > 0
    assert content["versions"]["torch"]
    rows = read_metrics(run / "metrics.csv")
    assert content["metrics"]["val/nmse"] == rows[-1]["val/nmse"]


def test_metrics_hold_a_row_for_every_interval_validation_and_measure(run):
    rows = {row["step"]: row for row in read_metrics(run / "metrics.csv")}
    assert {step for step, row in rows.items() if "train/loss" in row} == set(range(5, 61, 5))
    assert {step for step, row in rows.items() if "val/nmse" in row} == {20, 40, 60}
    measured = {step for step, row in rows.items() if "levels/residual_2" in row}
    assert measured == measure_steps(Joint().phases(2, 60))


def test_metrics_file_is_plain_csv(run):
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == sorted({int(row["step"]) for row in rows})


def test_tensorboard_shows_the_scalars_of_the_metrics_file(run):
    events = EventAccumulator(str(run)).Reload()
    nmse = {event.step: event.value for event in events.Scalars("val/nmse")}
    rows = read_metrics(run / "metrics.csv")
    written = {row["step"]: row["val/nmse"] for row in rows if "val/nmse" in row}
    assert nmse == pytest.approx(written, rel=1e-6)
    assert events.Tags()["images"] == [
        *("learning_curves", "feature_residuals", "probes", "leakage", "quadratic_form")
    ]


def test_tensorboard_hparams_tab_names_real_metrics(run):
    events = EventAccumulator(str(run)).Reload()
    plugin = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    assert b"val/nmse" in plugin
    assert b"model.width" in plugin
    assert "hp_metric" not in events.Tags()["scalars"]


def test_config_of_a_run_runs_again_to_the_same_weights(run):
    root = run.parent
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["run"]["name"] == "tiny"
    assert config["target"]["init_args"]["seed"] is None
    from bfc_lightning.cli import main

    words = ["fit", "-c", str(run / "config.yaml"), "--run.root", str(root), "--run.name", "again"]
    assert main(words) == 0
    assert same_weights(run, root / "again")


def test_every_seed_is_another_run_and_the_same_seed_the_same(run):
    root = run.parent
    assert fit(root, "--run.name", "seed1", "--seed_everything", "1") == 0
    assert fit(root, "--run.name", "seed0", "--seed_everything", "0") == 0
    assert same_weights(run, root / "seed0")
    assert not same_weights(run, root / "seed1")
    problem = "HierarchicalData"
    one, other = checkpoint(run)[problem], checkpoint(root / "seed1")[problem]
    weights = "0.input_weight"
    assert not (one["problem"][weights] == other["problem"][weights]).any()


def test_runs_without_a_name_are_numbered(run):
    root = run.parent
    before = {path.name for path in root.iterdir()}
    assert fit(root, "--trainer.max_steps", "1") == 0
    assert fit(root, "--trainer.max_steps", "1") == 0
    assert {path.name for path in root.iterdir()} - before == {"tiny-2", "tiny-3"}


def test_overwrite_starts_the_named_run_afresh(tmp_path):
    for _ in range(2):
        words = ["--run.name", "a", "--run.overwrite", "true", "--trainer.max_steps", "3"]
        assert fit(tmp_path, *words) == 0
    assert len(list((tmp_path / "a").glob("events*"))) == 1


def test_max_steps_counts_optimizer_steps_and_stops_exactly(tmp_path):
    words = ["--trainer.max_steps", "7", "--trainer.accumulate_grad_batches", "3"]
    assert fit(tmp_path, *words, "--trainer.val_check_interval", "0.5") == 0
    content = summary(tmp_path / "tiny")
    assert (content["steps"], content["samples_seen"]) == (7, 7 * 3 * 32)
    assert checkpoint(tmp_path / "tiny")["global_step"] == 7


def test_train_loss_is_that_of_a_batch_however_many_make_a_step(tmp_path):
    losses = []
    for accumulate in ("1", "4"):
        words = ["--run.name", accumulate, "--trainer.accumulate_grad_batches", accumulate]
        assert fit(tmp_path, *words, "--trainer.max_steps", "5") == 0
        losses.append(summary(tmp_path / accumulate)["metrics"]["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.5)


def test_another_optimizer_or_schedule_starts_from_its_own_defaults(tmp_path):
    words = ["--model.optimizer", "SGD", "--model.lr_scheduler", "LinearLR"]
    assert fit(tmp_path, *words, "--trainer.max_steps", "2") == 0
    model = yaml.safe_load((tmp_path / "tiny" / "config.yaml").read_text())["model"]
    assert model["optimizer"]["init_args"]["lr"] == 1e-3
    assert model["lr_scheduler"]["init_args"]["start_factor"] == pytest.approx(1 / 3)


def test_argument_of_the_default_optimizer_can_be_given_alone(tmp_path):
    assert fit(tmp_path, "--model.optimizer.lr", "0.01", "--trainer.max_steps", "2") == 0
    model = yaml.safe_load((tmp_path / "tiny" / "config.yaml").read_text())["model"]
    assert model["optimizer"]["init_args"]["lr"] == 0.01
    assert model["optimizer"]["init_args"]["betas"] == [0.9, 0.95]


def test_wall_seconds_are_those_of_this_run(tmp_path):
    assert fit(tmp_path, "--trainer.max_steps", "2") == 0
    assert summary(tmp_path / "tiny")["wall_seconds"] < 20


def test_last_step_is_always_validated(tmp_path):
    assert fit(tmp_path, "--trainer.max_steps", "25") == 0
    rows = {row["step"]: row for row in read_metrics(tmp_path / "tiny" / "metrics.csv")}
    assert {step for step, row in rows.items() if "val/nmse" in row} == {20, 25}


def test_users_own_logger_and_callback_work_beside_ours(tmp_path):
    words = [
        "--trainer.logger+",
        "CSVLogger",
        "--trainer.logger.save_dir",
        str(tmp_path / "own"),
        "--trainer.callbacks+",
        "EarlyStopping",
        "--trainer.callbacks.monitor",
        "val/nmse",
        "--trainer.callbacks.stopping_threshold",
        "100",
    ]
    assert fit(tmp_path, *words) == 0
    assert summary(tmp_path / "tiny")["steps"] == 20
    own = next((tmp_path / "own").rglob("metrics.csv")).read_text()
    assert "val/nmse" in own.splitlines()[0]


def test_fast_dev_run_leaves_no_folder(tmp_path):
    assert fit(tmp_path, "--trainer.fast_dev_run", "true") == 0
    assert not list(tmp_path.iterdir())


def test_adam_learns_two_levels(tmp_path):
    words = ["--trainer.max_steps", "1500", "--model.width", "16", "--data.batch_size", "64"]
    assert fit(tmp_path, *words) == 0
    metrics = summary(tmp_path / "tiny")["metrics"]
    assert metrics["val/nmse"] < 0.03
    assert metrics["val/nmse"] < metrics["reference/without_last_level"]
    assert metrics["levels/residual_2"] < 0.05


def test_clipped_sgd_without_momentum_learns_too(tmp_path):
    words = ["--model.optimizer", "SGD", "--model.optimizer.lr", "0.5"]
    words += ["--trainer.gradient_clip_val", "0.3"]
    words += ["--trainer.max_steps", "1500", "--model.width", "16", "--data.batch_size", "64"]
    assert fit(tmp_path, *words) == 0
    assert summary(tmp_path / "tiny")["metrics"]["val/nmse"] < 0.1


def test_classification_reports_errors_and_learns(tmp_path):
    words = ["--labels", "Classification", "--model.linear_readout", "true"]
    words += ["--model.final_temperature", "0.05", "--model.width", "16"]
    assert fit(tmp_path, *words, "--trainer.max_steps", "800", "--data.batch_size", "64") == 0
    metrics = summary(tmp_path / "tiny")["metrics"]
    assert 0 < metrics["val/error"] < 0.12
    assert math.isfinite(metrics["reference/without_last_level"])


def test_finite_sample_run_overfits_a_tiny_training_set(tmp_path):
    words = ["--data.num_train_samples", "40", "--trainer.max_steps", "800", "--model.width", "32"]
    assert fit(tmp_path, *words) == 0
    metrics = summary(tmp_path / "tiny")["metrics"]
    assert metrics["train/loss"] < 0.1 * metrics["val/nmse"]


def test_config_file_of_the_tests_is_the_documented_shape():
    assert set(yaml.safe_load(Path(TINY).read_text())) == {
        "inputs",
        "target",
        "model",
        "data",
        "run",
        "trainer",
    }
