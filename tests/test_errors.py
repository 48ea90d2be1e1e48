"""Errors: one line that names the key and the value, an exit code, and no folder left behind."""

import io
import re
import sys

import pytest

from bfc_lightning.cli import main
from tests.runs import BARE, TINY, checkpoint, error_line, fit, intervene, summary, user_callback

ZERO_WEIGHTS = str([[[[0] * 8] * 3], [[[0] * 8] * 2, [[0] * 3] * 2]])
REPLICAS = ["--model.num_replicas", "2"]
ADAM = ["--model.optimizer", "Adam"]
RARE_LOG = ["--trainer.log_every_n_steps", "1000"]
LBFGS = ["--model.optimizer", "LBFGS"]
SCHEDULER = user_callback("GradientAccumulationScheduler", scheduling='{"0": 2}')
ONE_LEVEL = ["--target.widths", "[3]", "--model.depth", "2"]
CLASSES = ["--labels", "Classification"]
LINEARIZED = ["--model.linearized", "true"]
CONTROLLED = ["--scheme", "Progressive", "--scheme.control"]
FACTORS = ["--scheme.lr_factors", "[0.5, 1]", "--model.lr_scheduler", "OneCycleLR"]
FACTORS += ["--model.lr_scheduler.max_lr", "1", "--model.lr_scheduler.cycle_momentum", "false"]
FREEZE = ["--scheme", "FreezeBelow", "--scheme.depth", "0"]
PULL = ["--scheme", "PullBelow", "--scheme.first", "1", "--scheme.pull", "0.3"]

