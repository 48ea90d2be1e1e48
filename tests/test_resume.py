"""`--resume`: runs that were killed or stopped continue bit for bit, and only as the same run."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bfc_lightning.callbacks.run_files import read_metrics
from bfc_lightning.cli import main
from tests.interventions import SimulatedKillError
from tests.runs import (
    BARE,
    DOUBLE,
    TINY,
    assert_same_run,
    checkpoint,
    error_line,
    fit,
    intervene,
    metrics_text,
    same_weights,
    summary,
)

RESUME = ["--resume", "auto"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that was not interrupted, with a checksum of the inputs of every step."""
    root = tmp_path_factory.mktemp("whole")
    assert fit(root, *intervene("Witness", path=root / "seen")) == 0
    return root / "tiny"


@pytest.mark.parametrize(
    "name", ["SIGKILL", *(pytest.param(n, marks=pytest.mark.slow) for n in ("SIGINT", "SIGTERM"))]
)
def test_process_that_gets_a_signal_continues_bit_for_bit(whole, tmp_path, name, capsys):
    """Another process can neither resume nor overwrite it, and nobody reads what it prints."""
    ready, go = tmp_path / "ready", tmp_path / "go"
    root = tmp_path / "logs"
    argv = ["fit", "-c", TINY, "--run.root", str(root)]
    argv += intervene("WaitAt", step=33, ready=ready, go=go)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "bfc_lightning", *argv]
    process = subprocess.Popen(command, stdout=writer, stderr=writer)
    os.close(writer)
    try:
        deadline = time.monotonic() + 120
        while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        for argv in (RESUME, ["--run.name", "tiny", "--run.overwrite"]):
            assert fit(root, *argv) == 2
            assert "in use" in error_line(capsys.readouterr().err)
        process.send_signal(getattr(signal, name))
        go.touch()
        code = process.wait(timeout=120)
    finally:
        process.kill()
    is_kill = name == "SIGKILL"
    assert code == (-9 if is_kill else 128 + getattr(signal, name))
    assert summary(root / "tiny")["status"] == ("running" if is_kill else "interrupted")
    assert checkpoint(root / "tiny")["global_step"] == (20 if is_kill else 33)
    assert fit(root, *RESUME) == 0
    assert_same_run(whole, root / "tiny")
    content = summary(root / "tiny")
    assert (content["status"], content["samples_seen"]) == ("finished", 60 * 32)


@pytest.mark.parametrize("step", [5, 20, pytest.param(21, marks=pytest.mark.slow)])
def test_killed_run_continues_bit_for_bit(whole, tmp_path, step):
    with pytest.raises(SimulatedKillError):
        fit(tmp_path, *intervene("RaiseAt", step=step))
    assert fit(tmp_path, *RESUME) == 0
    assert_same_run(whole, tmp_path / "tiny")


@pytest.mark.parametrize("step", [1, 20, 60])
def test_signal_at_any_step_saves_and_stops(whole, tmp_path, step):
    is_last = step == 60
    assert fit(tmp_path, *intervene("SignalAt", step=step)) == (0 if is_last else 130)
    assert summary(tmp_path / "tiny")["status"] == ("finished" if is_last else "interrupted")
    assert checkpoint(tmp_path / "tiny")["global_step"] == step
    assert fit(tmp_path, *RESUME) == 0
    assert_same_run(whole, tmp_path / "tiny")


def test_signal_between_two_chunks_of_steps_saves_and_stops(tmp_path):
    """Measurements are at steps 0, 1, 2, 3, 6, 10, ...; a validation follows step 10."""
    interval = ["--trainer.val_check_interval", "10", "--run.name"]
    assert fit(tmp_path, *interval, "whole") == 0
    for call, step in ((5, 6), (6, 10)):
        cut = [*interval, f"cut-{step}"]
        argv = ["--measures+", "tests.interventions.MeasureThatSignals", "--measures.call"]
        assert fit(tmp_path, *cut, *argv, str(call)) == 130
        assert checkpoint(tmp_path / f"cut-{step}")["global_step"] == step
        assert fit(tmp_path, *cut, *RESUME) == 0
        assert_same_run(tmp_path / "whole", tmp_path / f"cut-{step}")


