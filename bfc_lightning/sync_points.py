"""Training steps after which a chunk of steps must end."""

import time
from collections.abc import Callable, Iterable, Iterator

from bfc_lightning.types import StepChunk, as_integer

_CHUNK_SECONDS = 0.3


class SyncPoints:
    """Training steps followed by a log row, a validation, a measurement or a new phase.

    Args:
        every: intervals. Each multiple of an interval is a sync point.
        at: single steps.
    """

    def __init__(self, every: Iterable[int], at: Iterable[int]) -> None:
        self.every = [as_integer(interval, "interval") for interval in every]
        self.at = [as_integer(step, "step") for step in at]
        self._fitting = 1  # steps that fit in the time budget

    def steps_until_next(self, step: int) -> int:
        """Returns the number of training steps from `step` to the next sync point, at least 1.

        Raises:
            ValueError: if there is no sync point after `step`.
        """
        step = as_integer(step, "step")
        later = [interval - step % interval for interval in self.every]
        later += [point - step for point in self.at if point > step]
        if not later:
            raise ValueError(f"there must be a sync point after step {step}, got none.")
        return min(later)

    def chunks(self, draw: Callable[[int], StepChunk], step: int) -> Iterator[StepChunk]:
        """Yields chunks up to the next sync point, or until a time budget is used up.

        Long chunks amortize the overhead of the Trainer's loop, about a millisecond per call. The
        time budget keeps signal handling and the progress bar responsive. The first batch of a run
        measures the time per batch; later calls begin with as many as fitted before.

        Args:
            draw: draws at least one batch, and at most the given number.
            step: the number of steps that have been taken.

        Yields:
            The chunks, drawn lazily.
        """
        began, drawn, most = time.monotonic(), 0, self.steps_until_next(step)
        while drawn < most:
            chunk = draw(min(max(1, self._fitting - drawn), most - drawn))
            drawn += len(chunk.labels)
            yield chunk
            used = (time.monotonic() - began) / _CHUNK_SECONDS
            self._fitting = max(1, int(drawn / max(used, 1e-6)))
            if used >= 1:
                return
