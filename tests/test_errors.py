"""Errors: one line that names the key and the value, an exit code, and no folder left behind."""

import io
import os
import re
import subprocess
import sys

import pytest

from bfc_lightning.cli import main
from bfc_lightning.cli.errors import one_line
from tests.runs import BARE, TINY, checkpoint, error_line, fit, intervene, summary, user_callback

ZERO_WEIGHTS = str([[[[0] * 8] * 3], [[[0] * 8] * 2, [[0] * 3] * 2]])
REPLICAS = ["--model.num_replicas", "2"]
ADAM = ["--model.optimizer", "Adam"]

MISTAKES = {
    "unknown key": (["--model.widht", "3"], r"'model.widht'.*'model.width'"),
    "wrong type": (["--model.width", "many"], r"model.width.*many"),
    "growing widths": (["--target.init_args.widths", "[3, 9]"], r"widths .*\[3, 9\]"),
    "scales": (["--target.init_args.level_scales", "[1, 0.5, 0.2]"], r"level_scales .* got 3"),
    "covariance": (["--inputs.init_args.eigenvalues", "[1,1,1,1,1,1,1,-1]"], r"eigenval.*got -1"),
    "mean": (["--inputs.init_args.mean", ".nan"], r"mean must be finite, got nan"),
    "constant target": (["--target.init_args.weights", ZERO_WEIGHTS], r"target .* variance"),
    "weights": (["--target.init_args.weights", "x"], r"target.weights.*got x"),
    "unknown target": (["--target", "HierarchcalTarget"], r"target: .*'HierarchicalTarget'"),
    "group": (["--model", "3"], r"^model: .* '3'$"),
    "batch size": (["--data.batch_size", "30"], r"batch_size .*num_shards = 4, got 30"),
    "processes": (["--trainer.devices", "3"], r"data.num_shards .*3, got 4"),
    "config": (["-c", "quikstart"], r"'quikstart'.*'quickstart'"),
    "no config": (["-c", ""], r"config ''"),
    "checkpoint": (["--resume", "nowhere.ckpt"], r"checkpoint nowhere.ckpt"),
    "foreign checkpoint": (["--resume", "pyproject.toml"], r"checkpoint pyproject.toml"),
    "activation": (["--model.activation", "torch.nn.Nope"], r"model.activation: .*Nope"),
    "shape": (["--model.activation", "torch.nn.GLU"], r"activation .*\(2, 4\), got \(2, 2\)"),
    "depth": (["--model.depth", "0"], r"depth must be at least 1, got 0"),
    "regularization": (["--model.regularization", "[1, 2, 3]"], r"regularization .* 2 layers"),
    "optimizer": (["--model.optimizer", "SGD", "--model.optimizer.lr", "-1"], r"learning rate.*-1"),
    "schedule": (["--model.lr_scheduler", "ReduceLROnPlateau"], r"lr_scheduler.*ReduceLROnPl"),
    "log interval": (["--trainer.log_every_n_steps", "0"], r"trainer.log_every_n_steps.*0"),
    "interval": (["--trainer.val_check_interval", "1.5"], r"trainer.val_check_interval.*1.5"),
    "interval within a step": (["--trainer.accumulate_grad_batches", "3"], r"multiple.*3, got 20"),
    "precision": (["--trainer.precision", "16-mixed"], r"trainer.precision.*16-mixed"),
    "steps": (["--trainer.max_steps", "-1"], r"trainer.max_steps.*-1"),
    "epochs": (["--trainer.max_epochs", "3"], r"'trainer.max_epochs'.*'trainer.max_steps'"),
    "time": (["--trainer.max_time", "soon"], r"soon"),
    "device": (["--trainer.accelerator", "tpu"], r"xla"),
    "metric": (user_callback("EarlyStopping", monitor="val/acc"), r"monitor .* got 'val/acc'"),
    "callback": (user_callback("OnExceptionCheckpoint", dirpath="x"), r"trainer.callbacks"),
    "logger": (["--trainer.logger+", "CSVLoger"], r"trainer.logger: .*'CSVLogger'"),
    "negative seed": (["--seed_everything", "-1"], r"seed_everything.*-1"),
    "large seed": (["--seed_everything", str(2**32)], r"4294967296 .* 0 to 4294967295"),
    "no measures": (["--num_measures", "-1"], r"num_measures.*-1"),
    "threads": (["--run.threads", "0"], r"run.threads.*0"),
    "name": (["--run.name", "a/b"], r"run.name .*'a/b'"),
    "long name": (["--run.name", "a" * 231], r"run.name .*230"),
    "training path": (["--training_path", "faster"], r"training_path.*faster"),
    "no replica": (["--model.num_replicas", "0"], r"num_replicas must be at least 1, got 0"),
    "RMSprop": ([*REPLICAS, "--model.optimizer", "RMSprop"], r"model.optimizer .*RMSprop"),
    "AMSGrad": ([*REPLICAS, *ADAM, "--model.optimizer.amsgrad", "true"], r"optimizer .*amsgrad"),
    "SiLU": ([*REPLICAS, "--model.activation", "torch.nn.SiLU"], r"num_replicas .*SiLU"),
    "linearized": ([*REPLICAS, "--model.linearized", "true"], r"num_replicas .*Linearized"),
    "plain path": ([*REPLICAS, "--training_path", "plain"], r"training_path .*num_replicas.*plain"),
    "two processes": (
        [*REPLICAS, "--trainer.devices", "2"],
        r"trainer.devices must be 1 .*num_replicas",
    ),
    "accumulation": ([*REPLICAS, "--trainer.accumulate_grad_batches", "2"], r"num_replicas .*acc"),
    "mixed precision": ([*REPLICAS, "--trainer.precision", "bf16-mixed"], r"num_replicas .*mixed"),
    # These fail when the run folder exists already.
    "setup": (intervene("FailInSetup"), r"RuntimeError: before training \(interventions.py, line"),
    "first step": (intervene("FailInTheFirstStep"), r"RuntimeError: before training"),
    "measure": (["--measures+", "tests.interventions.DuplicateMeasure"], r"DuplicateMeasure must"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line_with_exit_code_2_and_leaves_no_folder(mistake, tmp_path, capsys):
    argv, message = MISTAKES[mistake]
    assert fit(tmp_path / "some" / "logs", *argv) == 2
    error = capsys.readouterr().err
    line = error_line(error)
    assert error.splitlines()[-1] == f"bfc: error: {line}"
    assert len(error.splitlines()) == (2 if mistake in ("setup", "first step", "measure") else 1)
    assert len(line) < 400
    assert re.search(message, line), line
    assert not list(tmp_path.iterdir())


def test_root_that_existed_is_kept(tmp_path):
    assert fit(tmp_path / "logs", "--trainer.devices", "3") == 2
    (tmp_path / "logs").mkdir()
    assert fit(tmp_path / "logs", *intervene("FailInSetup")) == 2
    assert not list((tmp_path / "logs").iterdir())


def test_root_that_is_a_file_is_an_error(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert fit(tmp_path / "file" / "logs") == 2
    assert "file" in error_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "content", [b"", b"- a\n- b\n", b"model: {width: 8\ndata: 3\n", b"\xff\xfe\x00"]
)
def test_config_that_is_not_a_mapping_is_one_line_that_names_the_file(tmp_path, capsys, content):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert main(["fit", "-c", TINY, "-c", str(path), "--run.root", str(tmp_path / "logs")]) == 2
    error = capsys.readouterr().err
    assert "mine.yaml" in error_line(error)
    assert error.count("\n") == 1
    assert not (tmp_path / "logs").exists()


# How a run that has begun ends


def test_bug_after_the_first_step_is_exit_code_1_with_a_traceback(tmp_path, capsys):
    assert fit(tmp_path, *intervene("FailAt", step=33)) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1] == "bfc: error: a bug"
    assert checkpoint(tmp_path / "tiny")["global_step"] == 20


def test_value_error_of_a_bug_after_the_first_step_is_no_usage_error(tmp_path, capsys):
    assert fit(tmp_path, *intervene("FailAt", step=33, error="ValueError")) == 1
    assert "Traceback" in capsys.readouterr().err


def test_out_of_memory_is_exit_code_4(tmp_path, capsys):
    assert fit(tmp_path, "--model.width", str(10**12)) == 4
    error = capsys.readouterr().err
    assert "out of memory" in error_line(error)
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    message = "CUDA out of memory. Tried to allocate 3.00 GiB"
    assert fit(tmp_path, *intervene("FailAt", step=33, message=message)) == 4
    assert message in error_line(capsys.readouterr().err)
    assert checkpoint(tmp_path / "tiny")["global_step"] == 20


RARE_LOG = ["--trainer.log_every_n_steps", "1000"]
CLASSES = ["--labels", "Classification"]


@pytest.mark.parametrize("argv", [[], RARE_LOG, [*CLASSES, *RARE_LOG]])
def test_divergence_is_exit_code_3_and_keeps_the_last_good_checkpoint(tmp_path, capsys, argv):
    assert fit(tmp_path, *argv, *intervene("PoisonAt", step=33)) == 3
    assert "diverged" in capsys.readouterr().err
    assert summary(tmp_path / "tiny")["status"] == "diverged"
    kept = checkpoint(tmp_path / "tiny")
    assert kept["global_step"] == 20
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


@pytest.mark.parametrize("path", ["fast", "plain"])
def test_divergence_before_the_first_checkpoint_keeps_the_folder(tmp_path, path, capsys):
    argv = ["--model.optimizer", "SGD", "--model.optimizer.lr", "1e4", "--training_path", path]
    assert fit(tmp_path, *BARE, *argv, "--trainer.gradient_clip_val", "null") == 3
    assert "train/loss is not finite at step 5" in capsys.readouterr().err.splitlines()[-1]
    assert summary(tmp_path / "tiny")["status"] == "diverged"


# The command line itself


def test_closed_pipe_does_not_end_a_run(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    argv = ["fit", "-c", TINY, "--run.root", str(tmp_path), *BARE]
    command = [sys.executable, "-m", "bfc_lightning", *argv]
    process = subprocess.Popen(command, stdout=writer, stderr=writer)
    os.close(writer)
    assert process.wait(timeout=120) == 0
    assert summary(tmp_path / "tiny")["status"] == "finished"


def test_ascii_terminal_shows_results(tmp_path, monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert fit(tmp_path, "--run.name", "λ", *BARE) == 0
    text = shown.getvalue().decode("ascii")
    assert "?: finished" in text
    assert "val/nmse" in text


def test_unknown_command_suggests_a_known_one(capsys):
    assert main(["validat"]) == 2
    assert "'validate'" in error_line(capsys.readouterr().err)
    assert main(["train"]) == 2
    assert "fit, validate, test, predict" in error_line(capsys.readouterr().err)


def test_version_is_that_of_the_package(capsys):
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert version("bfc_lightning") in capsys.readouterr().out


UNION = """Parser key "model.width":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, list[int]]
  Errors:
    - Expected a <class 'int'>
    - Expected a <class 'list'>
  Given value type: <class 'str'>
  Given value: many"""
OWN = """Does not validate against any of the Union subtypes
Subtypes: [<class 'bfc_lightning.targets.base.Target'>, <class 'NoneType'>]
Errors:
  - widths must not grow from input_dim = 8 upwards, got [3, 9].
  - Expected a <class 'NoneType'>
Given value type: <class 'jsonargparse._namespace.Namespace'>
Given value: Namespace(class_path='bfc_lightning.HierarchicalTarget')"""


def test_messages_of_jsonargparse_are_cut_to_what_they_say():
    expected = 'Parser key "model.width":; Expected a int; Expected a list, got many'
    assert one_line(UNION) == expected
    assert one_line(OWN) == "widths must not grow from input_dim = 8 upwards, got [3, 9]."
    assert len(one_line("x" * 10_000)) < 700
