"""`validate`, `test` and `predict`, and `load_run`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bfc_lightning import load_run
from bfc_lightning.cli import main
from bfc_lightning.runs.folder import RunError
from tests.runs import BARE, TINY, error_line, fit, intervene, summary


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("evaluation")
    assert fit(root, "--trainer.max_steps", "200", "--trainer.val_check_interval", "50") == 0
    return root / "tiny"


def evaluate(command: str, run: Path, *argv: str) -> int:
    return main([command, "-c", TINY, "--run.root", str(run.parent), *argv])


def result(run: Path, command: str) -> dict:
    return json.loads((run / f"{command}.json").read_text())


def test_validate_repeats_the_score_of_the_run(run, capsys):
    assert evaluate("validate", run, "--ckpt_path", "last") == 0
    assert result(run, "validate")["step"] == 200
    score = result(run, "validate")["metrics"]["val/nmse"]
    assert score == pytest.approx(summary(run)["metrics"]["val/nmse"], rel=1e-6)
    assert f"{score:.4g}" in capsys.readouterr().out


@pytest.mark.parametrize("config", [TINY, "tests/configs/resnet.yaml"])
def test_scores_are_in_the_precision_of_the_parameters(tmp_path, config):
    argv = ["-c", config, "--run.root", str(tmp_path), "--run.name", "run", *BARE]
    mixed = ["--trainer.precision", "bf16-mixed", "--trainer.max_steps", "3"]
    assert main(["fit", *argv, *mixed]) == 0
    assert main(["validate", *argv, "--ckpt_path", "last"]) == 0
    found = summary(tmp_path / "run"), result(tmp_path / "run", "validate")
    score, expected = (each["metrics"]["val/nmse"] for each in found)
    assert score == pytest.approx(expected, rel=1e-6)


def test_test_uses_samples_of_its_own(run):
    assert evaluate("test", run, "--ckpt_path", "last") == 0
    scored = result(run, "test")["metrics"]["test/nmse"]
    seen = summary(run)["metrics"]["val/nmse"]
    assert scored != seen
    assert scored == pytest.approx(seen, rel=0.5)


@pytest.mark.parametrize("name", ["best", "last", "checkpoints/best.ckpt", "."])
def test_checkpoint_is_given_by_name_file_or_run_folder(run, name):
    path = name if name in ("best", "last") else str(run / name)
    assert evaluate("validate", run, "--ckpt_path", path) == 0
    stem = "best" if "best" in name else "last"
    assert Path(result(run, "validate")["checkpoint"]) == run / "checkpoints" / f"{stem}.ckpt"


def test_copied_run_is_the_one_that_is_evaluated(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("test.json"))
    before = sorted(run.iterdir())
    assert main(["test", "-c", str(copy / "config.yaml")]) == 0
    assert Path(result(copy, "test")["checkpoint"]) == copy / "checkpoints" / "best.ckpt"
    assert sorted(run.iterdir()) == before


def test_users_callbacks_are_left_out(run):
    failing = [*intervene("FailAt", step=1), "--trainer.logger+", "CSVLogger"]
    failing += ["--trainer.logger.save_dir", str(run.parent / "own")]
    for command in ("validate", "test", "predict"):
        assert evaluate(command, run, *failing) == 0
    assert not (run.parent / "own").exists()


def test_predictions_open_in_numpy_and_agree_with_the_score(run):
    assert main(["predict", "-c", str(run / "config.yaml"), "--ckpt_path", "last"]) == 0
    with np.load(run / "predictions.npz") as file:
        inputs, targets, predictions = (file[k] for k in ("inputs", "targets", "predictions"))
    assert inputs.shape == (512, 8)
    assert targets.shape == predictions.shape == (512,)
    loaded = load_run(run, "last")
    assert np.allclose(loaded.target(torch.from_numpy(inputs).double()), targets, atol=1e-4)
    with torch.no_grad():
        assert np.allclose(loaded.network(torch.from_numpy(inputs)), predictions, atol=1e-5)
    nmse = float(((predictions - targets) ** 2).mean() / loaded.target.variance)
    assert nmse == pytest.approx(summary(run)["metrics"]["val/nmse"], rel=0.5)
    assert (loaded.step, loaded.config["model"]["width"]) == (200, 8)
    assert load_run(run).step == load_run(run, str(run / "checkpoints" / "best.ckpt")).step


def test_missing_checkpoint_is_an_error_and_leaves_no_folder(tmp_path, capsys):
    for name in ("best", "last", "nowhere.ckpt"):
        assert evaluate("test", tmp_path / "logs" / "tiny", "--ckpt_path", name) == 2
        assert "does not exist" in error_line(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_checkpoint_of_another_target_or_network_is_refused(run, capsys):
    assert evaluate("test", run, "--seed_everything", "1") == 2
    assert "network: seed_everything is 1, was 0. " in error_line(capsys.readouterr().err)
    assert evaluate("test", run, "--model.width", "16") == 2
    assert "model.width is 16, was 8" in error_line(capsys.readouterr().err)


def test_load_run_refuses_what_is_not_a_run(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config.yaml"):
        load_run(tmp_path)
    with pytest.raises(RunError, match=r"replica must be in \[0, 1\), got 1"):
        load_run(run, replica=1)
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    content["HierarchicalData"]["problem"]["0.input_weight"] *= 1.001
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"0.input_weight differs by 1.0e-03"):
        load_run(run, str(tmp_path / "other.ckpt"))
