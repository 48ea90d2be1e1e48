"""Processes that run one task after the other: imports are paid once, a crash costs one task.

The parent is a single thread that waits for results. Workers have a process group of their own, so
that Ctrl-C reaches the parent only, which passes it on once, as SIGTERM: the task may save and
stop. A worker whose parent has died sends itself the same signal.
"""

import fcntl
import gc
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 20.0

Function = Callable[[Sequence[str], int], int]
"""Given the words of a task and the number of runs that it makes; returns an exit status."""


@dataclass(frozen=True)
class Task:
    """One call of the function.

    Args:
        name: for messages.
        words: that say what is to be done.
        log: the file that what it prints is added to; no two tasks with the same file run at once,
            not even those of different parents.
        num_runs: that it makes; it may take as many times what one may take.
    """

    name: str
    words: tuple[str, ...]
    log: Path
    num_runs: int = 1


@dataclass(frozen=True)
class Started:
    """A task was given to a worker."""

    task: Task


@dataclass(frozen=True)
class Ended:
    """A task came to its end.

    Attributes:
        task: the task.
        status: what the function returned, or the worker's exit code, -N where signal N ended it.
        has_died: whether the worker died before the function returned.
        seconds: since it was given to the worker.
        is_overdue: whether it was stopped because it took too long.
    """

    task: Task
    status: int
    has_died: bool
    seconds: float
    is_overdue: bool = False


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: "connection.Connection[Task, int]"
    number: int
    task: Task | None = None
    began: float = 0.0
    num_signals: int = 0
    is_overdue: bool = False


@dataclass
class WorkerPool:
    """Workers that are started when they are needed and stay for the next task.

    Inside its `with` block SIGINT and SIGTERM are received: the first one lets every task that is
    under way stop by itself, and no other is begun; a second one kills.

    Args:
        function: a function of a module.
        num_workers: tasks at a time.
        seconds: that a task may take; then it is stopped as by a signal, and killed if that does
            not help. No limit if not given.
        environments: variables that each worker starts with, such as its GPU; none, or at least
            `num_workers` of them.

    Attributes:
        signum: the first signal that was received, 0 if none.
    """

    function: Function
    num_workers: int
    seconds: float | None = None
    environments: Sequence[Mapping[str, str]] = ()
    signum: int = field(default=0, init=False)
    _num_signals: int = field(default=0, init=False)
    _workers: list[_Worker] = field(default_factory=list, init=False)
    _handlers: dict[int, object] = field(default_factory=dict, init=False)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {n: signal.signal(n, self._receive) for n in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def run(self, tasks: Iterable[Task]) -> Iterator[Started | Ended]:
        """Runs tasks in their order.

        Args:
            tasks: what is to be done.

        Yields:
            Each start and each end, as they happen.
        """
        waiting = deque(tasks)
        while True:
            while waiting and not self.signum and len(self._busy()) < self.num_workers:
                yield self._start(waiting.popleft())
            self._pass_signals_on()
            self._stop_overdue()
            if not self._busy():
                return
            for worker in self._ready():
                yield self._end(worker)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def _start(self, task: Task) -> Started:
        """Gives a task to a worker that is alive."""
        given = False
        while not given:
            idle = [worker for worker in self._workers if worker.task is None]
            worker = idle[0] if idle else self._add_worker()
            try:
                worker.pipe.send(task)
                given = True
            except OSError:  # it died since its last task
                self._remove(worker)
        worker.task, worker.began = task, time.perf_counter()
        return Started(task)

    def _add_worker(self) -> _Worker:
        """Starts a process, deaf to signals until it has left the terminal's group."""
        resource_tracker.ensure_running()  # else it is started below, and unblocks the signals
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        number = min(set(range(self.num_workers)) - {worker.number for worker in self._workers})
        variables = self.environments[number] if self.environments else {}
        process = context.Process(
            target=_work, args=(theirs, self.function, os.getcwd(), variables), daemon=True
        )
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        worker = _Worker(process, ours, number)
        self._workers.append(worker)
        return worker

    def _ready(self) -> list[_Worker]:
        """Busy workers that have answered or died; waits a moment for them."""
        busy = self._busy()
        handles = [handle for worker in busy for handle in (worker.pipe, worker.process.sentinel)]
        ready = connection.wait(handles, timeout=_POLL_SECONDS)
        return [w for w in busy if w.pipe in ready or w.process.sentinel in ready]

    def _end(self, worker: _Worker) -> Ended:
        """Takes the result of a worker; one that died is removed."""
        assert worker.task is not None
        task, seconds, late = worker.task, time.perf_counter() - worker.began, worker.is_overdue
        try:
            if worker.pipe.poll():
                status = worker.pipe.recv()
                worker.task, worker.num_signals, worker.is_overdue = None, 0, False
                return Ended(task, status, False, seconds, late)
        except (EOFError, OSError):
            pass
        self._remove(worker)
        return Ended(task, worker.process.exitcode or 0, True, seconds, late)

    def _remove(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.join(_PATIENCE_SECONDS)
        if worker.process.is_alive():
            _kill(worker)
            worker.process.join()
        self._workers.remove(worker)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        self._num_signals += 1

    def _pass_signals_on(self) -> None:
        for worker in self._busy():
            if self._num_signals >= 2:
                _kill(worker)
            elif self._num_signals and not worker.num_signals:
                worker.process.terminate()
                worker.num_signals = 1

    def _stop_overdue(self) -> None:
        limit = math.inf if self.seconds is None else self.seconds
        for worker in self._busy():
            assert worker.task is not None
            over = time.perf_counter() - worker.began - limit * worker.task.num_runs
            if over > 0 and not worker.num_signals:
                worker.process.terminate()
                worker.num_signals, worker.is_overdue = 1, True
            elif over > _PATIENCE_SECONDS and worker.is_overdue:
                _kill(worker)

    def _stop(self) -> None:
        for worker in self._workers:
            if not worker.num_signals:
                worker.process.terminate()
        for worker in list(self._workers):
            self._remove(worker)


def _kill(worker: _Worker) -> None:
    """Kills a worker and the processes that its run has started: they are a group of their own."""
    with suppress(ProcessLookupError):
        os.killpg(worker.process.pid or 0, signal.SIGKILL)
    worker.process.kill()


def _work(
    pipe: "connection.Connection[int, Task]",
    function: Function,
    directory: str,
    variables: Mapping[str, str],
) -> None:
    """A worker's life: tasks from the pipe until that closes."""
    os.setpgid(0, 0)
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(directory)
    environment = dict(os.environ)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        status = _perform(function, task)
        try:
            pipe.send(status)
        except OSError:  # the parent was killed meanwhile
            return
        os.environ.clear()
        os.environ.update(environment)
        gc.collect()


def _end_with_parent() -> None:
    """Ends the process when its parent is gone, gently at first."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _perform(function: Function, task: Task) -> int:
    """Calls the function; whatever it raises becomes a status."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with _output_to(task.log):
        try:
            return function(task.words, task.num_runs)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
            return 1


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Sends what is printed, also by C code and child processes, to the end of a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    fcntl.flock(file, fcntl.LOCK_EX)  # waits for an orphan that is still saving the same task
    kept = {number: os.dup(number) for number in (1, 2)}
    _redirect(dict.fromkeys(kept, file))
    try:
        yield
    finally:
        _redirect(kept)
        for number in (file, *kept.values()):
            os.close(number)


def _redirect(targets: dict[int, int]) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    for number, target in targets.items():
        os.dup2(target, number)
