"""Faults that users of similar programs have reported: what must happen instead."""

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path

import matplotlib
import pytest
import yaml
from lightning.pytorch.callbacks import Callback

from bfc_lightning.callbacks.loggers import read_metrics
from bfc_lightning.cli import main
from tests.launches import end, errors, fit_argv, script, start, wait_for_checkpoint
from tests.runs import TINY, checkpoint, fit, intervene, summary


def add(name: str, **arguments: object) -> list[str]:
    """Options that add a callback of Lightning."""
    given = [f"--trainer.callbacks.{key}={value}" for key, value in arguments.items()]
    return ["--trainer.callbacks+", name, *given]


@pytest.mark.parametrize(
    "argv",
    [
        add("GradientAccumulationScheduler", scheduling='{"0": 2}'),
        add("OnExceptionCheckpoint", dirpath="x"),
    ],
)
def test_callback_that_resumes_wrongly_is_refused(tmp_path, capsys, argv):
    assert fit(tmp_path, *argv) == 2
    assert "trainer.callbacks" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


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
    watch = add("tests.test_reported_faults.EpochStarts", path=tmp_path / "seen")
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


def test_run_with_a_checkpoint_callback_can_be_scored(tmp_path):
    assert fit(tmp_path, *add("ModelCheckpoint")) == 0
    for command in ("validate", "test", "predict"):
        assert main([command, "-c", str(tmp_path / "tiny" / "config.yaml")]) == 0


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_link_of_a_checkpoint_callback_leaves_our_checkpoints_whole(tmp_path):
    folder = tmp_path / "tiny" / "checkpoints"
    argv = add("ModelCheckpoint", save_last="link", monitor="val/nmse")
    assert fit(tmp_path, *argv, *intervene("SignalAt", step=33)) == 130
    assert all(path.exists() for path in folder.iterdir())
    assert fit(tmp_path, *argv, "--resume", "auto") == 0
    assert all(path.exists() for path in folder.iterdir())
    assert checkpoint(tmp_path / "tiny")["global_step"] == 60


@pytest.mark.slow
def test_experiment_keeps_trained_runs_if_learners_have_checkpoint_callbacks(tmp_path, monkeypatch):
    config = tmp_path / "c.yaml"
    callbacks = {"trainer": {"callbacks": [{"class_path": "ModelCheckpoint"}], "max_steps": 20}}
    content = {"base": [str(Path(TINY).absolute())], "seeds": [0], "learners": {"joint": callbacks}}
    config.write_text(yaml.safe_dump({**content, "test": True}))
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "-c", "c.yaml", "--workers", "1"]) == 0
    assert (tmp_path / "logs" / "c" / "runs" / "joint-seed0" / "test.json").is_file()