MISTAKES = {
    "unknown key": (["--model.widht", "3"], r"'model.widht'.*'model.width'"),
    "closest key": (["--trainer.max_step", "3"], r"'trainer.max_steps'"),
    "wrong type": (["--model.width", "many"], r"model.width.*many"),
    "growing widths": (["--target.init_args.widths", "[3, 9]"], r"widths .*\[3, 9\]"),
    "covariance": (["--inputs.init_args.eigenvalues", "[1,1,1,1,1,1,1,-1]"], r"eigenval.*got -1"),
    "weights": (["--target.init_args.weights", "x"], r"target.weights.*got x"),
    "constant target": (["--target.init_args.weights", ZERO_WEIGHTS], r"target .* variance"),
    "cube": ([*CLASSES, "--target", "Staircase"], r"on the cube .* Hypercube and regression\.$"),
    "unknown target": (["--target", "HierarchcalTarget"], r"target: .*'HierarchicalTarget'"),
    "no target": (["--target", "torch.nn.Linear"], r"^target: must be a subclass of Target, got"),
    "group": (["--model", "3"], r"^model: .* '3'$"),
    "batch size": (["--data.batch_size", "30"], r"batch_size .*num_shards = 4, got 30"),
    "config": (["-c", "quikstart"], r"'quikstart'.*'quickstart'"),
    "checkpoint": (["--resume", "nowhere.ckpt"], r"checkpoint nowhere.ckpt"),
    "activation": (["--model.activation", "torch.nn.Nope"], r"model.activation: .*Nope"),
    "shape": (["--model.activation", "torch.nn.GLU"], r"activation .*\(2, 8\), got \(2, 4\)"),
    "regularization": (["--model.regularization", "[1, 2, 3]"], r"regularization .* 2 layers"),
    "optimizer": (["--model.optimizer", "SGD", "--model.optimizer.lr", "-1"], r"learning rate.*-1"),
    "rate": (["--model.optimizer.lr", "abc"], r"^model.optimizer.lr: Expected a float, got abc$"),
    "schedule": (["--model.lr_scheduler", "ReduceLROnPlateau"], r"lr_scheduler.*ReduceLROnPl"),
    "log interval": (["--trainer.log_every_n_steps", "0"], r"trainer.log_every_n_steps.*0"),
    "interval": (["--trainer.val_check_interval", "1.5"], r"trainer.val_check_interval.*1.5"),
    "interval within a step": (["--trainer.accumulate_grad_batches", "3"], r"multiple.*3, got 20"),
    "precision": (["--trainer.precision", "16-mixed"], r"trainer.precision.*16-mixed"),
    "steps": (["--trainer.max_steps", "-1"], r"trainer.max_steps.*-1"),
    "epochs": (["--trainer.max_epochs", "3"], r"'trainer.max_epochs'.*'trainer.max_steps'"),
    "time": (["--trainer.max_time", "soon"], r"soon"),
    "clipping": (["--trainer.gradient_clip_val", "-1"], r"trainer.gradient_clip_val: .*-1"),
    "null": (["--scheme", "null"], r"scheme must not be null"),
    "device": (["--trainer.accelerator", "tpu"], r"xla"),
    "metric": (user_callback("EarlyStopping", monitor="val/acc"), r"monitor .* got 'val/acc'"),
    "callback": (user_callback("OnExceptionCheckpoint", dirpath="x"), r"trainer.callbacks"),
    "mode": (user_callback("EarlyStopping", monitor="val/nmse", mode="x"), r"^`mode` can be"),
    "bug": (intervene("FailAt", step=1, error="Nope"), r"^AttributeError: .*'Nope' \(interventi"),
    "scheduler": (SCHEDULER, r"trainer.callbacks"),
    "logger": (["--trainer.logger+", "CSVLoger"], r"trainer.logger: .*'CSVLogger'"),
    "negative seed": (["--seed_everything", "-1"], r"seed_everything.*-1"),
    "large seed": (["--seed_everything", str(2**32)], r"seed_everything .* got 4294967296"),
    "no measures": (["--num_measures", "-1"], r"num_measures.*-1"),
    "threads": (["--run.threads", "0"], r"run.threads.*0"),
    "name": (["--run.name", "a/b"], r"run.name .*'a/b'"),
    "long name": (["--run.name", "a" * 256], r"name too long"),
    "engine": (["--engine", "faster"], r"engine.*faster"),
    "no replica": (["--model.num_replicas", "0"], r"num_replicas must be at least 1, got 0"),
    "RMSprop": ([*REPLICAS, "--model.optimizer", "RMSprop"], r"num_replicas .*RMSprop"),
    "AMSGrad": ([*REPLICAS, *ADAM, "--model.optimizer.amsgrad", "true"], r"num_replicas .*amsgrad"),
    "autograd": ([*REPLICAS, "--engine", "autograd"], r"num_replicas must be 1 with autograd"),
    "accumulation": ([*REPLICAS, "--trainer.accumulate_grad_batches", "2"], r"num_replicas .*acc"),
    "mixed precision": ([*REPLICAS, "--trainer.precision", "bf16-mixed"], r"num_replicas .*mixed"),
    "frozen layer": (["--scheme.freeze", '{"3": 10}'], r"scheme.freeze must name .* 1 to 2, got 3"),
    "frozen, LBFGS": (["--scheme.freeze", '{"1": 9}', *LBFGS], r"scheme.freeze .*LBFGS"),
    "scheme": (["--scheme", "layerwise"], r"scheme: .*layerwise.*'Layerwise'"),
    "control, classes": ([*CONTROLLED, "restart", *CLASSES], r"scheme.control needs regression"),
    "control, depth": ([*CONTROLLED, "restart", "--model.depth", "1"], r"at least 2 layers, got 1"),
    "control, linearized": ([*CONTROLLED, "detach_readout", *LINEARIZED], r"linearized"),
    "control, levels": ([*CONTROLLED, "subtract", *ONE_LEVEL], r"at least 2 levels, got 1"),
    "Layerwise": (["--scheme", "Layerwise", "--scheme.control", "restart"], r"scheme"),
    "Joint": (["--scheme", "Joint", "--scheme.control", "restart"], r"control"),
    "first": ([*FREEZE, "--scheme.first", "2"], r"scheme.first must be .* got 2"),
    "pull": ([*PULL, *LINEARIZED], r"scheme.pull .*model.linearized: true"),
    # These fail when the run folder exists already.
    "factors": (["--scheme", "Layerwise", *FACTORS], r"lr_factors .* got OneCycleLR"),
    "setup": (intervene("FailInSetup"), r"RuntimeError: before training \(interventions.py, line"),
    "first step": (intervene("FailInTheFirstStep"), r"RuntimeError: before training"),
    "measure": (["--measures+", "tests.interventions.DuplicateMeasure"], r"DuplicateMeasure must"),
}
LATE = ("factors", "setup", "first step", "measure")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line_with_exit_code_2_and_leaves_no_folder(mistake, tmp_path, capsys):
    argv, message = MISTAKES[mistake]
    assert fit(tmp_path / "some" / "logs", *argv) == 2
    error = capsys.readouterr().err
    line = error_line(error)
    assert error.splitlines()[-1] == f"bfc: error: {line}"
    assert len(error.splitlines()) == (2 if mistake in LATE else 1)
    assert len(line) < 400
    assert re.search(message, line), line
    assert not list(tmp_path.iterdir())


