"""A process for each run, forked from a server that has imported everything once."""

import multiprocessing
import os
import resource
import runpy
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from bfc_lightning.experiments.spec import Limits

_STOP = (signal.SIGINT, signal.SIGTERM)
_SIGNALS = (*_STOP, signal.SIGUSR2)  # the last one comes before the time limit of a job
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 20.0


@dataclass(frozen=True)
class Task:
    """Commands of `bfc`, run one after the other while they succeed; output goes to a log."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    log: Path


@dataclass
class Worker:
    """The process of a task; `seconds` and `code`, -N for signal N, are set when it has ended."""

    task: Task
    process: ForkServerProcess
    slot: int
    began: float
    stopped_at: float = 0.0
    is_overdue: bool = False
    seconds: float = 0.0
    code: int = 0


@dataclass
class Pool:
    """Runs tasks in processes; the first signal lets them save and stop, the second kills them.

    `signum` is the first signal that was received inside the `with` block, 0 if none.
    """

    num_workers: int
    limits: "Limits"
    gpus: Sequence[str] = ()
    signum: int = 0
    _num_signals: int = 0
    _workers: list[Worker] = field(default_factory=list)

    def __enter__(self) -> Self:
        start_server()
        self._before = {number: signal.signal(number, self._receive) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            _kill(worker)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, tasks: Iterable[Task]) -> Iterator[Worker]:
        """Runs tasks in their order; yields the worker of each one when it has ended."""
        waiting = deque(tasks)
        while True:
            while waiting and not self.signum and len(self._workers) < self.num_workers:
                self._start(waiting.popleft())
            if not self._workers:
                return
            connection.wait([w.process.sentinel for w in self._workers], _POLL_SECONDS)
            for worker in list(self._workers):
                self._stop_if_due(worker)
                if not worker.process.is_alive():
                    self._workers.remove(worker)
                    worker.seconds = time.monotonic() - worker.began
                    worker.code = worker.process.exitcode or 0
                    yield worker

    def _start(self, task: Task) -> None:
        slot = min(set(range(self.num_workers)) - {worker.slot for worker in self._workers})
        gpu = self.gpus[slot % len(self.gpus)] if self.gpus else None
        process = multiprocessing.get_context("forkserver").Process(
            target=_work, args=(task, self.limits.gigabytes, gpu, os.getcwd())
        )
        process.start()
        self._workers.append(Worker(task, process, slot, time.monotonic()))

    def _stop_if_due(self, worker: Worker) -> None:
        """Asks a worker to stop on a signal or a timeout; kills it if it does not."""
        now = time.monotonic()
        grace = 0.0 if self._num_signals > 1 else _GRACE_SECONDS
        overdue = now - worker.began > (self.limits.seconds or float("inf"))
        if not worker.stopped_at and (overdue or self._num_signals):
            worker.process.terminate()
            worker.stopped_at, worker.is_overdue = now, overdue
        elif worker.stopped_at and now - worker.stopped_at > grace:
            _kill(worker)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        self._num_signals += 1


def start_server() -> None:
    """Starts the server from which workers are forked, unless it runs; it needs some seconds."""
    forkserver.set_forkserver_preload(["bfc_lightning.cli.warm_up"])
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # the server inherits it and lives on
    try:
        resource_tracker.ensure_running()  # unblocks SIGINT and SIGTERM
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def run_job(*shard: object) -> None:
    """A job: the server starts before this process imports what it needs itself."""
    start_server()
    from bfc_lightning.experiments.cluster import run_shard

    run_shard(*shard)  # type: ignore[arg-type]


def _kill(worker: Worker) -> None:
    """Kills a worker and the processes that its run has started."""
    try:
        os.killpg(worker.process.pid or 0, signal.SIGKILL)
    except ProcessLookupError:
        worker.process.kill()


def _work(task: Task, gigabytes: float | None, gpu: str | None, directory: str) -> None:
    """The life of a worker: one task."""
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.chdir(directory)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    task.log.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(log, stream)
    _limit_memory(gigabytes)
    for command in task.commands:
        sys.argv[1:] = command
        try:
            runpy.run_module("bfc_lightning", run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise


def _die_with_parent() -> None:
    """Kills this process and those that it started when the experiment is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _limit_memory(gigabytes: float | None) -> None:
    """Lets this process map so much more than now, if the system can tell how much that is."""
    if gigabytes is not None and sys.platform == "linux":
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
        now = int(pages) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + int(gigabytes * 2**30), hard))
