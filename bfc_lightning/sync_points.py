"""Training steps after which a chunk of steps must end."""

from collections.abc import Iterable
from dataclasses import dataclass

from bfc_lightning.types import as_integer


@dataclass(frozen=True)
class SyncPoints:
    """Training steps followed by a log row, a validation, a measurement or a new phase.

    Args:
        every: intervals. Each multiple of an interval is a sync point.
        at: single steps.
    """

    every: tuple[int, ...]
    at: frozenset[int]

    def steps_until_next(self, step: int) -> int:
        """Returns the number of training steps until the next sync point.

        Args:
            step: number of completed training steps.

        Returns:
            The number of steps, at least 1.

        Raises:
            ValueError: if there is no sync point after `step`.
        """
        step = as_integer(step, "step")
        later = [interval - step % interval for interval in self.every]
        later += [point - step for point in self.at if point > step]
        if not later:
            raise ValueError(f"there must be a sync point after step {step}, got none.")
        return min(later)


def make_sync_points(every: Iterable[int], at: Iterable[int]) -> SyncPoints:
    """Creates `SyncPoints` from any iterables.

    Args:
        every: intervals.
        at: single steps.

    Returns:
        The sync points.
    """
    intervals = tuple(as_integer(interval, "interval") for interval in every)
    return SyncPoints(intervals, frozenset(as_integer(step, "step") for step in at))