def test_root_that_existed_is_kept_and_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    assert fit(tmp_path / "logs", *intervene("FailInSetup")) == 2
    assert not list((tmp_path / "logs").iterdir())
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    assert fit(tmp_path / "file" / "logs") == 2
    assert "file" in error_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "content",
    [
        *(
            b"",
            b"- a\n- b\n",
            b"model: {width: 8\ndata: 3\n",
            b"\xff\xfe\x00",
            b"model:\n",
            b"run: 3",
        ),
        *(b"model: {optimizer: {class_path: 3}}", b"model: {optimizer: {init_args: [1]}}"),
    ],
)
def test_config_that_is_not_a_mapping_is_one_line_that_names_the_file(tmp_path, capsys, content):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    assert main(["fit", "-c", TINY, "-c", str(path), "--run.root", str(tmp_path / "logs")]) == 2
    error = capsys.readouterr().err
    assert "mine.yaml" in error_line(error)
    assert error.count("\n") == 1
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("kind", ["RuntimeError", "ValueError"])
def test_bug_after_the_first_step_is_exit_code_1_with_a_traceback(tmp_path, capsys, kind):
    assert fit(tmp_path, *intervene("FailAt", step=33, error=kind)) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1] == "bfc: error: a bug"
    assert checkpoint(tmp_path / "tiny")["global_step"] == 20


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


@pytest.mark.parametrize("argv", [[], [*CLASSES, *RARE_LOG]])
def test_divergence_is_exit_code_3_and_keeps_the_last_good_checkpoint(tmp_path, capsys, argv):
    assert fit(tmp_path, *argv, *intervene("PoisonAt", step=33)) == 3
    assert "diverged" in capsys.readouterr().err
    assert summary(tmp_path / "tiny")["status"] == "diverged"
    kept = checkpoint(tmp_path / "tiny")
    assert kept["global_step"] == 20
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


@pytest.mark.parametrize("engine", ["eager", "autograd"])
def test_divergence_before_the_first_checkpoint_keeps_the_folder(tmp_path, engine, capsys):
    argv = ["--model.optimizer", "SGD", "--model.optimizer.lr", "1e4", "--engine", engine]
    assert fit(tmp_path, *BARE, *argv, "--trainer.gradient_clip_val", "null") == 3
    assert "train/loss is not finite at step 5" in capsys.readouterr().err.splitlines()[-1]
    assert summary(tmp_path / "tiny")["status"] == "diverged"


def test_ascii_terminal_shows_results(tmp_path, monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert fit(tmp_path, "--run.name", "λ", *BARE) == 0
    text = shown.getvalue().decode("ascii")
    assert "?: finished" in text
    assert "val/nmse" in text
