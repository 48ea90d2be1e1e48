"""Processes that bfc starts itself: what is refused, and what happens when one is killed."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch.distributed import DistBackendError

from bfc_lightning.callbacks import checkpoints
from bfc_lightning.callbacks.metrics_file import read_metrics
from bfc_lightning.callbacks.stops import LostProcess
from bfc_lightning.cli import launching, main
from bfc_lightning.cli.launching import (
    Launcher,
    is_broken_link,
    noticing_losses,
    prepare_launch,
)
from bfc_lightning.cli.peers import Peers
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
        (
            ["--trainer.devices", "2", "--trainer.val_check_interval", "00:00:01:00"],
            "trainer.val_check_interval must be batches or a fraction",
        ),
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
    assert is_broken_link(DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:77"))
    assert not is_broken_link(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def trainer_of(launcher, rank=0):
    strategy = SimpleNamespace(launcher=launcher)
    return SimpleNamespace(strategy=strategy, global_rank=rank, world_size=2)


def launcher(**given):
    shared = {"words": ["fit"], "folder": "logs/tiny", "threads": None, "peers": Peers()}
    return Launcher(LightningEnvironment(), 2, 1, **{**shared, **given})


@pytest.mark.parametrize("rank", [0, 1])
def test_error_of_the_connection_is_told_where_nobody_is_known_to_be_gone(monkeypatch, rank):
    monkeypatch.setattr(launching, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(launching, "_NOTICE_SECONDS", 0.1)
    for started in (None, launcher()):
        with (
            pytest.raises(LostProcess, match="Duplicate GPU detected : rank 1 and rank 0"),
            noticing_losses(trainer_of(started, rank)),
        ):
            raise DistBackendError("Duplicate GPU detected : rank 1 and rank 0")


def test_any_error_ends_the_children_and_keeps_its_name(monkeypatch):
    monkeypatch.setattr(launching, "_GRACE_SECONDS", 0.1)
    started = launcher()
    started.procs = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])]
    with pytest.raises(RuntimeError, match="mat1 and mat2"), noticing_losses(trainer_of(started)):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert started.procs[0].poll() == -signal.SIGKILL


def test_children_know_who_has_started_them(monkeypatch):
    given = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: given.append(kwargs))
    first = launcher()
    first._call_children_scripts()
    variables = given[0]["env"]
    assert variables["BFC_FIRST_PROCESS"] == str(os.getpid())
    assert [int(variables["BFC_WORD"])] == given[0]["pass_fds"]
    first.peers.close()


def test_stray_ranks_leave_a_run_of_one_process_as_it_is(tmp_path, monkeypatch):
    for name in ("RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.setenv(name, "1")
    assert fit(tmp_path) == 0
    assert summary(tmp_path / "tiny")["status"] == "finished"
    assert read_metrics(tmp_path / "tiny" / "metrics.csv")


def test_rank_of_a_node_that_does_not_start_others_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NODE_RANK", "1")
    assert fit(tmp_path, "--trainer.devices", "2", "--trainer.strategy", "ddp") == 2
    assert "NODE_RANK and GROUP_RANK must be unset" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture
def job_script(monkeypatch):
    """The variables of a job of two tasks, which srun has not started."""
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    numbers = dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")
    job = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "wide"}
    for each in {**numbers, **job}.items():
        monkeypatch.setenv(*each)


@pytest.mark.usefixtures("job_script")
def test_job_script_of_slurm_trains_alone(tmp_path):
    assert fit(tmp_path) == 0
    assert summary(tmp_path / "tiny")["devices"] == 1


@pytest.mark.usefixtures("job_script")
@pytest.mark.parametrize("devices", ["1", "2"])
def test_job_script_of_slurm_does_not_wait_for_tasks_without_srun(tmp_path, capsys, devices):
    assert fit(tmp_path, "--trainer.devices", devices, "--trainer.strategy", "ddp") == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "in a job of SLURM where srun does not start bfc" in told[0]
    assert not list(tmp_path.iterdir())


def test_lightning_receives_no_signals():
    """Its handler would broadcast in the middle of a step, which the others do not expect."""
    flags = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", devices=1, max_steps=1, **flags)
    prepare_launch(trainer, ["fit"], folder=None, threads=None, peers=Peers())
    before = signal.getsignal(signal.SIGTERM)
    trainer._signal_connector.register_signal_handlers()
    after = signal.signal(signal.SIGTERM, before)
    assert after == before


def test_sigterm_before_the_first_step_leaves_what_was_there(tmp_path, capsys):
    assert fit(tmp_path, *intervene("SignalAtStart")) == 143
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert fit(tmp_path, *intervene("SignalAt", step=33)) == 130
    assert fit(tmp_path, "--resume", "auto", *intervene("SignalAtStart")) == 143
    assert checkpoint(tmp_path / "tiny")["global_step"] == 33
    assert summary(tmp_path / "tiny")["status"] == "interrupted"


def test_signals_end_an_evaluation_without_a_result(tmp_path, capsys):
    assert fit(tmp_path) == 0
    config = str(tmp_path / "tiny" / "config.yaml")
    for signum in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(signum)
        words = ["test", "-c", config, *intervene("SignalAtStart", signum=int(signum))]
        assert main(words) == 128 + signum
        assert f"stopped by {signum.name}" in capsys.readouterr().err
        assert signal.getsignal(signum) == before
    assert not (tmp_path / "tiny" / "test.json").exists()


def test_mistake_is_told_with_the_calls_that_led_to_it_where_they_are_wanted(
    tmp_path, capsys, monkeypatch
):
    for wanted in ("", "1"):
        monkeypatch.setenv("BFC_TRACEBACK", wanted)
        assert fit(tmp_path, *intervene("FailInSetup")) == 2
        told = capsys.readouterr().err
        assert "bfc: error: RuntimeError: before training (interventions.py, line" in told
        assert ("raise RuntimeError" in told) == bool(wanted)


@pytest.mark.parametrize("moment", ["FailInSetup", "FailInTheFirstStep"])
def test_run_that_fails_before_a_step_leaves_the_one_that_it_replaces(tmp_path, capsys, moment):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.yaml").write_text("old")
    words = ["--run.name", "tiny", "--run.overwrite", "true", *intervene(moment)]
    assert fit(tmp_path, *words) == 2
    assert "before training" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert (tmp_path / "tiny" / "config.yaml").read_text() == "old"


@pytest.mark.parametrize("is_first", [True, False])
def test_only_the_first_process_deletes_what_it_could_not_finish(tmp_path, monkeypatch, is_first):
    def save(path):
        path.write_text("half")
        raise DistBackendError("another process is gone")

    monkeypatch.setattr(checkpoints, "learners_of", lambda model: [])
    monkeypatch.setattr(checkpoints, "stop_if_diverged", lambda *args, **kwargs: None)
    trainer = SimpleNamespace(
        **{"is_global_zero": is_first, "save_checkpoint": save, "loggers": []},
        **{"lightning_module": None, "global_step": 3},
    )
    with pytest.raises(DistBackendError):
        checkpoints.Checkpoints(tmp_path, monitor="val/loss", record={}).save(trainer)
    assert len(list(tmp_path.iterdir())) == (0 if is_first else 1)


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
def test_main_trains_after_an_error_in_the_first_of_two_processes(tmp_path):
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="only here"):
        main(words_of(tmp_path, *two, *intervene("FailInTheFirst", step=7)))
    assert time.monotonic() - started < 60
    assert not torch.distributed.is_initialized()
    assert main(words_of(tmp_path, "--run.name", "after", *two)) == 0


@need_proc
@pytest.mark.slow
@pytest.mark.ddp
def test_child_whose_starter_dies_while_it_starts_ends_too(tmp_path):
    first = bfc(words_of(tmp_path), devices=2)
    while not children(first):
        assert first.poll() is None
        time.sleep(0.01)
    child = children(first)[1]
    first.kill()
    first.communicate(timeout=60)  # ends once nobody holds the pipes, which is a little earlier
    deadline = time.monotonic() + 10
    while not is_gone(child):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.ddp
def test_main_trains_with_two_processes_again_and_again(tmp_path):
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    assert main(words_of(tmp_path, "--run.name", "one", *two)) == 0
    assert main(words_of(tmp_path, "--run.name", "two", *two)) == 0
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert summary(tmp_path / "two")["devices"] == 2
