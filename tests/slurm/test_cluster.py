"""Experiments and runs on a SLURM cluster of two nodes give the numbers of this machine alone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bfc_lightning.cli import main
from bfc_lightning.experiments.tables import load_results
from tests.claim_files import write_claim
from tests.experiments import NARROW_AND_WIDE, TINY, callback, compare, gate, write
from tests.launches import weight_gap
from tests.runs import DOUBLE, assert_same_run, error_line
from tests.slurm.loopback import cluster, lacking, slurm, wait_for

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(lacking()), reason=f"a cluster needs {lacking()}"),
]
BFC = str(Path(sys.executable).with_name("bfc"))
SLURM = ("--cluster", "slurm", "--cluster.runs_per_job", "6", "--cluster.memory", "900M")
WAIT = (*SLURM, "--cluster.wait")
SEEDS = [0, 1, 2, 3, 4, 5]
LONG = {"max_steps": 450, "val_check_interval": 50}


@pytest.fixture(scope="module", autouse=True)
def two_nodes(tmp_path_factory):
    with cluster(tmp_path_factory.mktemp("cluster")):
        yield


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> pd.DataFrame:
    """The table of twelve runs in the pool of this machine."""
    folder = tmp_path_factory.mktemp("local")
    assert compare(write(folder, seeds=SEEDS, workers=2)) == 0
    return load_results(folder / "logs" / "few")


def gated(folder: Path) -> tuple[Path, Path]:
    """A file, and an experiment of twelve runs that wait for it."""
    go, wait = gate(folder)
    learners = {name: {**block, **wait} for name, block in NARROW_AND_WIDE.items()}
    return go, write(folder, learners=learners, seeds=SEEDS)


def assert_same_table(folder: Path, expected: pd.DataFrame) -> None:
    assert not any((folder / "locks").iterdir())
    found = load_results(folder)
    clocks = ["wall_seconds"]
    pd.testing.assert_frame_equal(found.drop(columns=clocks), expected.drop(columns=clocks))


def starts(folder: Path) -> dict[str, int]:
    """How often each run has been started."""
    logs = (folder / "logs").glob("*.txt")
    return {path.stem: path.read_text().count("bfc: run ") for path in logs}


def is_done(folder: Path, number: int) -> bool:
    return len(list(folder.glob("runs/*/summary.json"))) >= number


def test_two_submissions_make_every_run_once_and_give_the_table_of_the_pool(
    tmp_path, local, capsys
):
    go, path = gated(tmp_path)
    command = [sys.executable, "-m", "bfc_lightning", "compare", "-c", str(path), *SLURM]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    messages = [each.communicate(timeout=60)[1] for each in both]
    assert sorted(each.returncode for each in both) in ([0, 0], [0, 2])
    assert sum("12 runs in 2 shards" in text for text in messages) == 1
    assert any(re.search("to report: bfc compare .* --report", text) for text in messages)
    folder = tmp_path / "logs" / "few"
    assert compare(path, "--report") == 0
    assert set(load_results(folder)["status"]) <= {"submitted", "finished"}
    assert compare(path, "--run.overwrite", *SLURM) == 2
    assert "scancel" in error_line(capsys.readouterr().err)
    go.touch()
    assert compare(path, *WAIT) == 0
    assert "bfc: job" not in capsys.readouterr().err
    assert_same_table(folder, local)
    assert set(starts(folder).values()) == {1}
    nodes = {path.read_text() for path in (folder / "logs" / "jobs").glob("*.out")}
    assert len(nodes) == 2


def test_a_cancelled_shard_is_submitted_again(tmp_path, local, capsys):
    (go, path), folder = gated(tmp_path), tmp_path / "logs" / "few"
    assert compare(path, *SLURM) == 0
    job = re.search(r"bfc: job (\d+)", capsys.readouterr().err)[1]
    wait_for(lambda: len(list(folder.rglob("last.ckpt"))) == 2)
    slurm("scancel", f"{job}_1")
    wait_for(lambda: f"{job}_1" not in slurm("squeue", "--array", "--format=%i"))
    go.touch()
    assert compare(path, *WAIT) == 0
    assert "bfc: job" in (error := capsys.readouterr().err)
    assert ": 6 runs in 1 shard" in error
    assert_same_table(folder, local)
    assert sum(starts(folder).values()) == 13


def test_shards_of_a_node_that_goes_down_go_on_elsewhere(tmp_path, local, capsys):
    path, folder = write(tmp_path, seeds=SEEDS), tmp_path / "logs" / "few"
    assert compare(path, *SLURM) == 0
    wait_for(lambda: is_done(folder, 3))
    slurm("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    try:
        assert compare(path, *WAIT) == 0
    finally:
        slurm("scontrol", "update", "nodename=n2", "state=resume")
    assert "bfc: job" not in capsys.readouterr().err.partition("bfc: job")[2]
    assert_same_table(folder, local)


def test_a_failing_run_is_a_row(tmp_path, capsys):
    learners = {"broken": callback("FailAt", step=3, message="only here"), "wide": {}}
    path = write(tmp_path, learners=learners, seeds=[0])
    assert compare(path, *WAIT) == 1
    error = capsys.readouterr().err
    assert error.count("only here") == 1
    assert "1 of 2 runs have no result" in error
    rows = load_results(tmp_path / "logs" / "few")
    assert list(rows["status"]) == ["failed", "finished"]


def test_claims_are_submitted_and_judged_later(tmp_path, capsys):
    write_claim(tmp_path)
    write(tmp_path, seeds=[0])
    argv = ["claims", "--configs", str(tmp_path / "claims"), "--run.root", str(tmp_path / "logs")]
    assert main([*argv, *SLURM]) == 0
    assert "2 runs are in jobs" in capsys.readouterr().err
    wait_for(lambda: not slurm("squeue", "--noheader"))
    assert main([*argv, "--report"]) == 0
    content = json.loads((tmp_path / "logs" / "claims-quick" / "claims.json").read_text())
    (entry,) = content["claims"]
    assert content["status"] == "finished"
    assert [list(term["values"]) for term in entry["conditions"][0]["terms"]] == [["0"], ["0"]]


def test_shards_and_job_scripts_that_meet_their_time_limit_go_on_bit_for_bit(tmp_path):
    # 90 seconds on any machine; the controller sends the signal after 20 to 50.
    slow = {**LONG, **callback("SleepAlways", seconds=0.2)["trainer"]}
    path = write(tmp_path, learners={"long": {"trainer": slow}}, seeds=[0])
    options = ("--cluster.time", "1", "--cluster.options.signal", "USR2@10")
    assert compare(path, *SLURM, *options) == 0
    folder, config = tmp_path / "logs" / "few", tmp_path / "logs" / "few" / "configs" / "long.yaml"
    wait_for(config.exists)
    page = Path("docs/clusters.md").read_text()
    script = re.search(r"```bash\n(#!/bin/bash\n#SBATCH --job-name=wide.*?)```", page, re.DOTALL)[1]
    for old, new in {
        "nodes=2": "nodes=1",
        "per-node=4": "per-node=1",
        "#SBATCH --gpus": "##",
        "per-task=4": "per-task=1",
        "=04:00:00": f"=1\n#SBATCH --output={tmp_path}/job.txt",
        "TERM@120": "TERM@10",
        "bfc fit -c depth3": f"{BFC} fit -c {config} --run.root {tmp_path} --run.figures false",
    }.items():
        assert old in script
        script = script.replace(old, new)
    (tmp_path / "job.sh").write_text(script)
    slurm("sbatch", str(tmp_path / "job.sh"))
    fast = write(tmp_path, "whole", learners={"long": {"trainer": LONG}}, seeds=[0])
    assert compare(fast) == 0
    logs = [folder / "logs" / "long-seed0.txt", tmp_path / "job.txt"]
    wait_for(lambda: all(log.exists() and "stopped by SIGTERM" in log.read_text() for log in logs))
    for job in slurm("squeue", "--noheader", "--format=%i").split():
        slurm("scontrol", "update", f"jobid={job}", "timelimit=10")
    assert compare(path, *SLURM, "--cluster.wait") == 0
    whole = tmp_path / "logs" / "whole" / "runs" / "long-seed0"
    assert_same_run(folder / "runs" / "long-seed0", whole)
    wait_for(lambda: not slurm("squeue", "--noheader"))
    assert_same_run(tmp_path / "wide", whole)
    assert all("resuming from step" in log.read_text() for log in logs)


def test_two_ranks_on_two_nodes_equal_one_process(tmp_path):
    argv = ["fit", "-c", str(TINY), "--run.root", str(tmp_path), *DOUBLE, "--run.name"]
    slurm("srun", "--nodes=2", "--ntasks-per-node=1", "--job-name=two", BFC, *argv, "two")
    assert main([*argv, "one"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    assert weight_gap(tmp_path / "one", tmp_path / "two") < 1e-10


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--cluster.partition", "nope"], "invalid partition specified: nope"),
        (["--cluster.memory", "99G"], "Memory specification can not be satisfied"),
        (["--cluster.options.bogus", "1"], "unrecognized option '--bogus=1'"),
    ],
)
def test_refused_submissions_are_one_line_and_leave_nothing(tmp_path, capsys, options, part):
    path = write(tmp_path, seeds=[0])
    assert compare(path, *SLURM, *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert part in error
    assert not (tmp_path / "logs").exists()


def test_without_sbatch_nothing_is_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compare(write(tmp_path, seeds=[0]), *SLURM) == 2
    assert "sbatch is not in the PATH" in error_line(capsys.readouterr().err)
    assert not (tmp_path / "logs").exists()
