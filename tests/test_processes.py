"""Several processes train as one does: same samples, same weights, one folder, one result."""

import re
import signal
import sys
from pathlib import Path

import pytest
import torch

from bfc_lightning.callbacks.run_files import read_metrics
from tests.launches import (
    SHARED,
    bfc,
    draws,
    end,
    errors,
    fit_argv,
    recording,
    script,
    srun,
    start,
    torchrun,
    torchrun_on_two_nodes,
    wait_for_checkpoint,
    weight_gap,
)
from tests.runs import checkpoint, fit, intervene, same_weights, summary

pytestmark = pytest.mark.ddp

SHORT = ["--trainer.precision", "64-true", "--trainer.val_check_interval", "30"]
LONG = ["--trainer.max_steps=1000000", "--trainer.val_check_interval=200", "--engine=eager"]
STEPS, BATCH = 60, 32
SLOW = ((4, "auto"), (2, "eager"), (2, "autograd"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The folder of a run of one process in float64; its batches are beside it."""
    root = tmp_path_factory.mktemp("alone")
    assert fit(root, *SHORT, *recording(root / "draws")) == 0
    return root / "tiny"


def check_same_run(folder: Path, alone: Path, devices: int) -> None:
    """Weights to rounding, rows, files and counts of a run are those of the run of one process."""
    assert weight_gap(folder, alone) <= 1e-10
    rows, expected = (read_metrics(each / "metrics.csv") for each in (folder, alone))
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-6)
    files = [
        {path.name.partition("events")[0] or "events" for path in each.rglob("*")}
        for each in (folder, alone)
    ]
    assert files[0] == files[1]
    content = summary(folder)
    assert content["status"] == "finished"
    assert content["devices"] == devices
    assert content["samples_seen"] == STEPS * BATCH


@pytest.mark.parametrize(
    ("devices", "engine"),
    [(2, "auto"), *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)],
)
def test_console_script_trains_with_several_processes_as_with_one(alone, tmp_path, devices, engine):
    argv = [*SHORT, "--engine", engine]
    code, output = bfc(devices, tmp_path, *argv, *recording(tmp_path / "draws"))
    assert code == 0, output
    check_same_run(tmp_path / "tiny", alone, devices)
    batches, expected = draws(tmp_path / "draws"), draws(alone.with_name("draws"))
    assert torch.equal(batches, expected)
    assert len(torch.unique(batches[..., 0])) == batches[..., 0].numel()  # no sample twice
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "draws"}
    assert output.count("bfc: run ") == output.count("samples seen") == 1


@pytest.mark.slow
def test_float32_weights_agree_to_rounding(tmp_path):
    for devices in (1, 2):
        code, output = bfc(devices, tmp_path, "--run.name", str(devices))
        assert code == 0, output
    assert weight_gap(tmp_path / "1", tmp_path / "2") <= 1e-5


PROGRAM = """
import sys
from bfc_lightning.cli import main

sys.argv = ["notebook", "--of", "another", "program"]
first = sys.argv.index("--of") and main([*{shared}, "--run.name", "first"])
second = main([*{shared}, "--run.name", "second"])
alone = main([*{alone}, "--run.name", "alone"])
sys.exit([first, second, alone] != [0, 0, 0])
"""


@pytest.mark.slow
def test_program_trains_by_main_again_and_again(alone, tmp_path):
    argv = fit_argv(tmp_path, *SHORT)
    text = PROGRAM.format(shared=[*argv, *SHARED, "2"], alone=argv)
    code, output = end(start([sys.executable, "-c", text]))
    assert code == 0, output
    check_same_run(tmp_path / "first", alone, devices=2)
    check_same_run(tmp_path / "alone", alone, devices=1)
    assert same_weights(tmp_path / "first", tmp_path / "second")


@pytest.mark.slow
def test_run_follows_one_that_failed_in_the_same_process(tmp_path):
    argv = fit_argv(tmp_path, *SHARED, "2")
    poisoned = [*argv, "--run.name", "bad", *intervene("PoisonAt", step=33)]
    text = f"import sys; from bfc_lightning.cli import main; assert main({poisoned}) == 3; "
    code, output = end(start([sys.executable, "-c", f"{text}sys.exit(main({argv}))"]))
    assert code == 0, output
    assert summary(tmp_path / "tiny")["status"] == "finished"


@pytest.mark.slow
def test_torchrun_trains_as_one_process_in_the_next_free_folder(alone, tmp_path):
    (tmp_path / "tiny").mkdir()
    code, output = end(torchrun(fit_argv(tmp_path, *SHORT), "--standalone"))
    assert code == 0, output
    check_same_run(tmp_path / "tiny-2", alone, devices=2)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "tiny-2"}
    assert not list((tmp_path / "tiny").iterdir())


@pytest.mark.slow
def test_torchrun_on_two_nodes_trains_as_one_process(alone, tmp_path):
    results = torchrun_on_two_nodes(fit_argv(tmp_path, *SHORT))
    assert [code for code, _ in results] == [0, 0], results
    check_same_run(tmp_path / "tiny", alone, devices=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [[], ["--run.name", "tiny"]])
def test_tasks_of_srun_train_as_one_process(alone, tmp_path, name):
    results = srun(fit_argv(tmp_path, *SHORT, *name))
    assert [code for code, _ in results] == [0, 0], results
    check_same_run(tmp_path / "tiny", alone, devices=2)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("shared", [[], pytest.param([*SHARED, "2"], marks=pytest.mark.slow)])
def test_job_of_slurm_without_srun_starts_its_processes_itself(tmp_path, monkeypatch, shared):
    numbers = dict.fromkeys(("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "0")
    for name, value in {**numbers, "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "wide"}.items():
        monkeypatch.setenv(name, value)
    assert fit(tmp_path, *shared) == 0
    assert summary(tmp_path / "tiny")["devices"] == (2 if shared else 1)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_run_resumes_bit_for_bit(tmp_path, signum):
    assert bfc(2, tmp_path, *SHORT, "--run.name", "whole")[0] == 0
    for step in (13, 30):  # between two validations, and where one saves
        stop = intervene("SignalAt", step=step, signum=int(signum), rank=0)
        code, output = bfc(2, tmp_path, *SHORT, "--run.name", "cut", "--resume", "auto", *stop)
        assert code == 128 + signum, output
        assert f"stopped by {signum.name}" in output
        assert summary(tmp_path / "cut")["status"] == "interrupted"
    assert checkpoint(tmp_path / "cut")["global_step"] == 30
    code, output = bfc(2, tmp_path, *SHORT, "--run.name", "cut", "--resume", "auto")
    assert code == 0, output
    assert same_weights(tmp_path / "cut", tmp_path / "whole")
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("cut", "whole")]
    assert rows[0] == rows[1]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_run_resumes_with_another_number_of_processes(alone, tmp_path, before, after):
    stop = intervene("SignalAt", step=40, signum=15, rank=0)
    assert bfc(before, tmp_path, *SHORT, "--run.name", "cut", *stop)[0] == 143
    code, output = bfc(after, tmp_path, *SHORT, "--run.name", "cut", "--resume", "auto")
    assert code == 0, output
    assert f"processes is {after}, was {before}" in output
    assert weight_gap(tmp_path / "cut", alone) <= 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["bfc", "torchrun"])
def test_sigterm_from_outside_saves_and_ends_all(tmp_path, launcher):
    argv = fit_argv(tmp_path, *LONG)
    if launcher == "bfc":
        process = start([script("bfc"), *argv, *SHARED, "2"])
    else:
        process = torchrun(argv, "--standalone")
    wait_for_checkpoint(tmp_path / "tiny", process)
    process.send_signal(signal.SIGTERM)
    code, output = end(process, limit=60)
    assert code == 143 if launcher == "bfc" else code != 0, output
    assert summary(tmp_path / "tiny")["status"] == "interrupted"
    assert output.count("to continue: bfc fit -c") == 1
    assert checkpoint(tmp_path / "tiny")["global_step"] == summary(tmp_path / "tiny")["steps"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["bfc", "torchrun"])
def test_diverged_run_ends_all_processes_and_says_so_once(tmp_path, launcher):
    poison = intervene("PoisonAt", step=33)
    if launcher == "bfc":
        code, output = bfc(2, tmp_path, *poison)
        assert code == 3, output
        assert "Traceback" not in output
    else:
        code, output = end(torchrun(fit_argv(tmp_path, *poison), "--standalone"))
        assert code == 1
        codes = set(re.findall(r"exitcode +: (-?\d+)", output))
        assert codes <= {"3", "-15"}  # torchrun ends those that it finds alive
    assert output.count("not finite") == 1
    assert summary(tmp_path / "tiny")["status"] == "diverged"


@pytest.mark.slow
def test_taken_name_is_refused_once_by_two_processes(tmp_path):
    (tmp_path / "tiny").mkdir()
    code, output = bfc(2, tmp_path, "--run.name", "tiny")
    assert code == 2
    assert len(errors(output)) == 1
    results = srun(fit_argv(tmp_path, "--run.name", "tiny"))
    assert 2 in [code for code, _ in results]
    assert 0 not in [code for code, _ in results]
    assert not list((tmp_path / "tiny").iterdir())


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--trainer.devices", "3"], "data.num_shards"),
        (["--trainer.devices", "2", "--trainer.strategy", "fsdp"], "trainer.strategy"),
        (["--trainer.accelerator", "gpu", "--trainer.devices", "64"], "gpu"),
        (["--trainer.devices", "2", "--model.num_replicas", "2"], "num_replicas"),
    ],
)
def test_wrong_number_of_processes_is_one_line_and_leaves_nothing(tmp_path, capsys, argv, named):
    assert fit(tmp_path, "--trainer.strategy", "ddp", *argv) == 2
    lines = errors(capsys.readouterr().err)
    assert len(lines) == 1
    assert named in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_scores_of_two_processes_are_those_of_one(alone):
    scores = []
    for shared in ([], [*SHARED, "2"]):
        argv = ["test", "-c", str(alone / "config.yaml"), "--trainer.callbacks", "null", *shared]
        text = f"import sys; from bfc_lightning.cli import main; sys.exit(main({argv}))"
        code, output = end(start([sys.executable, "-c", text]))
        assert code == 0, output
        assert output.count("wrote ") == 1
        scores.append(output.partition("metric")[2].partition("bfc:")[0])
    assert scores[0] == scores[1]
    assert "test/nmse" in scores[0]
