"""`bfc fit` from end to end: the files of a run, its folder, and that it learns."""

import csv
import math
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bfc_lightning.callbacks.measurements import measure_steps
from bfc_lightning.callbacks.run_files import read_metrics
from bfc_lightning.cli import main
from bfc_lightning.schemes import Joint
from tests.runs import (
    BARE,
    TINY,
    checkpoint,
    error_line,
    fit,
    intervene,
    same_weights,
    summary,
    user_callback,
)

TWO_STEPS = ["--trainer.max_steps", "2", *BARE]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("fit")
    assert fit(root, "--run.figures", "true") == 0
    return root / "tiny"


def test_run_folder_holds_the_documented_files(run):
    names = {path.name.split(".tfevents")[0] for path in run.iterdir()}
    files = {"config.yaml", "summary.json", "metrics.csv", "events.out"}
    assert names == {*files, "checkpoints", "figures"}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (run / "figures" / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_summary_describes_the_run(run):
    content = summary(run)
    assert content["status"] == "finished"
    assert content["steps"] == 60
    assert content["samples_seen"] == 60 * 32
    assert 60 > content["wall_seconds"] > content["measure_seconds"] > 0
    assert content["versions"]["torch"]
    assert content["device"] == "cpu"
    rows = read_metrics(run / "metrics.csv")
    assert content["metrics"]["val/nmse"] == rows[-1]["val/nmse"]


def test_metrics_have_a_row_for_every_interval_validation_and_measurement(run):
    with (run / "metrics.csv").open() as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    assert list(rows) == sorted(rows)
    steps = {key: {step for step, row in rows.items() if row[key]} for key in rows[60]}
    assert steps["train/loss"] == set(range(5, 61, 5))
    assert steps["val/nmse"] == {20, 40, 60}
    assert steps["levels/residual_2"] == measure_steps(Joint().phases(2, 60), 8)


def test_tensorboard_shows_scalars_figures_and_hyperparameters(run):
    events = EventAccumulator(str(run)).Reload()
    shown = {event.step: event.value for event in events.Scalars("val/nmse")}
    rows = read_metrics(run / "metrics.csv")
    written = {row["step"]: row["val/nmse"] for row in rows if "val/nmse" in row}
    assert shown == pytest.approx(written, rel=1e-6)
    images = ["learning_curves", "feature_residuals", "probes", "leakage", "quadratic_form"]
    assert events.Tags()["images"] == images
    hparams = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    assert b"val/nmse" in hparams
    assert b"model.width" in hparams
    assert "hp_metric" not in events.Tags()["scalars"]


def test_config_of_a_run_runs_again_to_the_same_weights(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["run"]["name"] == "tiny"
    assert config["target"]["init_args"]["seed"] is None
    command = (run / "config.yaml").read_text().splitlines()[0].split("Again: bfc ")[1].split()
    assert main([*command[:-1], "again", "--run.figures", "false"]) == 0
    assert same_weights(run, run.parent / "again")


def test_each_seed_is_another_run(run):
    root = run.parent
    assert fit(root, "--run.name", "seed1", "--seed_everything", "1", *TWO_STEPS) == 0
    problems = [checkpoint(path)["HierarchicalData"]["problem"] for path in (run, root / "seed1")]
    one, other = (problem["0.input_weight"] for problem in problems)
    assert not (one == other).any()


def test_runs_without_a_name_are_numbered(tmp_path):
    for _ in range(3):
        assert fit(tmp_path, *TWO_STEPS) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "tiny-2", "tiny-3"}
    assert summary(tmp_path / "tiny-3")["status"] == "finished"


def test_existing_name_is_refused_unless_overwritten(tmp_path, capsys):
    assert fit(tmp_path, "--run.name", "a", *TWO_STEPS) == 0
    before = (tmp_path / "a" / "metrics.csv").read_text()
    assert fit(tmp_path, "--run.name", "a", "--trainer.max_steps", "3") == 2
    message = error_line(capsys.readouterr().err)
    assert "--resume auto" in message
    assert "--run.overwrite true" in message
    assert (tmp_path / "a" / "metrics.csv").read_text() == before
    overwrite = ["--run.name", "a", "--run.overwrite", "true", "--trainer.max_steps", "3"]
    assert fit(tmp_path, *overwrite) == 0
    assert summary(tmp_path / "a")["steps"] == 3
    assert len(list((tmp_path / "a").glob("events*"))) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("failure", [["--trainer.devices", "3"], intervene("FailInSetup")])
def test_overwrite_that_ends_before_the_first_step_keeps_the_old_run(tmp_path, failure):
    run, replaced, name = tmp_path / "a", tmp_path / ".a.replaced", ["--run.name", "a"]
    assert fit(tmp_path, *name, *TWO_STEPS) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for is_killed in (False, True):
        if is_killed:
            run.rename(replaced)
            run.mkdir()
        assert fit(tmp_path, *name, "--run.overwrite", "true", *failure) == 2
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    run.rename(replaced)
    run.mkdir()
    assert fit(tmp_path, *name, "--run.overwrite", "true", *TWO_STEPS) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_overwrite_deletes_run_folders_only(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("precious")
    assert fit(tmp_path, "--run.name", "a", "--run.overwrite", "true") == 2
    assert "run.overwrite" in error_line(capsys.readouterr().err)
    assert (tmp_path / "a" / "thesis.tex").read_text() == "precious"


@pytest.mark.parametrize("name", ["true", "12:30:00", "größe"])
def test_run_name_is_used_as_it_is_written(tmp_path, name):
    assert fit(tmp_path, "--run.name", name, *TWO_STEPS) == 0
    config = tmp_path / name / "config.yaml"
    assert yaml.safe_load(config.read_text())["run"]["name"] == name
    assert main(["test", "-c", str(config)]) == 0
    assert main(["fit", "-c", str(config), "--resume", "auto"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_root_may_contain_variables_and_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for root, folder in (("$SCRATCH/runs", "scratch/runs"), ("~/runs", "home/runs")):
        config = tmp_path / "root.yaml"
        config.write_text(f"run: {{root: '{root}'}}\n")
        assert main(["fit", "-c", TINY, "-c", str(config), *TWO_STEPS]) == 0
        files = {"config.yaml", "metrics.csv", "summary.json", "checkpoints"}
        assert files <= {path.name for path in (tmp_path / folder / "tiny").iterdir()}
        assert not Path(root.split("/")[0]).exists()


def test_max_steps_counts_optimizer_steps(tmp_path):
    argv = ["--trainer.max_steps", "7", "--trainer.accumulate_grad_batches", "3"]
    assert fit(tmp_path, *argv, "--trainer.val_check_interval", "0.5") == 0
    content = summary(tmp_path / "tiny")
    assert (content["steps"], content["samples_seen"]) == (7, 7 * 3 * 32)
    assert checkpoint(tmp_path / "tiny")["global_step"] == 7


@pytest.mark.parametrize("logger", ["CSVLogger", "TensorBoardLogger"])
def test_users_callback_and_loggers_work_beside_ours(tmp_path, logger):
    argv = ["--trainer.logger+", logger, "--trainer.logger.save_dir", str(tmp_path / "own")]
    argv += user_callback("EarlyStopping", monitor="val/nmse", stopping_threshold=100)
    assert fit(tmp_path, *argv) == 0
    assert summary(tmp_path / "tiny")["steps"] == 20
    (path,) = (tmp_path / "own").rglob("hparams.yaml")
    settings = yaml.safe_load(path.read_text())
    assert settings["model.width"] == settings["inputs.init_args.input_dim"] == 8
    assert isinstance(settings["target.init_args.seed"], int)
    if logger == "CSVLogger":
        assert "val/nmse" in path.with_name("metrics.csv").read_text().splitlines()[0]


def test_max_time_ends_with_status_timeout_and_counts_over_resumes(tmp_path):
    endless = ["--trainer.max_steps", "1000000", "--trainer.val_check_interval", "1000000"]
    endless += ["--engine", "eager"]
    argv = [*endless, *BARE, "--trainer.max_time", "00:00:00:02"]
    assert fit(tmp_path, *argv) == 0
    content = summary(tmp_path / "tiny")
    assert content["status"] == "timeout"
    assert 0 < content["steps"] < 1_000_000
    assert checkpoint(tmp_path / "tiny")["global_step"] == content["steps"]
    assert fit(tmp_path, *argv, "--resume", "auto") == 0
    again = summary(tmp_path / "tiny")
    assert again["status"] == "timeout"
    assert again["steps"] < 1.2 * content["steps"]
    assert again["wall_seconds"] > content["wall_seconds"]


def test_adam_learns_two_levels(tmp_path):
    argv = ["--trainer.max_steps", "500", "--model.width", "16", "--data.batch_size", "64"]
    assert fit(tmp_path, *argv) == 0
    metrics = summary(tmp_path / "tiny")["metrics"]
    assert metrics["val/nmse"] < 0.01
    assert metrics["val/nmse"] < metrics["reference/without_last_level"]
    assert metrics["levels/residual_2"] < 0.05


@pytest.mark.slow
def test_clipped_sgd_without_momentum_learns_too(tmp_path):
    argv = ["--model.optimizer", "SGD", "--model.optimizer.lr", "0.5"]
    argv += ["--trainer.gradient_clip_val", "0.3"]
    argv += ["--trainer.max_steps", "1500", "--model.width", "16", "--data.batch_size", "64"]
    assert fit(tmp_path, *argv) == 0
    assert summary(tmp_path / "tiny")["metrics"]["val/nmse"] < 0.1


def test_classification_reports_errors_and_learns(tmp_path):
    argv = ["--labels", "Classification", "--model.linear_readout", "true"]
    argv += ["--model.final_temperature", "0.05", "--model.width", "16"]
    assert fit(tmp_path, *argv, "--trainer.max_steps", "400", "--data.batch_size", "64") == 0
    metrics = summary(tmp_path / "tiny")["metrics"]
    assert 0 < metrics["val/error"] < 0.06
    assert math.isfinite(metrics["reference/without_last_level"])


def test_run_on_a_finite_training_set_overfits_it(tmp_path):
    argv = ["--data.num_train_samples", "40", "--trainer.max_steps", "300", "--model.width", "32"]
    assert fit(tmp_path, *argv) == 0
    metrics = summary(tmp_path / "tiny")["metrics"]
    assert metrics["train/loss"] < 0.1 * metrics["val/nmse"]
