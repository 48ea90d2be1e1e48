"""Faults that users of similar programs have reported: what must happen instead."""

import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
import yaml
from lightning.pytorch.callbacks import Callback

from bfc_lightning.cli import main
from tests.launches import bfc, end, fit_argv, script, start
from tests.runs import TINY, checkpoint, fit, intervene, summary, user_callback


def test_checkpoint_of_a_cluster_is_not_resumed_unasked(tmp_path):
    """Lightning loads `hpc_ckpt_*.ckpt` from its folder, whatever `ckpt_path` says."""
    assert fit(tmp_path, *intervene("SignalAt", step=33)) == 130
    (tmp_path / "tiny" / "hpc_ckpt_1.ckpt").write_text("of another run")
    assert fit(tmp_path, "--resume", "auto") == 0
    assert summary(tmp_path / "tiny")["steps"] == 60


class EpochStarts(Callback):
    """Records the starts of epochs."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_epoch_start(self, trainer, *args) -> None:
        with open(self.path, "a") as file:
            file.write(f"{trainer.global_step} ")


def test_callback_at_epoch_start_acts_in_a_resumed_run_too(tmp_path):
    watch = user_callback("tests.test_reported_faults.EpochStarts", path=tmp_path / "seen")
    assert fit(tmp_path, *watch, *intervene("SignalAt", step=33)) == 130
    assert fit(tmp_path, *watch, "--resume", "auto") == 0
    assert (tmp_path / "seen").read_text() == "0 33 "


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("test", ["--trainer.fast_dev_run", "true"]),
        ("test", ["--trainer.limit_test_batches", "0"]),
        ("validate", ["--trainer.limit_val_batches", "1"]),
        ("predict", ["--trainer.limit_predict_batches", "0"]),
        ("test", ["--trainer.barebones", "true"]),
        ("fit", ["--trainer.enable_checkpointing", "false"]),
    ],
)
def test_flag_that_would_shorten_a_result_does_not_exist(tmp_path, capsys, command, flag):
    argv = [command, "-c", TINY, "--run.root", str(tmp_path), *flag]
    assert main(argv) == 2
    assert flag[0].removeprefix("--") in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_link_of_a_checkpoint_callback_leaves_our_checkpoints_whole_and_scored(tmp_path):
    folder = tmp_path / "tiny" / "checkpoints"
    argv = user_callback("ModelCheckpoint", save_last="link", monitor="val/nmse")
    assert fit(tmp_path, *argv, *intervene("SignalAt", step=33)) == 130
    assert all(path.exists() for path in folder.iterdir())
    assert fit(tmp_path, *argv, "--resume", "auto") == 0
    assert all(path.exists() for path in folder.iterdir())
    assert checkpoint(tmp_path / "tiny")["global_step"] == 60
    for command in ("validate", "test", "predict"):
        assert main([command, "-c", str(tmp_path / "tiny" / "config.yaml")]) == 0


@pytest.mark.slow
def test_experiment_keeps_trained_runs_if_learners_have_checkpoint_callbacks(tmp_path, monkeypatch):
    config = tmp_path / "c.yaml"
    callbacks = {"trainer": {"callbacks": [{"class_path": "ModelCheckpoint"}], "max_steps": 20}}
    content = {"base": [str(Path(TINY).absolute())], "seeds": [0], "learners": {"joint": callbacks}}
    config.write_text(yaml.safe_dump({**content, "test": True}))
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "-c", "c.yaml", "--workers", "1"]) == 0
    assert (tmp_path / "logs" / "c" / "runs" / "joint-seed0" / "test.json").is_file()


def test_figures_do_not_depend_on_settings_of_matplotlib(tmp_path, caplog):
    with matplotlib.rc_context({"font.family": "No Such Font", "text.usetex": True}):
        assert fit(tmp_path, "--run.figures", "true", "--num_measures", "2") == 0
    assert list((tmp_path / "tiny" / "figures").glob("*.png"))
    assert sum("findfont" in record.getMessage() for record in caplog.records) == 0


@pytest.mark.slow
def test_backend_of_a_notebook_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://no_such_backend")
    code, output = bfc(1, tmp_path, "--run.figures", "true")
    assert code == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&1 | head -1 >&2", ">&- 2>&-"])
def test_run_ends_well_if_nobody_reads(tmp_path, closed):
    argv = fit_argv(tmp_path, "--trainer.enable_progress_bar", "true")
    line = f"{shlex.join([script('bfc'), *argv])} {closed}; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", line], check=False).returncode == 0
    assert summary(tmp_path / "tiny")["status"] == "finished"


@pytest.mark.slow
def test_what_users_ask_callbacks_and_profilers_to_say_is_shown(tmp_path):
    stopping = user_callback(
        "EarlyStopping", monitor="val/nmse", verbose="true", stopping_threshold="9.0"
    )
    code, output = bfc(1, tmp_path, *stopping, "--trainer.profiler", "simple")
    assert code == 0
    assert "Stopping threshold reached" in output
    assert "Profiler Report" in output


NOT_INSTALLED = """
import importlib.metadata, runpy, sys
real = importlib.metadata.version
def version(name):
    if name == "bfc_lightning":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
runpy.run_module("bfc_lightning", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["--version"], fit_argv(Path("ROOT"))])
def test_source_tree_that_is_not_installed_works(tmp_path, argv):
    argv = [str(tmp_path) if each == "ROOT" else each for each in argv]
    code, output = end(start([sys.executable, "-c", NOT_INSTALLED, *argv]))
    assert code == 0, output
