"""Where a run must stop between two optimizer steps, because something wants to look at it."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class SyncPoints:
    """Steps after which something happens: a log row, a validation, a measure, a new phase.

    Args:
        every: intervals; something happens after each multiple of one of them.
        at: single steps.
    """

    every: tuple[int, ...]
    at: frozenset[int]

    def steps_until_next(self, step: int) -> int:
        """How many optimizer steps may be taken in one go.

        Args:
            step: steps taken so far.

        Returns:
            Steps to the next pause, at least 1.

        Raises:
            ValueError: if there is no pause after it.
        """
        later = [interval - step % interval for interval in self.every]
        later += [pause - step for pause in self.at if pause > step]
        if not later:
            raise ValueError(f"there must be a pause after step {step}, got none.")
        return min(later)


def make_sync_points(every: Iterable[int], at: Iterable[int]) -> SyncPoints:
    """SyncPoints from any iterables.

    Args:
        every: intervals.
        at: single steps.

    Returns:
        The sync_points.
    """
    return SyncPoints(tuple(every), frozenset(at))