def test_second_signal_stops_at_once(whole, tmp_path):
    twice = [*intervene("SignalAt", step=33), *intervene("SignalAt", step=33)]
    assert fit(tmp_path, *twice) == 130
    assert summary(tmp_path / "tiny")["status"] == "interrupted"
    assert checkpoint(tmp_path / "tiny")["global_step"] == 20
    assert fit(tmp_path, *RESUME) == 0
    assert_same_run(whole, tmp_path / "tiny")


@pytest.mark.parametrize(
    "argv",
    [
        ["--data.num_train_samples", "100"],
        ["--labels", "Classification", "--model.final_temperature", "0.05"],
        pytest.param(["--trainer.accumulate_grad_batches", "4"], marks=pytest.mark.slow),
        pytest.param(
            [*DOUBLE, "--engine", "autograd", "--model.optimizer", "RMSprop"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_other_kinds_of_runs_continue_bit_for_bit(tmp_path, argv):
    argv = [*argv, *BARE, "--run.name"]
    assert fit(tmp_path, *argv, "whole") == 0
    assert fit(tmp_path, *argv, "cut", *intervene("SignalAt", step=33)) == 130
    assert fit(tmp_path, *argv, "cut", *RESUME) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_stopped_run_says_how_to_continue_and_a_finished_one_that_it_is(tmp_path, capsys):
    root = tmp_path / "it's here"
    argv = ["--run.name", "my run", *intervene("SignalAt", step=33)]
    assert fit(root, *argv) == 130
    hint = capsys.readouterr().err.partition("to continue: bfc ")[2].splitlines()[0]
    assert shlex.split(hint) == ["fit", "-c", str(root / "my run" / "config.yaml"), *RESUME]
    assert main(shlex.split(hint)) == 0
    assert "resuming from step 33" in capsys.readouterr().err
    before = metrics_text(root / "my run")
    assert fit(root, "--run.name", "my run", *RESUME) == 0
    assert "nothing is left to train" in capsys.readouterr().err
    assert metrics_text(root / "my run") == before


def test_run_that_was_stopped_early_is_measured_and_over(tmp_path, capsys):
    assert fit(tmp_path, *intervene("StopAt", step=29)) == 0
    last = read_metrics(tmp_path / "tiny" / "metrics.csv")[-1]
    assert {"features/residual_1", "val/nmse"} <= last.keys()
    assert fit(tmp_path, *RESUME) == 0
    assert "nothing is left to train" in capsys.readouterr().err
    assert summary(tmp_path / "tiny")["steps"] == last["step"] == 29
    assert fit(tmp_path, "--resume", str(tmp_path / "tiny")) == 0
    assert summary(tmp_path / "tiny")["steps"] == 60


def test_resume_without_a_checkpoint_starts_from_scratch_and_says_so(tmp_path, capsys):
    assert fit(tmp_path, *RESUME, *BARE) == 0
    assert "starting from scratch" in capsys.readouterr().err


def test_renamed_run_continues_from_its_config_in_any_working_directory(
    whole, tmp_path, monkeypatch
):
    """No sample is repeated or skipped."""
    witness = intervene("Witness", path=tmp_path / "seen")
    assert fit(tmp_path / "logs", *intervene("SignalAt", step=33), *witness) == 130
    renamed = (tmp_path / "logs" / "tiny").rename(tmp_path / "logs" / "renamed")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.chdir(tmp_path)
    config = ["fit", "-c", "logs/renamed/config.yaml"]
    assert main([*config, *RESUME]) == 0
    monkeypatch.chdir(renamed)
    assert main(["fit", "-c", "config.yaml", *RESUME]) == 0  # nothing is left to train
    monkeypatch.chdir(tmp_path)
    assert [entry.name for entry in (tmp_path / "logs").iterdir()] == ["renamed"]
    assert_same_run(whole, renamed)
    assert (tmp_path / "seen").read_text() == (whole.parent / "seen").read_text()
    short = [*BARE, "--trainer.max_steps", "1", "--trainer.callbacks", "null"]
    assert main([*config, "--run.root", "others", *short]) == 0
    assert summary(tmp_path / "others" / "renamed")["steps"] == 1


def test_resume_by_path_stays_in_the_folder_of_the_checkpoint(whole, tmp_path, capsys):
    assert fit(tmp_path, *intervene("SignalAt", step=58)) == 130
    path = ["--resume", str(tmp_path / "tiny" / "checkpoints" / "best.ckpt")]
    for argv in ([*path, "--run.name", "new"], [*path, "--run.overwrite", "true"]):
        assert fit(tmp_path, *argv) == 2
        assert argv[2].removeprefix("--") in error_line(capsys.readouterr().err)
    assert checkpoint(tmp_path / "tiny")["global_step"] == 58
    assert fit(tmp_path, *path) == 0
    assert "resuming from step 40" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]
    assert_same_run(whole, tmp_path / "tiny")


def test_copied_checkpoint_continues_in_a_folder_of_its_own(whole, tmp_path):
    assert fit(tmp_path, *intervene("SignalAt", step=33)) == 130
    path = tmp_path / "copied.ckpt"
    (tmp_path / "tiny" / "checkpoints" / "last.ckpt").rename(path)
    before = metrics_text(tmp_path / "tiny")
    assert fit(tmp_path, "--run.name", "new", "--resume", str(path)) == 0
    assert same_weights(whole, tmp_path / "new")
    assert metrics_text(tmp_path / "tiny") == before
    metrics = summary(tmp_path / "new")["metrics"]
    assert metrics["features/residual_2_untrained"] > 0


def test_longer_run_is_allowed_if_the_schedule_does_not_depend_on_the_length(tmp_path):
    constant, longer = ["--model.lr_scheduler", "null"], ["--trainer.max_steps", "80"]
    assert fit(tmp_path, *constant, "--run.name", "whole", *longer) == 0
    assert fit(tmp_path, *constant) == 0
    assert fit(tmp_path, *constant, *RESUME, *longer) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "tiny")


def test_differing_settings_are_refused_with_the_keys_listed(whole, capsys):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    argv = [*RESUME, "--model.width", "9", "--target.init_args.widths", "[2, 2]"]
    assert fit(whole.parent, *argv) == 2
    message = error_line(capsys.readouterr().err)
    assert "model.width is 9, was 8" in message
    assert "target.init_args.widths is [2, 2], was [3, 2]" in message
    for argv, message in (
        (["--seed_everything", "5"], "seed_everything is 5, was 0"),
        (["--scheme", "Progressive"], "scheme.class_path"),
        (["--trainer.max_steps", "80"], "trainer.max_steps is 80, was 60"),
    ):
        assert fit(whole.parent, *RESUME, *argv) == 2
        assert message in error_line(capsys.readouterr().err)
    after = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert after == before


def test_settings_that_change_no_number_may_differ_and_the_environment_is_a_warning(
    whole, tmp_path, capsys
):
    assert fit(tmp_path, *intervene("SignalAt", step=55)) == 130
    others = ["--trainer.log_every_n_steps", "1000", "--num_measures", "0"]
    threads = torch.get_num_threads()
    try:
        assert fit(tmp_path, *RESUME, *others, "--run.threads", str(threads + 1)) == 0
    finally:
        torch.set_num_threads(threads)
    assert same_weights(whole, tmp_path / "tiny")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert f"threads is {threads + 1}, was {threads}" in warnings[0]


def test_another_target_or_type_of_device_is_refused(tmp_path, capsys):
    assert fit(tmp_path, *BARE, *intervene("SignalAt", step=7)) == 130
    path = tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    edited, moved = checkpoint(tmp_path / "tiny"), checkpoint(tmp_path / "tiny")
    edited["HierarchicalData"]["problem"]["0.input_weight"] *= 1.001
    moved["bfc_lightning"]["environment"]["device"] = "cuda"
    for content, message in ((edited, "0.input_weight"), (moved, "trainer.accelerator")):
        torch.save(content, path)
        assert fit(tmp_path, *BARE, *RESUME) == 2
        assert message in error_line(capsys.readouterr().err)
