"""Nothing is lost: runs that were killed or stopped go on, bit for bit."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bfc_lightning.cli import main
from tests.interventions import SimulatedKillError
from tests.runs import (
    TINY,
    checkpoint,
    fit,
    intervene,
    same_weights,
    summary,
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    assert fit(root, *intervene("Witness", path=root / "seen")) == 0
    return root / "tiny"


@pytest.mark.parametrize("step", [5, 20, 21, 33, 59])
def test_killed_run_ends_with_the_weights_of_an_undisturbed_one(undisturbed, tmp_path, step):
    with pytest.raises(SimulatedKillError):
        fit(tmp_path, *intervene("RaiseAt", step=step))
    assert fit(tmp_path, "--resume", "auto") == 0
    assert same_weights(undisturbed, tmp_path / "tiny")
    resumed = (tmp_path / "tiny" / "metrics.csv").read_text()
    assert resumed == (undisturbed / "metrics.csv").read_text()
    assert summary(tmp_path / "tiny")["samples_seen"] == 60 * 32


@pytest.mark.parametrize("step", [7, 20, 60])
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_stops_and_can_be_gone_on_from(undisturbed, tmp_path, step, signum, status):
    stopped = fit(tmp_path, *intervene("SignalAt", step=step, signum=int(signum)))
    is_last = step == 60
    assert stopped == (0 if is_last else status)
    assert summary(tmp_path / "tiny")["status"] == ("finished" if is_last else "interrupted")
    assert checkpoint(tmp_path / "tiny")["global_step"] == step
    assert fit(tmp_path, "--resume", "auto") == 0
    assert same_weights(undisturbed, tmp_path / "tiny")


def test_signals_are_given_back_after_a_run(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert fit(tmp_path, *intervene("SignalAt", step=7)) == 130
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_no_sample_is_seen_twice_or_skipped(undisturbed, tmp_path):
    seen = tmp_path / "seen"
    fit(tmp_path, *intervene("SignalAt", step=33), *intervene("Witness", path=seen))
    assert fit(tmp_path, "--resume", "auto", *intervene("Witness", path=seen)) == 0
    assert seen.read_text() == (undisturbed.parent / "seen").read_text()


def test_signal_between_two_batches_of_a_step_waits_for_the_step(tmp_path):
    words = ["--trainer.accumulate_grad_batches", "4"]
    assert fit(tmp_path, *words, "--run.name", "whole") == 0
    assert fit(tmp_path, *words, *intervene("SignalAt", step=7)) == 130
    assert fit(tmp_path, *words, "--resume", "auto") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "tiny")


def test_finite_training_set_resumes_in_the_middle_of_a_pass(tmp_path):
    finite = ["--data.num_train_samples", "100"]
    assert fit(tmp_path, *finite, "--run.name", "whole") == 0
    with pytest.raises(SimulatedKillError):
        fit(tmp_path, *finite, *intervene("RaiseAt", step=33))
    assert fit(tmp_path, *finite, "--resume", "auto") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "tiny")


def test_kill_9_at_a_random_moment_loses_nothing(tmp_path):
    words = [sys.executable, "-c", "from bfc_lightning.cli import main; raise SystemExit(main())"]
    long = ["--trainer.max_steps", "1200", "--trainer.val_check_interval", "50"]
    words += ["fit", "-c", TINY, "--run.root", str(tmp_path), "--run.name", "killed", *long]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint(tmp_path / "killed")["global_step"] < 1200
    words = ["--run.name", "killed", "--resume", "auto", *long]
    assert fit(tmp_path, *words) == 0
    assert fit(tmp_path, "--run.name", "whole", *long) == 0
    assert same_weights(tmp_path / "whole", tmp_path / "killed")


def test_stopped_run_says_how_to_go_on_and_a_finished_one_that_it_is(tmp_path, capsys):
    fit(tmp_path, *intervene("SignalAt", step=33))
    config = tmp_path / "tiny" / "config.yaml"
    assert f"step 33; go on: bfc fit -c {config} --resume auto" in capsys.readouterr().err
    assert fit(tmp_path, "--resume", "auto") == 0
    assert fit(tmp_path, "--resume", "auto") == 0
    assert "nothing is left to train" in capsys.readouterr().err


def test_renamed_run_goes_on_where_it_is(undisturbed, tmp_path):
    fit(tmp_path, *intervene("SignalAt", step=33))
    renamed = (tmp_path / "tiny").rename(tmp_path / "renamed")
    assert main(["fit", "-c", str(renamed / "config.yaml"), "--resume", "auto"]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["renamed"]
    assert same_weights(undisturbed, renamed)
    again = ["--run.name", "another", "--trainer.callbacks", "null"]
    assert main(["fit", "-c", str(renamed / "config.yaml"), *again]) == 0
    assert same_weights(undisturbed, tmp_path / "another")


def test_resume_by_path_goes_on_in_the_same_folder(undisturbed, tmp_path):
    fit(tmp_path, *intervene("SignalAt", step=33))
    path = tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    assert fit(tmp_path, "--resume", str(path)) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny"]
    assert same_weights(undisturbed, tmp_path / "tiny")


def test_resume_auto_without_a_checkpoint_starts_afresh_and_says_so(tmp_path, capsys):
    assert fit(tmp_path, "--resume", "auto", "--trainer.max_steps", "2") == 0
    assert "starting afresh" in capsys.readouterr().err


def test_longer_run_is_allowed_only_where_the_schedule_does_not_stretch(tmp_path, capsys):
    constant = ["--model.lr_scheduler", "null"]
    assert fit(tmp_path, *constant, "--run.name", "whole", "--trainer.max_steps", "80") == 0
    assert fit(tmp_path, *constant) == 0
    assert fit(tmp_path, *constant, "--resume", "auto", "--trainer.max_steps", "80") == 0
    assert same_weights(tmp_path / "whole", tmp_path / "tiny")
    assert fit(tmp_path, "--run.name", "one", "--trainer.max_steps", "5") == 0
    words = ["--run.name", "one", "--resume", "auto", "--trainer.max_steps", "9"]
    assert fit(tmp_path, *words) == 2
    message = capsys.readouterr().err
    assert "trainer.max_steps 9 instead of 5" in message
    assert "another length is another run" in message


def test_resume_with_other_settings_lists_them_and_changes_nothing(undisturbed, capsys):
    before = (undisturbed / "metrics.csv").read_text()
    words = ["--resume", "auto", "--model.width", "9", "--target.init_args.widths", "[2, 2]"]
    assert fit(undisturbed.parent, *words) == 2
    message = capsys.readouterr().err
    assert "model.width 9 instead of 8" in message
    assert "target.init_args.widths [2, 2] instead of [3, 2]" in message
    assert message.count("\n") == 1
    assert (undisturbed / "metrics.csv").read_text() == before


def test_resume_elsewhere_is_one_warning(undisturbed, tmp_path, capsys):
    fit(tmp_path, *intervene("SignalAt", step=33))
    threads = torch.get_num_threads()
    capsys.readouterr()
    try:
        torch.set_num_threads(threads + 1)
        assert fit(tmp_path, "--resume", "auto") == 0
    finally:
        torch.set_num_threads(threads)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert f"threads {threads + 1} instead of {threads}" in warnings[0]


def test_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path, capsys
):
    assert fit(tmp_path, *intervene("PoisonAt", step=33)) == 3
    assert "not finite" in capsys.readouterr().err
    content = summary(tmp_path / "tiny")
    assert content["status"] == "diverged"
    kept = checkpoint(tmp_path / "tiny")
    assert kept["global_step"] == 20
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_validation_that_is_not_finite_does_not_overwrite_a_good_checkpoint(tmp_path):
    rare = ["--trainer.log_every_n_steps", "1000"]
    assert fit(tmp_path, *rare, *intervene("PoisonAt", step=33)) == 3
    assert checkpoint(tmp_path / "tiny")["global_step"] == 20


def test_classifier_of_nan_is_not_saved_though_its_error_is_finite(tmp_path):
    words = ["--labels", "Classification", "--trainer.log_every_n_steps", "1000"]
    assert fit(tmp_path, *words, *intervene("PoisonAt", step=33)) == 3
    assert summary(tmp_path / "tiny")["status"] == "diverged"
    assert checkpoint(tmp_path / "tiny")["global_step"] == 20


def test_second_signal_stops_at_once(tmp_path):
    twice = [*intervene("SignalAt", step=7), *intervene("SignalAt", step=7)]
    assert fit(tmp_path, *twice) == 130
    assert summary(tmp_path / "tiny")["status"] == "interrupted"
    assert not list((tmp_path / "tiny" / "checkpoints").iterdir())


@pytest.mark.parametrize("call", [2, 9, 20])
def test_signal_does_not_wait_for_a_measure_which_is_made_up_for(undisturbed, tmp_path, call):
    signals = ["--measures+", "tests.interventions.MeasureThatSignals"]
    signals += ["--measures.call", str(call), "--measures.seconds", "300"]
    started = time.monotonic()
    assert fit(tmp_path, *signals) == 130
    assert time.monotonic() - started < 100
    assert fit(tmp_path, "--resume", "auto") == 0
    assert same_weights(undisturbed, tmp_path / "tiny")
    resumed = (tmp_path / "tiny" / "metrics.csv").read_text()
    assert resumed == (undisturbed / "metrics.csv").read_text()


# Measures are taken at 0, 1, ..., 8, 10, 11, 13, 15, 17, ..., 52, 60; the twenty-third is the last.
def test_last_measure_is_not_left_as_nothing_would_make_up_for_it(undisturbed, tmp_path):
    signals = ["--measures+", "tests.interventions.MeasureThatSignals", "--measures.call", "23"]
    assert fit(tmp_path, *signals) == 0
    resumed = (tmp_path / "tiny" / "metrics.csv").read_text()
    assert resumed == (undisturbed / "metrics.csv").read_text()


def test_measures_go_on_where_a_stop_is_asked_for_before_the_least_steps(tmp_path):
    early = [*intervene("StopAt", step=5), "--trainer.min_steps", "55", "--run.name"]
    assert fit(tmp_path, *early, "whole") == 0
    assert fit(tmp_path, *early, "cut", *intervene("SignalAt", step=21)) == 130
    assert checkpoint(tmp_path / "cut")["global_step"] == 21
    assert fit(tmp_path, *early, "cut", "--resume", "auto") == 0
    logs = [(tmp_path / name / "metrics.csv").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_signal_at_the_start_from_an_earlier_checkpoint_leaves_no_later_one(undisturbed, tmp_path):
    assert fit(tmp_path, *intervene("SignalAt", step=58)) == 130
    folder = tmp_path / "tiny"
    best = folder / "checkpoints" / "best.ckpt"
    assert checkpoint(folder, "best")["global_step"] == 40
    assert fit(tmp_path, "--resume", str(best), *intervene("SignalAtStart")) == 143
    assert 40 < checkpoint(folder)["global_step"] < 58
    assert fit(tmp_path, "--resume", "auto") == 0
    assert same_weights(undisturbed, folder)
    assert (folder / "metrics.csv").read_text() == (undisturbed / "metrics.csv").read_text()


def test_signal_gives_up_a_validation_without_end(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr("bfc_lightning.callbacks.interruption._VALIDATION_SECONDS", 0.3)
    endless = ["--data.num_val_samples", str(2**40), *intervene("SignalAt", step=20)]
    assert fit(tmp_path, "--run.name", "endless", *endless) == 130
    folder = tmp_path / "endless"
    assert summary(folder)["status"] == "interrupted"
    assert list((folder / "checkpoints").iterdir()) == []
    again = ["--run.name", "endless", "--resume", "auto"]
    assert fit(tmp_path, *again) == 0
    assert same_weights(undisturbed, folder)


def test_signal_ends_a_trial_run_that_saves_nothing(tmp_path):
    words = ["--trainer.fast_dev_run", "5", *intervene("SignalAt", step=2)]
    assert fit(tmp_path, *words) == 130


def test_signal_in_the_first_measure_ends_a_run_of_which_there_is_nothing_yet(tmp_path):
    signals = ["--measures+", "tests.interventions.MeasureThatSignals"]
    signals += ["--measures.call", "1", "--measures.seconds", "300"]
    assert fit(tmp_path, *signals) == 130
    assert list(tmp_path.iterdir()) == []


def test_resume_never_writes_into_another_run(undisturbed, tmp_path, capsys):
    assert fit(tmp_path, "--run.name", "other", "--seed_everything", "5") == 0
    before = (tmp_path / "other" / "metrics.csv").read_text()
    fit(tmp_path, *intervene("SignalAt", step=33))
    stopped = str(tmp_path / "tiny" / "checkpoints" / "last.ckpt")
    assert fit(tmp_path, "--run.name", "other", "--resume", stopped) == 2
    assert "run.name must be free" in capsys.readouterr().err
    assert (tmp_path / "other" / "metrics.csv").read_text() == before
    assert fit(tmp_path, "--run.name", "new", "--resume", stopped) == 0
    assert same_weights(undisturbed, tmp_path / "new")


def test_resume_with_another_target_of_the_same_settings_is_refused(tmp_path, capsys):
    fit(tmp_path, *intervene("SignalAt", step=7))
    path = tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["HierarchicalData"]["problem"]["0.input_weight"] *= 1.001
    torch.save(content, path)
    capsys.readouterr()
    assert fit(tmp_path, "--resume", "auto") == 2
    assert "another target: 0.input_weight differs" in capsys.readouterr().err


def test_resume_on_another_type_of_device_is_refused(tmp_path, capsys):
    fit(tmp_path, *intervene("SignalAt", step=7))
    path = tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["bfc_lightning"]["environment"]["device"] = "cuda"
    torch.save(content, path)
    assert fit(tmp_path, "--resume", "auto") == 2
    assert "trainer.accelerator must stay that of the run, cuda" in capsys.readouterr().err


def test_run_goes_on_from_its_own_config_wherever_one_calls_from(
    undisturbed, tmp_path, monkeypatch
):
    monkeypatch.chdir(Path.cwd())
    fit(tmp_path, *intervene("SignalAt", step=33))
    monkeypatch.chdir(tmp_path)
    config = str(tmp_path / "tiny" / "config.yaml")
    words = ["fit", "-c", config, "--resume", "auto", "--trainer.callbacks", "null"]
    assert main(words) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert same_weights(undisturbed, tmp_path / "tiny")
