"""How tests start runs of several processes: the console script, torchrun, srun's variables."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

from bfc_lightning.cli import main
from tests.engines import gap
from tests.runs import TINY, checkpoint, intervene

LIMIT_SECONDS = 240
SHARED = ["--trainer.strategy", "ddp", "--trainer.devices"]


def script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def start(command: list[str], **variables: str) -> subprocess.Popen:
    """A command in a process group of its own, whose output is kept."""
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen, limit: float = LIMIT_SECONDS) -> tuple[int, str]:
    """Exit code and output; a hang fails the test and leaves nothing running."""
    try:
        out, err = process.communicate(timeout=limit)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out + err


def fit_argv(root: Path, *argv: str) -> list[str]:
    return ["fit", "-c", TINY, "--run.root", str(root), *argv]


def trained(config: str, root: Path, engine: str, *argv: str) -> dict[str, torch.Tensor]:
    """The weights of a run with an engine and its name."""
    named = ["--run.root", str(root), "--run.name", engine, "--engine", engine]
    assert main(["fit", "-c", config, *named, *argv]) == 0
    return checkpoint(root / engine)["state_dict"]


def bfc(devices: int, root: Path, *argv: str) -> tuple[int, str]:
    """`bfc fit` by the console script, which starts the other processes."""
    shared = [*SHARED, str(devices)] if devices > 1 else []
    return end(start([script("bfc"), *fit_argv(root, *argv), *shared]))


def torchrun(argv: list[str], *options: str) -> subprocess.Popen:
    """torchrun with two processes."""
    options = ("--nproc-per-node", "2", *options)
    return start([script("torchrun"), *options, "-m", "bfc_lightning", *argv])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun_on_two_nodes(argv: list[str]) -> list[tuple[int, str]]:
    """Two launchers of two processes each on this machine."""
    place = ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    launchers = [torchrun(argv, *place, "--node-rank", str(node)) for node in range(2)]
    return [end(launcher) for launcher in launchers]


def srun(argv: list[str], size: int = 2) -> list[tuple[int, str]]:
    """The tasks of `srun --kill-on-bad-exit=1` on one node, as far as bfc can see them."""
    shared = {
        **{"SLURM_JOB_ID": str(_job_with_a_free_port()), "SLURM_JOB_NAME": "job"},
        **{"SLURM_NTASKS": str(size), "SLURM_NTASKS_PER_NODE": str(size), "SLURM_NNODES": "1"},
        **{"SLURM_STEP_NUM_TASKS": str(size), "SLURM_NODELIST": "127.0.0.1"},
    }
    tasks = [
        start(
            [script("bfc"), *argv],
            **{**shared, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            SLURM_NODEID="0",
        )
        for rank in range(size)
    ]
    deadline = time.monotonic() + LIMIT_SECONDS
    while any(task.poll() is None for task in tasks):
        if any(task.poll() for task in tasks) or time.monotonic() > deadline:
            for task in tasks:
                task.kill()
            break
        time.sleep(0.2)
    return [end(task) for task in tasks]


def _job_with_a_free_port() -> int:
    """The number of a job: Lightning adds 15000 to its last four digits and listens there."""
    for digits in range(os.getpid() % 9000, 10000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", 15000 + digits))
            return 10000 + digits
    raise AssertionError("no port is free")


def wait_for_checkpoint(folder: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, end(process)
        assert time.monotonic() < deadline
        time.sleep(0.1)


def errors(output: str) -> list[str]:
    """The lines in which bfc reports how a run ended."""
    return [line for line in output.splitlines() if line.startswith("bfc: error: ")]


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
    """The largest relative difference of two runs' last weights."""
    return gap(*(checkpoint(folder)["state_dict"] for folder in (one, other)))
