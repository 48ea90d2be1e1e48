"""How the samples that a learner needs grow with the input dimension: n ~ d^exponent."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bfc_lightning.experiments.bootstrap import Estimate, Floats, draws, interval
from bfc_lightning.experiments.comparison import Comparison, Scaling
from bfc_lightning.experiments.limits import STOPS
from bfc_lightning.experiments.results import DIVERGED, FINISHED, Row

# With a larger share of draws without a slope there is no interval.
_MOST_UNDEFINED = 0.05


@dataclass(frozen=True)
class Needed:
    """The samples that a learner needs at one dimension with one seed.

    Attributes:
        samples: infinite where the error was not reached with the most samples that were tried;
            None where a run that decides it is missing.
        is_bound: whether the fewest samples that were tried are enough already, so that the number
            says "at most".
    """

    samples: float | None
    is_bound: bool = False


@dataclass(frozen=True)
class Median:
    """The samples that a learner needs at one dimension, over the seeds.

    Attributes:
        samples: their median over the seeds that are known, of which one that did not reach the
            error counts as infinite; NaN where none is known.
        low: the smallest of them.
        high: the largest of them.
        is_bound: whether the median says "at most".
        num_reached: seeds that reached the error.
    """

    samples: float
    low: float
    high: float
    is_bound: bool
    num_reached: int


def samples_needed(errors: Mapping[float, float | None], error: float) -> Needed:
    """The smallest n from which on an error is reached, refined between two values of n.

        log n = log a + (log b - log a) (log e_a - log e) / (log e_a - log e_b)

    with e the error to be reached, b the smallest n such that e_n <= e from there on, and a the one
    below it. It is b itself where e_a is not finite or e_b is 0. Where the error drops by orders of
    magnitude from a to b, n is known to lie between the two and hardly better: the formula then
    puts it near a. What was stopped at a limit has not reached the error, but takes nothing from
    what fewer samples have reached.

    Source: ours.

    Args:
        errors: e_n by n; infinite for a run that diverged, NaN for one that was stopped at a limit,
            None where there is no run.
        error: e.

    Returns:
        The number; what came out below a has no part in it.
    """
    above: tuple[float, float] | None = None
    for number in sorted(errors, reverse=True):
        reached = errors[number]
        if reached is None:
            return Needed(None)
        if above is None and math.isnan(reached):
            continue
        if not reached <= error:
            return Needed(_between((number, reached), above, error) if above else math.inf)
        above = (number, reached)
    return Needed(math.inf) if above is None else Needed(above[0], is_bound=True)


def _between(below: tuple[float, float], above: tuple[float, float], error: float) -> float:
    (a, error_a), (b, error_b) = below, above
    if error_b == 0 or not math.isfinite(error_a):
        return b
    share = math.log(error_a / error) / math.log(error_a / error_b)
    return float(a * (b / a) ** share)


def asked(comparison: Comparison) -> Scaling:
    """What is asked of a comparison that has `scaling`."""
    assert comparison.scaling is not None
    return comparison.scaling


def needed(comparison: Comparison, rows: Sequence[Row]) -> dict[tuple[str, str, int], Needed]:
    """The samples that every learner needs.

    Args:
        comparison: what is compared, with `scaling`.
        rows: of its runs.

    Returns:
        By learner, label of the dimension and seed.
    """
    scaling = asked(comparison)
    metric = scaling.metric or comparison.metrics[0]
    numbers = comparison.grid[scaling.samples].labeled()
    errors: dict[tuple[str, str, int], dict[float, float | None]] = {
        (learner, label, seed): dict.fromkeys(map(float, numbers))
        for learner in comparison.learners
        for label in dimensions(comparison)
        for seed in comparison.seeds
    }
    for row in rows:
        labels = dict(row.run.point.labels)
        key = (row.run.point.learner, labels[scaling.dimension], row.run.seed)
        errors[key][float(labels[scaling.samples])] = _error(row, metric)
    return {key: samples_needed(mine, scaling.error) for key, mine in errors.items()}


def dimensions(comparison: Comparison) -> list[str]:
    """The labels of the dimensions, from the smallest on."""
    return sorted(comparison.grid[asked(comparison).dimension].labeled(), key=float)


def extremes(comparison: Comparison) -> tuple[float, float]:
    """The fewest and the most samples that are tried."""
    numbers = [float(label) for label in comparison.grid[asked(comparison).samples].labeled()]
    return min(numbers), max(numbers)


def medians(comparison: Comparison, rows: Sequence[Row], learner: str) -> dict[str, Median]:
    """The samples that a learner needs, over the seeds.

    Args:
        comparison: what is compared, with `scaling`.
        rows: of its runs.
        learner: its name.

    Returns:
        By label of the dimension. A seed that did not reach the error counts as infinite, one that
        is not known is left out.
    """
    table = _table(comparison, rows, learner)
    lower, upper = _middles(table)
    fewest, _ = extremes(comparison)
    found = {}
    for number, label in enumerate(dimensions(comparison)):
        known = table[number][~np.isnan(table[number])]
        found[label] = Median(
            samples=float(lower[number] + upper[number]) / 2,
            low=float(known.min(initial=math.inf)),
            high=float(known.max(initial=0.0)),
            is_bound=bool(lower[number] <= fewest),
            num_reached=int(np.isfinite(known).sum()),
        )
    return found


def exponent(comparison: Comparison, rows: Sequence[Row], learner: str) -> Estimate:
    """How fast the samples grow that a learner needs: n ~ d^exponent.

        exponent = sum (x - mean x) (y - mean y) / sum (x - mean x)^2

    with x = log d and y the logarithm of the median of n over seeds, at the dimensions at which
    more than half of the seeds reached the error and the median is no bound. The interval holds the
    middle 95 % of the exponents over 2,000 draws of the seeds with replacement.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, section 13.3.

    Args:
        comparison: what is compared, with `scaling`.
        rows: of its runs.
        learner: its name.

    Returns:
        The exponent. There is none below two such dimensions, and no interval with a single seed or
        where more than 5 % of the draws have none.
    """
    return _estimate(comparison, _slopes(comparison, rows, learner), [learner])


def exponent_difference(
    comparison: Comparison, rows: Sequence[Row], learner: str, other: str
) -> Estimate:
    """The exponent of one learner minus that of another.

    A seed means the same target and samples for all learners, so that each draw of the seeds is
    used for both. The two are those of `exponent`, each over its own dimensions: where a learner's
    median is only a bound ("at most"), or the error is not reached, that dimension has no part in
    this learner's exponent, and keeps its part in the other one's. A bound taken as a number would
    make an exponent too small where it stands at the smallest dimensions.

    Source: ours.

    Args:
        comparison: what is compared, with `scaling`.
        rows: of its runs.
        learner: the one.
        other: the other.

    Returns:
        The difference; NaN where one of the exponents is undefined.
    """
    slopes = [_slopes(comparison, rows, name) for name in (learner, other)]
    return _estimate(comparison, slopes[0] - slopes[1], [learner, other])


def _estimate(comparison: Comparison, slopes: Floats, learners: Sequence[str]) -> Estimate:
    """From the slope of all seeds, which comes first, and those of the draws."""
    nan = math.nan
    value, drawn = float(slopes[0]), slopes[1:]
    if math.isnan(value):
        return Estimate(nan, nan, nan, "fewer than two usable dimensions")
    if len(comparison.seeds) < 2:
        return Estimate(value, nan, nan, "one seed: no interval")
    undefined = float(np.isnan(drawn).mean())
    if undefined > _MOST_UNDEFINED:
        return Estimate(value, nan, nan, f"undefined in {undefined:.0%} of draws: no interval")
    return Estimate(value, *interval(drawn))


def _slopes(comparison: Comparison, rows: Sequence[Row], learner: str) -> Floats:
    """The exponent of all seeds, then those of the draws; NaN where undefined."""
    table = _table(comparison, rows, learner)
    num_seeds = table.shape[1]
    values = table[:, draws(num_seeds)]
    lower, upper = _middles(values)
    fewest, _ = extremes(comparison)
    is_used = (2 * np.isfinite(values).sum(axis=-1) > num_seeds) & (lower > fewest)
    y = np.log(np.where(is_used, (lower + upper) / 2, 1.0))
    x = np.log([float(label) for label in dimensions(comparison)])
    return _least_squares(np.broadcast_to(x[:, None], y.shape), y, is_used)


def _least_squares(x: Floats, y: Floats, is_used: NDArray[np.bool_]) -> Floats:
    """Slopes along the first axis over the values that are used; NaN for fewer than two."""
    count = np.maximum(is_used.sum(axis=0), 1)
    x = np.where(is_used, x - np.where(is_used, x, 0).sum(axis=0) / count, 0)
    squares = np.square(x).sum(axis=0)
    slope = (x * y).sum(axis=0) / np.where(count > 1, squares, 1)
    return np.where(count > 1, slope, math.nan)


def _middles(values: Floats) -> tuple[Floats, Floats]:
    """The two middle ones along the last axis, the same one of an odd number; NaN is left out."""
    ordered = np.sort(values, axis=-1)  # NaN comes last
    count = (~np.isnan(values)).sum(axis=-1, keepdims=True)
    lower, upper = (
        np.take_along_axis(ordered, np.maximum(place, 0), axis=-1)[..., 0]
        for place in ((count - 1) // 2, count // 2)
    )
    return lower, upper


def _table(comparison: Comparison, rows: Sequence[Row], learner: str) -> Floats:
    """The samples that a learner needs, (dimensions, seeds); NaN where not known."""
    found = needed(comparison, rows)
    table = [
        [found[learner, label, seed].samples for seed in comparison.seeds]
        for label in dimensions(comparison)
    ]
    return np.array(table, dtype=np.float64)  # None becomes NaN


def _error(row: Row, metric: str) -> float | None:
    if row.status == DIVERGED:
        return math.inf
    if row.status in STOPS:
        return math.nan
    return row.metrics.get(metric) if row.status == FINISHED else None
