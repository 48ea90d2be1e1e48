"""How tests start runs of several processes: the console script, torchrun, srun's variables."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.runs import TINY, checkpoint, intervene

LIMIT_SECONDS = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command: list[str], **variables: str) -> subprocess.Popen:
    """A command of its own process group, whose output is kept."""
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen, limit: float = LIMIT_SECONDS) -> tuple[int, str]:
    """Its exit status and what it said; a hang fails the test and leaves nothing running."""
    try:
        out, told = process.communicate(timeout=limit)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out + told


def said(told: str) -> list[str]:
    """The lines of ours."""
    return [line for line in told.splitlines() if line.startswith("bfc: ")]


def words_of(root: Path, *words: str) -> list[str]:
    return ["fit", "-c", TINY, "--run.root", str(root), *words]


def bfc(words: list[str], devices: int = 1) -> subprocess.Popen:
    """`bfc` as one types it."""
    script = str(Path(sys.executable).with_name("bfc"))
    shared = ["--trainer.devices", str(devices), "--trainer.strategy", "ddp"]
    return start([script, *words, *(shared if devices > 1 else [])])


def fit_with(devices: int, root: Path, *words: str) -> tuple[int, str]:
    return end(bfc(words_of(root, *words), devices))


def torchrun(words: list[str], *options: str) -> subprocess.Popen:
    """torchrun with two processes on each node."""
    script = str(Path(sys.executable).with_name("torchrun"))
    return start([script, "--nproc-per-node", "2", *options, "-m", "bfc_lightning", *words])


def two_nodes(words: list[str], *more: str) -> list[tuple[int, str]]:
    """Two launchers of two processes on this machine; `more` is told to the second one only."""
    place = ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    launchers = [
        torchrun([*words, *(more if node else ())], *place, "--node-rank", str(node))
        for node in range(2)
    ]
    return [end(launcher) for launcher in launchers]


def srun(words: list[str], size: int = 2) -> list[tuple[int, str]]:
    """Processes with the variables that srun gives its tasks on one node."""
    job = _job_with_a_free_port()
    shared = {
        **{"SLURM_JOB_ID": str(job), "SLURM_JOB_NAME": "job", "SLURM_NODELIST": "127.0.0.1"},
        **{"SLURM_NTASKS": str(size), "SLURM_NTASKS_PER_NODE": str(size), "SLURM_NNODES": "1"},
        "SLURM_STEP_NUM_TASKS": str(size),
    }
    script = str(Path(sys.executable).with_name("bfc"))
    tasks = [
        start(
            [script, *words],
            **shared,
            **{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0"},
        )
        for rank in range(size)
    ]
    return [end(task) for task in tasks]


def _job_with_a_free_port() -> int:
    """The number of a job: Lightning adds 15000 to its last four digits, and meets there."""
    for digits in range(os.getpid() % 9000, 10000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", 15000 + digits))
            return 10000 + digits
    raise AssertionError("no port is free")


def exit_statuses(told: str) -> list[int]:
    """Of the processes that torchrun has started and that failed, by its own account."""
    lines = [line.split() for line in told.splitlines() if line.strip().startswith("exitcode")]
    return [int(line[2]) for line in lines]


def wait_until_it_trains(folder: Path, process: subprocess.Popen) -> None:
    """Returns once a checkpoint is there, which a validation has written."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, end(process)
        assert time.monotonic() < deadline
        time.sleep(0.1)


need_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(),
    reason="processes are found in /proc, which only Linux has",
)


def children(process: subprocess.Popen) -> dict[int, int]:
    """Those that a process started for the run, by their rank; for tests that `need_proc`."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            variables = (folder / "environ").read_text().split("\0")
        except (OSError, IndexError):
            continue
        named = dict(each.split("=", 1) for each in variables if "=" in each)
        if parent == process.pid and "LOCAL_RANK" in named:
            found[int(named["LOCAL_RANK"])] = int(folder.name)
    return found


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that waits for its parent to ask has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def recording(folder: Path) -> list[str]:
    return intervene("DrawsRecorder", folder=folder)


def draws(folder: Path, num_shards: int = 4) -> torch.Tensor:
    """The global batches of a recorded run, shards in order: (steps, shards, rows, d)."""
    parts = [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))]
    steps, _, dimension = parts[0].shape
    own = [part.reshape(steps, num_shards // len(parts), -1, dimension) for part in parts]
    shards = [own[s % len(parts)][:, s // len(parts)] for s in range(num_shards)]
    return torch.stack(shards, dim=1)


def weight_gap(one: Path, other: Path) -> float:
    """The relative difference of all weights of two runs' last checkpoints."""
    first, second = (checkpoint(folder)["state_dict"] for folder in (one, other))
    assert first.keys() == second.keys()
    a, b = (
        torch.cat([value.double().reshape(-1) for value in state.values()])
        for state in (first, second)
    )
    return float((a - b).norm() / a.norm())
