"""Processes of runs: logs, exit codes, limits, signals; none outlives its parent."""

import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bfc_lightning.experiments import pool as pool_module
from bfc_lightning.experiments.pool import Pool, Task, Worker
from bfc_lightning.experiments.spec import Limits
from tests.experiments import TINY

FIT = ("fit", "-c", str(TINY), "--resume", "auto", "--run.name", "run")
LONG = ("--trainer.max_steps=1000000", "--trainer.val_check_interval=1000", "--engine=eager")
SLEEPER = (
    *("baseline", "-c", str(TINY), "--run.name", "run", "--data.num_train_samples", "64"),
    *("--baseline", "tests.baselines.Sleeper"),
)
PARENT = """
import sys
from pathlib import Path
from bfc_lightning.experiments.pool import Pool, Task
from bfc_lightning.experiments.spec import Limits
folder, argv = Path(sys.argv[1]), tuple(sys.argv[2:])
tasks = [Task(n, ((*argv, f"--run.root={folder / n}"),), folder / f"{n}.txt") for n in "012"]
if __name__ == "__main__":
    with Pool(2, limits=Limits()) as pool:
        for worker in pool.run(tasks):
            print(worker.task.name, worker.code, flush=True)
    sys.exit(128 + pool.signum)
"""


def run(*tasks: Task, **limits: float) -> dict[str, Worker]:
    with Pool(1, limits=Limits(**limits)) as pool:
        ended = list(pool.run(tasks))
    assert [worker.task for worker in ended] == list(tasks)
    return {worker.task.name: worker for worker in ended}


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes_with(text: str) -> list[int]:
    """The live processes whose stdout is a file with a text in its path."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if text in os.readlink(path / "fd" / "1"):
                found.append(int(path.name))
    return found


def test_commands_run_until_one_fails_and_print_to_the_log(tmp_path, capfd):
    version, wrong = ("--version",), ("fit", "--nope")
    log = tmp_path / "logs" / "a.txt"
    ends = run(
        Task("a", (version, version), log),
        Task("b", (version, wrong, version), tmp_path / "b.txt"),
        Task("c", (("fit", "-c", str(TINY), "--run.root", str(tmp_path)),), tmp_path / "c.txt"),
    )
    assert {name: end.code for name, end in ends.items()} == {"a": 0, "b": 2, "c": 0}
    assert log.read_text().count("bfc_lightning ") == 2
    assert (tmp_path / "b.txt").read_text().count("bfc_lightning ") == 1
    assert "bfc: error: " in (tmp_path / "b.txt").read_text()
    assert (tmp_path / "tiny" / "summary.json").is_file()
    assert capfd.readouterr() == ("", "")


def test_overdue_run_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "_GRACE_SECONDS", 0.5)
    (tmp_path / "deaf.py").write_text(
        "import signal, time\nfrom bfc_lightning import Baseline\n\n\n"
        "class Deaf(Baseline):\n"
        "    def fit(self, task):\n"
        "        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "        time.sleep(600)\n\n"
        "    def predict(self, x):\n        return x[:, 0]\n"
    )
    monkeypatch.chdir(tmp_path)
    argv = (*SLEEPER[:-1], "deaf.Deaf", f"--run.root={tmp_path}")
    end = run(Task("a", (argv,), tmp_path / "a.txt"), seconds=4)["a"]
    assert (end.code, end.is_overdue) == (-signal.SIGKILL, True)
    assert end.seconds < 20


def test_as_many_tasks_run_at_a_time_as_there_are_workers(tmp_path):
    tasks = [Task(name, (("--version",),), tmp_path / name) for name in "abcd"]
    with Pool(2, limits=Limits()) as pool:
        ended = list(pool.run(tasks))
    moments = [(each.began, 1) for each in ended]
    moments += [(each.began + each.seconds, -1) for each in ended]
    assert max(itertools.accumulate(change for _, change in sorted(moments))) == 2


@pytest.fixture
def parent(tmp_path):
    """Starts a process with two runs at work and a third that waits."""
    processes = []
    script = tmp_path / "parent.py"
    script.write_text(PARENT)

    def start(*argv: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path), *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def is_training(folder: Path) -> bool:
    return (folder / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_runs_save_and_begins_none(tmp_path, parent, signum):
    process = parent(*FIT, *LONG)
    wait_for(lambda: all(is_training(tmp_path / name) for name in "01"))
    os.killpg(process.pid, signum)  # as a terminal sends it, to the whole group
    output, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert sorted(output.splitlines()) == ["0 143", "1 143"]
    assert "Traceback" not in error
    for name in "01":
        assert "to continue: bfc fit" in (tmp_path / f"{name}.txt").read_text()
    assert not (tmp_path / "2").exists()


@pytest.mark.slow
def test_a_second_signal_kills(tmp_path, parent):
    process = parent(*SLEEPER)
    logs = [tmp_path / f"{name}.txt" for name in "01"]
    wait_for(lambda: all(log.is_file() and "Sleeper" in log.read_text() for log in logs))
    for pid in [pid for log in logs for pid in processes_with(str(log))]:
        os.kill(pid, signal.SIGSTOP)  # deaf to the first one
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert sorted(output.splitlines()) == ["0 -9", "1 -9"]
    assert process.returncode == 130


@pytest.mark.slow
def test_runs_of_a_killed_parent_die(tmp_path, parent):
    process = parent(*FIT, *LONG)
    wait_for(lambda: all(is_training(tmp_path / name) for name in "01"))
    logs = [str(tmp_path / f"{name}.txt") for name in "01"]
    assert all(processes_with(log) for log in logs)
    process.kill()
    process.wait()
    wait_for(lambda: not any(processes_with(log) for log in logs), seconds=10)
    assert not (tmp_path / "2").exists()
