"""Processes that bfc starts itself: what is refused, and what happens when one is killed."""

import os
import signal
import time

import pytest

from bfc_lightning.cli import main
from bfc_lightning.cli.launching import is_broken_link
from tests.launches import (
    bfc,
    children,
    end,
    fit_with,
    is_gone,
    need_proc,
    said,
    wait_until_it_trains,
    words_of,
)
from tests.runs import checkpoint, fit, intervene, same_weights, summary

LONG = [
    "--run.name",
    "run",
    "--trainer.max_steps",
    "1000000",
    "--trainer.val_check_interval",
    "200",
]

REFUSED = {
    "fsdp": ["--trainer.strategy", "fsdp"],
    "deepspeed": ["--trainer.strategy", "deepspeed_stage_2"],
    "ddp_spawn": ["--trainer.strategy", "ddp_spawn"],
    "ModelParallelStrategy": ["--trainer.strategy", "ModelParallelStrategy"],
    "FSDPStrategy": ["--trainer.strategy", "lightning.pytorch.strategies.FSDPStrategy"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_strategy_that_shares_out_the_learner_is_refused_in_one_line(tmp_path, capsys, name):
    assert fit(tmp_path, "--trainer.devices", "2", *REFUSED[name]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "bfc: error: trainer.strategy must be auto or ddp, got " in told[0]
    assert name in told[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--trainer.devices", "3"], "data.num_shards must be a multiple of the number of proc"),
        (["--trainer.devices", "8"], "number of processes, 8, got 4"),
        (["--trainer.num_nodes", "2"], "trainer.num_nodes must be 1 without torchrun or srun"),
        (
            ["--trainer.devices", "2", "--model.num_replicas", "2"],
            "must be 1 with model.num_replicas",
        ),
        (["--trainer.accelerator", "gpu", "--trainer.devices", "64"], "gpu"),
        (["--trainer.devices", "0"], "trainer.devices must be at least 1, got 0."),
    ],
)
def test_wrong_number_of_devices_is_one_line_and_leaves_nothing(tmp_path, capsys, words, complaint):
    assert fit(tmp_path, "--trainer.strategy", "ddp", *words) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert complaint in told[0]
    assert not list(tmp_path.iterdir())


def test_mistake_in_a_run_of_two_processes_is_told_once(tmp_path):
    (tmp_path / "tiny").mkdir()
    code, told = fit_with(2, tmp_path, "--run.name", "tiny")
    assert code == 2
    assert told.count("\n") == 1
    assert "run.name must be free" in told
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_error_of_a_lost_connection_is_told_from_others():
    assert is_broken_link(RuntimeError("[/x/gloo/transport/tcp/pair.cc:534] Connection closed"))
    assert not is_broken_link(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@need_proc
@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("victim", [0, 1])
def test_run_ends_within_a_minute_when_a_process_is_killed(tmp_path, victim):
    first = bfc(words_of(tmp_path, *LONG), devices=2)
    wait_until_it_trains(tmp_path / "run", first)
    started = children(first)
    assert list(started) == [1]
    os.kill(first.pid if victim == 0 else started[1], signal.SIGKILL)
    killed = time.monotonic()
    code, told = end(first, limit=60)
    while not is_gone(started[1]):
        assert time.monotonic() < killed + 60
        time.sleep(0.1)
    words = {0: "the first of 2 processes ended", 1: "process 1 of 2 ended by SIGKILL"}
    assert code == {0: -signal.SIGKILL, 1: 1}[victim]
    assert [line for line in said(told) if "error" in line] == [
        f"bfc: error: {words[victim]}: the run stops."
    ]
    assert "Traceback" not in told
    assert checkpoint(tmp_path / "run")["global_step"] % 200 == 0


@need_proc
@pytest.mark.slow
@pytest.mark.ddp
def test_process_that_waits_for_nobody_notices_too(tmp_path):
    """The first process sleeps in a step of its own, as it would in a collective on a GPU."""
    words = words_of(tmp_path, *LONG, *intervene("SleepInTheFirst", step=210, seconds=600))
    first = bfc(words, devices=2)
    wait_until_it_trains(tmp_path / "run", first)
    time.sleep(3)
    started = children(first)
    os.kill(started[1], signal.SIGKILL)
    code, told = end(first, limit=60)
    assert code == 1
    assert "process 1 of 2 ended by SIGKILL: the run stops." in told


@pytest.mark.slow
@pytest.mark.ddp
def test_failure_of_one_process_is_told_by_it_and_ends_all(tmp_path):
    code, told = fit_with(2, tmp_path, *intervene("FailInTheSecond", step=7))
    assert code == 1
    assert told.count("Traceback") == 1
    assert "only here" in told
    assert "process 1 of 2 ended by exit status 1: the run stops." in told


@pytest.mark.slow
@pytest.mark.ddp
def test_diverged_run_of_two_processes_says_so_once(tmp_path):
    code, told = fit_with(2, tmp_path, *intervene("PoisonAt", step=33))
    assert code == 3
    assert len([line for line in said(told) if "not finite" in line]) == 1
    assert "Traceback" not in told
    assert summary(tmp_path / "tiny")["status"] == "diverged"


@pytest.mark.slow
@pytest.mark.ddp
def test_main_trains_with_two_processes_again_and_again(tmp_path):
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    assert main(words_of(tmp_path, "--run.name", "one", *two)) == 0
    assert main(words_of(tmp_path, "--run.name", "two", *two)) == 0
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert summary(tmp_path / "two")["devices"] == 2
