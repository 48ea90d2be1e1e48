"""Commands in processes of their own, forked from this one, which has imported everything."""

import importlib
import os
import resource
import signal
import sys
import time
import traceback
import types
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.forkserver import _forkserver as forkserver
from pathlib import Path

from bfc_lightning.cli import main

_MODULES = (
    *("bfc_lightning.baselines", "bfc_lightning.cli.experiments", "bfc_lightning.cli.evaluate"),
    *("bfc_lightning.experiments.execute", "lightning.pytorch", "torch._dynamo"),
)
_POLL_SECONDS = 0.005


def warm_up() -> None:
    """Imports what commands need."""
    for name in _MODULES:
        importlib.import_module(name)


@dataclass
class Command:
    """A command of `bfc` in a process group of its own.

    Attributes:
        pid: of the process.
        log: the file with its stderr.
        code: of the exit, -N after signal N; None while it runs.
    """

    pid: int
    log: Path
    code: int | None = None

    def is_alive(self) -> bool:
        if self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if done else None
        return self.code is None

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None if it still runs after that time."""
        deadline = time.monotonic() + seconds
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return self.code

    def send(self, signum: int) -> bool:
        """Sends it a signal; returns whether it was alive."""
        is_alive = self.is_alive()
        if is_alive:
            os.kill(self.pid, signum)
        return is_alive

    def end(self) -> None:
        """Kills it and its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait(float("inf"))

    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def start(
    argv: list[str], log: Path, *, folder: Path | None = None, gigabytes: float | None = None
) -> Command:
    """Starts a command, in a folder and with a limit of memory if they are given."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Command(pid, log)
    code = 1
    try:
        _prepare(argv, log, gigabytes)
        os.chdir(folder or ".")
        code = main(argv)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _prepare(argv: list[str], log: Path, gigabytes: float | None) -> None:
    """Makes the process like a fresh one."""
    forkserver.__init__()  # type: ignore[misc]  # a server of the parent is none of ours
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stdout = os.fdopen(1, "w", closefd=False, encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace")
    sys.modules["__main__"] = types.ModuleType("__main__")  # which workers would import
    sys.argv = ["bfc", *argv]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if gigabytes is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
