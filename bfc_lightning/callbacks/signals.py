"""What Ctrl-C and SIGTERM do to a command: what has no state to save ends at once."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from lightning import Trainer

from bfc_lightning.callbacks.stops import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Result = TypeVar("Result")


class _Cut(BaseException):
    """Leaves what must not wait; no handler of errors may take it."""


class Signals:
    """The signals that a run has received; the second one ends it at once.

    Attributes:
        signum: the first signal; 0 for none.
        received: when it came, by `time.monotonic`.
        trainer: whose other processes are told of a SIGTERM, once they listen.
    """

    def __init__(self) -> None:
        self.signum = 0
        self.received = math.inf
        self.trainer: Trainer | None = None
        self._is_cutting = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receives the signals inside the `with` block, and gives them back after it.

        Python lets only its main thread receive signals; elsewhere the block changes nothing.
        """
        with _receiving(self._receive):
            yield

    @property
    def reason(self) -> int:
        """The signal to stop for; SIGTERM where another process has received it."""
        return self.signum or signal.SIGTERM

    def unless_told(self, compute: Callable[[], Result]) -> Result | None:
        """Runs what may take minutes, and leaves it where a signal has come or comes.

        Args:
            compute: must change nothing but what it returns.

        Returns:
            The result; None where it was left.
        """
        try:
            self._is_cutting = True
            result = None if self.signum else compute()
            self._is_cutting = False
        except _Cut:
            return None
        finally:
            self._is_cutting = False
        return result

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            raise Interrupted(signum)
        self.signum, self.received = signum, time.monotonic()
        launcher = self.trainer.strategy.launcher if self.trainer is not None else None
        if launcher is not None and signum == signal.SIGTERM:
            launcher.kill(signum)  # a terminal sends Ctrl-C to every process, SIGTERM to one
        if self._is_cutting:
            raise _Cut


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Lets the signals end at once what has no state to save."""
    with _receiving(_stop):
        yield


def _stop(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)


@contextmanager
def _receiving(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
