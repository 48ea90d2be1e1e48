"""`validate`, `test` and `predict`, and reading a run back in Python."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from bfc_lightning import load_run
from bfc_lightning.cli import main
from bfc_lightning.runs.folder import RunError
from tests.runs import TINY, fit, summary


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("evaluation")
    assert fit(root, "--trainer.max_steps", "200", "--trainer.val_check_interval", "50") == 0
    return root / "tiny"


def evaluate(command: str, run: Path, *words: str) -> int:
    return main([command, "-c", TINY, "--run.root", str(run.parent), *words])


def test_validate_repeats_the_score_of_the_run(run):
    assert evaluate("validate", run, "--ckpt_path", "last") == 0
    content = json.loads((run / "validate.json").read_text())
    assert content["step"] == 200
    assert content["metrics"]["val/nmse"] == pytest.approx(
        summary(run)["metrics"]["val/nmse"], rel=1e-6
    )


def test_test_uses_samples_of_its_own(run):
    assert evaluate("test", run, "--ckpt_path", "last") == 0
    scored = json.loads((run / "test.json").read_text())["metrics"]["test/nmse"]
    seen = summary(run)["metrics"]["val/nmse"]
    assert scored != seen
    assert scored == pytest.approx(seen, rel=0.5)


def test_best_last_and_path_name_checkpoints(run):
    for name in ("best", "last", str(run / "checkpoints" / "best.ckpt"), str(run)):
        assert evaluate("validate", run, "--ckpt_path", name) == 0
        stem = "best" if "best" in name else "last"
        written = json.loads((run / "validate.json").read_text())["checkpoint"]
        assert Path(written) == run / "checkpoints" / f"{stem}.ckpt"


def test_copied_run_is_the_one_that_is_evaluated(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("*.json", "predictions.npz"))
    before = sorted(run.iterdir())
    assert main(["test", "-c", str(copy / "config.yaml"), "--ckpt_path", "best"]) == 0
    written = json.loads((copy / "test.json").read_text())
    assert Path(written["checkpoint"]) == copy / "checkpoints" / "best.ckpt"
    assert sorted(run.iterdir()) == before


def test_predictions_open_in_numpy_and_fit_the_score(run):
    assert main(["predict", "-c", str(run / "config.yaml"), "--ckpt_path", "last"]) == 0
    with np.load(run / "predictions.npz") as file:
        inputs, targets, predictions = (file[k] for k in ("inputs", "targets", "predictions"))
    assert inputs.shape == (512, 8)
    assert targets.shape == predictions.shape == (512,)
    target = load_run(run, "last").target
    assert np.allclose(target(torch.from_numpy(inputs).double()), targets, atol=1e-4)
    nmse = float(((predictions - targets) ** 2).mean() / target.variance)
    assert nmse == pytest.approx(summary(run)["metrics"]["val/nmse"], rel=0.5)


def test_missing_checkpoint_is_an_error_and_not_a_random_network(tmp_path, capsys):
    for name in ("best", "last", "nowhere.ckpt"):
        words = ["test", "-c", TINY, "--run.root", str(tmp_path), "--ckpt_path", name]
        assert main(words) == 2
        assert "checkpoint must exist" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_checkpoint_of_another_target_is_refused(run, capsys):
    assert evaluate("test", run, "--seed_everything", "1") == 2
    message = capsys.readouterr().err
    assert "another target" in message
    assert "target.init_args.seed" in message


def test_settings_given_beside_a_checkpoint_are_not_replaced_by_it(run, capsys):
    assert evaluate("test", run, "--model.width", "16") == 2
    assert "model.width 16 instead of 8" in capsys.readouterr().err


def test_checkpoint_of_another_program_is_refused(run, tmp_path, capsys):
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    for name, rule in (("foreign", "must come from bfc fit"), ("text", "must be readable")):
        assert evaluate("test", run, "--ckpt_path", str(tmp_path / f"{name}.ckpt")) == 2
        assert rule in capsys.readouterr().err


def test_checkpoint_that_carries_code_does_not_run_it(run, tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"bfc_lightning": Trap()}, tmp_path / "trap.ckpt")
    assert evaluate("test", run, "--ckpt_path", str(tmp_path / "trap.ckpt")) == 2
    assert not (tmp_path / "sprung").exists()


def test_load_run_gives_the_network_that_was_scored(run):
    loaded = load_run(run, "last")
    batch = loaded.data.make_stream("cpu", torch.float32).batch("val", 0, 256)
    again = loaded.data.make_stream("cpu", torch.float32).batch("val", 1, 256)
    inputs, signal = (torch.cat(pair) for pair in zip(batch[::2], again[::2], strict=True))
    with torch.no_grad():
        error = (loaded.network(inputs) - signal).square().mean() / loaded.target.variance
    assert float(error) == pytest.approx(summary(run)["metrics"]["val/nmse"], rel=1e-5)
    assert loaded.step == 200
    assert loaded.config["model"]["width"] == 8


def test_load_run_refuses_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunError, match=r"path must be a run folder, got .* holds no config.yaml"):
        load_run(tmp_path)


def test_target_tensors_that_do_not_fit_the_checkpoint_are_refused(run, tmp_path):
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    content["HierarchicalData"]["problem"]["0.input_weight"] *= 1.001
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(RunError, match=r"another target: 0.input_weight differs by 1.0e-03"):
        load_run(run, str(tmp_path / "other.ckpt"))
