"""Commands in processes of their own that need no imports: forked from this one, which has them.

They are real processes, to be killed; a kill every second instead of one in five.
"""

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
from pathlib import Path

from bfc_lightning.cli import main

_MODULES = (
    "bfc_lightning.baselines",
    "bfc_lightning.cli.application",
    "bfc_lightning.cli.comparing",
    "bfc_lightning.experiments.execution",
    "lightning.pytorch",
    "torch._dynamo",
)
_POLL_SECONDS = 0.005


def warm_up() -> None:
    """Pays for the imports."""
    for name in _MODULES:
        importlib.import_module(name)


@dataclass
class Command:
    """A command of `bfc` in a process group of its own.

    Attributes:
        words: after `bfc`.
        pid: of the process.
        log: the file with what it printed.
        status: of the exit, -N after signal N; None while it runs.
    """

    words: list[str]
    pid: int
    log: Path
    status: int | None = None

    def poll(self) -> int | None:
        if self.status is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if done else None
        return self.status

    def wait(self, seconds: float) -> int | None:
        """Its exit status, or None if it still runs after that time."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return self.status

    def wait_working(self, seconds: float) -> int | None:
        """Its exit status, or None if it still runs after so much time of a processor.

        Where the machine is busy with other things that takes longer; 30 times that is the end.
        """
        deadline = time.monotonic() + 30 * seconds
        while self.wait(0.2) is None and time.monotonic() < deadline:
            if self._worked_seconds() > seconds:
                return None
        return self.status

    def _worked_seconds(self) -> float:
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:  # no Linux: the clock has to do
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def send(self, signum: int) -> bool:
        """Sends it a signal; whether it was still there to receive it."""
        is_alive = self.poll() is None
        if is_alive:
            os.kill(self.pid, signum)
        return is_alive

    def end(self) -> None:
        """Kills what is left of the group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        while self.poll() is None:
            time.sleep(_POLL_SECONDS)

    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def start(
    words: list[str], log: Path, *, folder: Path | None = None, gigabytes: float | None = None
) -> Command:
    """Starts a command.

    Args:
        words: after `bfc`.
        log: where stderr goes; stdout goes nowhere.
        folder: to work in; where this process does if not given.
        gigabytes: of memory that it may map beside what is mapped now.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Command(words, pid, log)
    status = 1
    try:
        _prepare(words, log, gigabytes)
        os.chdir(folder or ".")
        status = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)


def _prepare(words: list[str], log: Path, gigabytes: float | None) -> None:
    """Makes the process what a fresh one would be."""
    os.setsid()
    out = os.open(os.devnull, os.O_WRONLY)
    error = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(error, 2)
    sys.stdout = os.fdopen(1, "w", closefd=False, encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace")
    sys.modules["__main__"] = types.ModuleType("__main__")  # what spawned workers import
    sys.argv = ["bfc", *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if gigabytes is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