@pytest.mark.parametrize("labels", [("16", "32"), ("1e3", "true"), ("2024-01-01", "null")])
def test_learners_may_have_names_that_yaml_takes_for_something_else(tmp_path, capsys, labels):
    config = tmp_path / "c.yaml"
    first, second = labels
    config.write_text(
        f"base: [{Path(TINY).absolute()}]\nseeds: [0]\n"
        f"learners:\n  {first}: {{}}\n  {second}: {{model: {{width: 4}}}}\n"
    )
    assert main(["compare", "-c", str(config), "--list", "--run.root", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [f"{label}-seed0" in line for label, line in zip(labels, lines, strict=True)] == [
        True
    ] * 2


@pytest.mark.parametrize("name", ["1e-3", "12_000", "0x10", "true", "12:30:00", "größe"])
def test_run_may_have_a_name_that_yaml_takes_for_something_else(tmp_path, name):
    assert fit(tmp_path, "--run.name", name, "--trainer.max_steps", "20") == 0
    config = tmp_path / name / "config.yaml"
    assert yaml.safe_load(config.read_text())["run"]["name"] == name
    assert main(["test", "-c", str(config)]) == 0
    assert json.loads((config.parent / "test.json").read_text())["step"] == 20


@pytest.mark.parametrize("root", ["$SCRATCH/runs", "${SCRATCH}/runs", "~/runs"])
def test_root_is_expanded_by_everything_that_writes(tmp_path, monkeypatch, root):
    tiny = Path(TINY).absolute()
    monkeypatch.setenv("SCRATCH", str(tmp_path / "there"))
    monkeypatch.setenv("HOME", str(tmp_path / "there"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("root.yaml").write_text(f"run: {{root: '{root}', name: a}}\n")
    assert main(["fit", "-c", str(tiny), "-c", "root.yaml", "--trainer.max_steps", "20"]) == 0
    assert os.listdir(".") == ["root.yaml"]
    folder = tmp_path / "there" / "runs" / "a"
    assert {"config.yaml", "metrics.csv", "summary.json", "checkpoints"} <= set(os.listdir(folder))


def test_command_to_continue_can_be_pasted(tmp_path, capsys):
    root = tmp_path / "it's here"
    argv = ["--run.name", "my run", *intervene("SignalAt", step=33)]
    assert fit(root, *argv) == 130
    hint = capsys.readouterr().err.partition("to continue: ")[2].splitlines()[0]
    assert shlex.split(hint)[3] == str(root / "my run" / "config.yaml")
    assert main(shlex.split(hint)[1:]) == 0


def test_run_that_time_has_ended_is_not_finished(tmp_path, capsys):
    argv = ["--trainer.max_time", "00:00:00:01", "--trainer.max_steps", "1000000"]
    assert fit(tmp_path, *argv, "--model.lr_scheduler", "null") == 0
    assert summary(tmp_path / "tiny")["status"] == "timeout"
    assert "timeout" in capsys.readouterr().out


@pytest.mark.parametrize("setting", [{"font.family": "No Such Font"}, {"text.usetex": True}])
def test_figures_do_not_depend_on_settings_of_matplotlib(tmp_path, caplog, setting):
    with matplotlib.rc_context(setting):
        assert fit(tmp_path, "--run.figures", "true") == 0
    assert list((tmp_path / "tiny" / "figures").glob("*.png"))
    assert sum("findfont" in record.getMessage() for record in caplog.records) == 0


@pytest.mark.parametrize("interval", ["1e1", "1.5", "0", "-1", "0.0", "nan"])
def test_interval_between_validations_is_batches_or_a_fraction(tmp_path, capsys, interval):
    assert fit(tmp_path, "--trainer.val_check_interval", interval) == 2
    assert "trainer.val_check_interval" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["TensorBoardLogger", "CSVLogger"])
def test_loggers_of_the_user_get_every_setting(tmp_path, name):
    logger = ["--trainer.logger+", name, "--trainer.logger.save_dir", str(tmp_path / "own")]
    assert fit(tmp_path, *logger) == 0
    (path,) = (tmp_path / "own").rglob("hparams.yaml")
    assert yaml.safe_load(path.read_text())["model.width"] == 8


@pytest.mark.parametrize("enabled", ["null", "true"])
def test_progress_bar_of_the_user_replaces_ours(tmp_path, enabled):
    argv = ["--trainer.enable_progress_bar", enabled, *add("TQDMProgressBar")]
    assert fit(tmp_path, *argv) == 0


def bfc(root: Path, *argv: str, **variables: str) -> tuple[int, str]:
    return end(start([script("bfc"), *fit_argv(root, *argv)], **variables))


@pytest.mark.slow
def test_what_users_ask_callbacks_and_profilers_to_say_is_shown(tmp_path):
    stopping = add("EarlyStopping", monitor="val/nmse", verbose="true", stopping_threshold="9.0")
    code, output = bfc(tmp_path, *stopping, "--trainer.profiler", "simple")
    assert code == 0
    assert "Stopping threshold reached" in output
    assert "Profiler Report" in output


@pytest.mark.slow
def test_terminal_of_ascii_and_the_backend_of_a_notebook_are_no_errors(tmp_path):
    surroundings = {"PYTHONIOENCODING": "ascii", "MPLBACKEND": "module://no_such_backend"}
    argv = ["--run.name", "größe", "--run.figures", "true"]
    code, output = bfc(tmp_path, *argv, **surroundings)
    assert code == 0, output
    assert "gr??e" in output


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&1 | head -1 >&2", ">&- 2>&-"])
def test_run_ends_well_if_nobody_reads(tmp_path, closed):
    argv = fit_argv(tmp_path, "--trainer.enable_progress_bar", "true")
    line = f"{shlex.join([script('bfc'), *argv])} {closed}; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", line], check=False).returncode == 0
    assert summary(tmp_path / "tiny")["status"] == "finished"


@pytest.mark.slow
def test_run_that_is_training_is_left_alone(tmp_path, capsys):
    long = ["--trainer.max_steps", "1000000", "--trainer.val_check_interval", "200"]
    process = start([script("bfc"), *fit_argv(tmp_path, "--run.name", "a", *long)])
    wait_for_checkpoint(tmp_path / "a", process)
    for second in (["--resume", "auto"], ["--run.overwrite"]):
        capsys.readouterr()
        assert fit(tmp_path, "--run.name", "a", *long, *second) == 2
        assert len(errors(capsys.readouterr().err)) == 1
    process.send_signal(signal.SIGTERM)
    code, output = end(process)
    assert code == 143, output
    steps = [row["step"] for row in read_metrics(tmp_path / "a" / "metrics.csv")]
    assert steps == sorted(set(steps))
