"""How far many runs are: a bar on a terminal, elsewhere a line for each run that ends."""

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


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
        self._running: list[str] = []
        self._seconds: list[float] = []
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("runs"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total, completed=num_done)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin(self, name: str) -> None:
        """A run begins.

        Args:
            name: of the run.
        """
        self._running.append(name)
        self._show()

    def end(self, name: str, outcome: str, seconds: float) -> None:
        """A run ends.

        Args:
            name: of the run.
            outcome: in words.
            seconds: that it took.
        """
        self._running.remove(name)
        self._seconds.append(seconds)
        self.num_done += 1
        left = self._left()
        times = f"{seconds:.0f} s, {left}" if left else f"{seconds:.0f} s"
        self.say(f"{self.num_done}/{self.total} {name} {outcome} ({times})")
        self._show()

    def undo(self, count: int) -> None:
        """Runs that were done are to be run again.

        Args:
            count: how many.
        """
        self.num_done -= count
        self._show()

    def say(self, line: str) -> None:
        """Prints a line, above the bar where there is one.

        Args:
            line: the text.
        """
        if self._console.is_terminal:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def _show(self) -> None:
        parts = [self._left(), ", ".join(self._running)]
        words = escape("  ".join(part for part in parts if part))
        self._bar.update(self._task, completed=self.num_done, description=words)

    def _left(self) -> str:
        """The time left, if runs go on taking as long as they took so far."""
        num_left = self.total - self.num_done
        if not self._seconds or not num_left:
            return ""
        mean = sum(self._seconds) / len(self._seconds)
        seconds = mean * max(1.0, num_left / self.num_workers)
        return f"about {in_words(seconds)} left"


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
