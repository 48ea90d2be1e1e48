"""Bootstrap intervals: the seeds are drawn again, with replacement, many times."""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

NUM_DRAWS = 2000
_SEED = 0
_LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN if undefined, and `reason` says why."""

    value: float
    low: float = math.nan
    high: float = math.nan
    reason: str = field(default="", compare=False)

    def __str__(self) -> str:
        if math.isnan(self.value):
            return f"- ({self.reason})"
        if math.isnan(self.low):
            return f"{self.value:.2f} ({self.reason})"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def draws(num_seeds: int) -> NDArray[np.int64]:
    """Draws all seeds once in the first row, then 2,000 times with replacement.

    The draws are the same for every quantity, because a seed means the same target and samples for
    all learners. Returns indices of seeds, (1 + draws, seeds).

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    random = np.random.default_rng(_SEED)
    drawn = random.integers(num_seeds, size=(NUM_DRAWS, num_seeds))
    return np.concatenate([np.arange(num_seeds)[None], drawn])


def interval(drawn: Floats) -> tuple[float, float]:
    """The percentile interval: the middle 95 % of the bootstrap estimates without NaN.

    The ends are estimates that were drawn. With five seeds, the interval of a median nearly always
    reaches from the smallest to the largest value, which covers the true median in 94 % of cases.
    """
    tail = (1 - _LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail], method="nearest")
    return float(low), float(high)
