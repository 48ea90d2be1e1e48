"""How far many runs are: a live table on a terminal, elsewhere a line for each run that ends."""

import sys
import time
from statistics import median
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_MOST_NAMES = 20
_DAY_SECONDS = 86400.0


class RunsProgress:
    """Shows runs as they begin and end, on stderr.

    Args:
        total: runs of the experiment.
        num_done: how many of them were done before.
        num_workers: runs at a time.
    """

    def __init__(self, total: int, *, num_done: int, num_workers: int) -> None:
        self.total = total
        self.num_done = num_done
        self.num_workers = num_workers
        self._num_before = num_done
        self._running: dict[str, float] = {}
        self._seconds: list[float] = []
        self._ended: dict[str, list[str]] = {}
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, get_renderable=self.table, auto_refresh=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def begin(self, name: str) -> None:
        """A run begins.

        Args:
            name: of the run.
        """
        self._running[name] = time.monotonic()

    def end(self, name: str, outcome: str, seconds: float, *, status: str) -> None:
        """A run ends.

        Args:
            name: of the run.
            outcome: in words.
            seconds: that it took.
            status: of its row.
        """
        del self._running[name]
        self._seconds.append(seconds)
        self._ended.setdefault(status, []).append(name)
        self.num_done += 1
        left = self._left()
        times = f"{seconds:.0f} s, {left}" if left else f"{seconds:.0f} s"
        self.say(f"{self.num_done}/{self.total} {name} {outcome} ({times})")

    def put_back(self, name: str) -> None:
        """A run that began is still to be done.

        Args:
            name: of the run.
        """
        del self._running[name]

    def undo(self, count: int) -> None:
        """Runs that were done are to be run again.

        Args:
            count: how many.
        """
        self.num_done -= count
        self._num_before -= count

    def say(self, line: str) -> None:
        """Prints a line, above the table where there is one.

        Args:
            line: the text.
        """
        if self._console.is_terminal:
            self._console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def table(self) -> Table:
        """What is running, what has ended and how, and when all will be done.

        Returns:
            A line for each state: its name, how many runs are in it, and which.
        """
        now = time.monotonic()
        running = [f"{name} ({now - began:.0f} s)" for name, began in self._running.items()]
        lines = [("running", len(running), ", ".join(running))]
        if self._num_before:
            lines.append(("done before", self._num_before, ""))
        for status, names in self._ended.items():
            newest = ", ".join(reversed(names[-_MOST_NAMES:]))
            lines.append((status.replace("_", " "), len(names), newest))
        lines.append(("to go", self.total - self.num_done - len(running), self._end_in_words()))
        shown = Table.grid(padding=(0, 2))
        shown.add_column(no_wrap=True)
        shown.add_column(justify="right", no_wrap=True)
        shown.add_column(no_wrap=True, overflow="ellipsis")
        bar = ProgressBar(total=max(self.total, 1), completed=self.num_done, width=40)
        shown.add_row("runs", f"{self.num_done}/{self.total}", bar)
        for word, count, which in lines:
            shown.add_row(word, str(count), Text(which))
        return shown

    def _end_in_words(self) -> str:
        """When all is done, and what that is reckoned from."""
        if not self._left():
            return ""
        day = "" if self._seconds_left() < _DAY_SECONDS / 2 else "%a "
        when = time.strftime(f"{day}%H:%M", time.localtime(time.time() + self._seconds_left()))
        return f"{self._left()}, until {when}; a run takes {in_words(median(self._seconds))}"

    def _left(self) -> str:
        """The time left, if runs go on taking as long as they took so far."""
        if not self._seconds or self.num_done == self.total:
            return ""
        return f"about {in_words(self._seconds_left())} left"

    def _seconds_left(self) -> float:
        mean = sum(self._seconds) / len(self._seconds)
        return mean * max(1.0, (self.total - self.num_done) / self.num_workers)


def in_words(seconds: float) -> str:
    """A length of time, roughly.

    Args:
        seconds: the length.

    Returns:
        In seconds, minutes or hours, whichever reads best.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
