"""How the samples that a learner needs grow with the input dimension: n ~ d^exponent."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from bfc_lightning.experiments.bootstrap import Estimate, Floats, draws, interval
from bfc_lightning.experiments.spec import DIVERGED, FINISHED, OOM, TIMEOUT, Experiment, Scaling

# With a larger share of draws without an exponent there is no interval.
_MAX_UNDEFINED = 0.05


def samples_needed(errors: Mapping[float, float | None], error: float) -> tuple[float, bool]:
    """The smallest n from which on an error is reached, interpolated between two values of n.

        log n = log a + (log b - log a) (log e_a - log e) / (log e_a - log e_b)

    with e the error to be reached, b the smallest n such that e_n <= e from there on, and a the
    next smaller one. The result is b itself if e_a is not finite or e_b is 0. If the error drops by
    orders of magnitude from a to b, n is known to lie between the two and hardly better: the
    formula then puts it near a. A run that was stopped at a limit has not reached the error, but it
    does not undo what fewer samples have reached.

    Args:
        errors: e_n by n; infinite for a run that diverged, NaN for one that was stopped at a limit,
            None without a result.
        error: e.

    Returns:
        n, and whether the smallest n that was tried is already enough, so that n is an upper bound.
        n is infinite if the error was not reached, and NaN if a run that decides it is missing.
    """
    above: tuple[float, float] | None = None
    for number in sorted(errors, reverse=True):
        reached = errors[number]
        if reached is None:
            return math.nan, False
        if above is None and math.isnan(reached):
            continue
        if not reached <= error:
            return (_between((number, reached), above, error) if above else math.inf), False
        above = (number, reached)
    return (above[0], True) if above else (math.inf, False)


def _between(below: tuple[float, float], above: tuple[float, float], error: float) -> float:
    (a, error_a), (b, error_b) = below, above
    if error_b == 0 or not math.isfinite(error_a):
        return b
    share = math.log(error_a / error) / math.log(error_a / error_b)
    return float(a * (b / a) ** share)


def asked(experiment: Experiment) -> tuple[Scaling, list[str], list[str]]:
    """The question about samples; the labels of dimensions and samples, in increasing order."""
    scaling = experiment.scaling
    assert scaling is not None
    axes = {axis.name: axis.values for axis in experiment.axes}
    dimensions, samples = (
        sorted(axes[name], key=float) for name in (scaling.dimension, scaling.samples)
    )
    return scaling, dimensions, samples


def needed(experiment: Experiment, results: pd.DataFrame) -> pd.DataFrame:
    """The samples needed: one row per learner, dimension and seed, as in `scaling.csv`."""
    scaling, dimensions, samples = asked(experiment)
    metric = scaling.metric or experiment.metrics[0]
    finals = results.reindex(columns=[metric])[metric].where(results["status"] == FINISHED)
    limits = {DIVERGED: math.inf, TIMEOUT: math.nan, OOM: math.nan}
    errors = {
        tuple(key): limits.get(status, None if math.isnan(value) else value)
        for value, status, *key in zip(
            finals,
            results["status"],
            *(results[name] for name in ("learner", scaling.dimension, "seed", scaling.samples)),
            strict=True,
        )
    }
    rows = []
    for key in itertools.product(experiment.learners, dimensions, experiment.seeds):
        mine = {float(n): errors.get((*key, n)) for n in samples}
        rows.append((*key, *samples_needed(mine, scaling.error)))
    columns = ["learner", scaling.dimension, "seed", "samples_needed", "is_bound"]
    return pd.DataFrame(rows, columns=columns)


def medians(experiment: Experiment, results: pd.DataFrame, learner: str) -> pd.DataFrame:
    """The samples that a learner needs, over the seeds.

    Args:
        experiment: with `scaling`.
        results: of its runs.
        learner: its name.

    Returns:
        One row per dimension. `samples` is the median over the seeds that are known, of which one
        that did not reach the error counts as infinite; it is NaN if none is known. `low` and
        `high` are the smallest and the largest, `is_bound` says that the median is an upper bound,
        `num_reached` is the number of seeds that reached the error.
    """
    table = _table(experiment, results, learner)
    lower, upper = _middles(table)
    _, dimensions, samples = asked(experiment)
    return pd.DataFrame(
        {
            "samples": (lower + upper) / 2,
            "low": np.fmin.reduce(table, axis=1),
            "high": np.fmax.reduce(table, axis=1),
            "is_bound": lower <= float(samples[0]),
            "num_reached": np.isfinite(table).sum(axis=1),
        },
        index=dimensions,
    )


def exponent(experiment: Experiment, results: pd.DataFrame, learner: str) -> Estimate:
    """How fast the samples grow that a learner needs: n ~ d^exponent.

        exponent = sum (x - mean x) (y - mean y) / sum (x - mean x)^2

    with x = log d and y the logarithm of the median of n over seeds, at the dimensions at which
    more than half of the seeds reached the error and the median is not a bound. The interval holds
    the middle 95 % of the exponents over 2,000 draws of the seeds with replacement.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.

    Args:
        experiment: with `scaling`.
        results: of its runs.
        learner: its name.

    Returns:
        The exponent. It is undefined with fewer than two such dimensions; there is no interval with
        a single seed, or if the exponents of more than 5 % of the draws are undefined.
    """
    return _estimate(_slopes(experiment, results, learner), len(experiment.seeds))


def exponent_difference(
    experiment: Experiment, results: pd.DataFrame, learner: str, other: str
) -> Estimate:
    """The exponent of one learner minus that of another.

    A seed means the same target and samples for all learners, so each draw of the seeds is used for
    both. The two exponents are those of `exponent`, each over its own dimensions: if a learner's
    median is only a bound, or the error is not reached, that dimension is left out for this learner
    and kept for the other one. A bound that is taken as a number would make an exponent too small
    if it stands at the smallest dimensions.

    Args:
        experiment: with `scaling`.
        results: of its runs.
        learner: the one.
        other: the other.

    Returns:
        The difference; NaN if one of the exponents is undefined.
    """
    slopes = [_slopes(experiment, results, name) for name in (learner, other)]
    return _estimate(slopes[0] - slopes[1], len(experiment.seeds))


def _estimate(slopes: Floats, num_seeds: int) -> Estimate:
    value, drawn = float(slopes[0]), slopes[1:]
    if math.isnan(value):
        return Estimate(value, reason="fewer than two usable dimensions")
    if num_seeds < 2:
        return Estimate(value, reason="one seed: no interval")
    undefined = float(np.isnan(drawn).mean())
    if undefined > _MAX_UNDEFINED:
        return Estimate(value, reason=f"undefined in {undefined:.0%} of draws: no interval")
    return Estimate(value, *interval(drawn))


def _slopes(experiment: Experiment, results: pd.DataFrame, learner: str) -> Floats:
    """The exponent of all seeds, then those of the draws; NaN if undefined."""
    num_seeds = len(experiment.seeds)
    values = _table(experiment, results, learner)[:, draws(num_seeds)]
    lower, upper = _middles(values)
    _, dimensions, samples = asked(experiment)
    is_used = 2 * np.isfinite(values).sum(axis=-1) > num_seeds
    is_used &= lower > float(samples[0])
    y = np.log(np.where(is_used, (lower + upper) / 2, 1.0))
    x = np.log(np.array(dimensions, dtype=np.float64))[:, None]
    with np.errstate(invalid="ignore"):  # 0 / 0 with fewer than two dimensions
        mean = np.where(is_used, x, 0).sum(axis=0) / is_used.sum(axis=0)
        x = np.where(is_used, x - mean, 0)
        return np.asarray((x * y).sum(axis=0) / np.square(x).sum(axis=0))


def _middles(values: Floats) -> tuple[Floats, Floats]:
    ordered = np.sort(values, axis=-1)  # NaN comes last
    count = (~np.isnan(values)).sum(axis=-1, keepdims=True)
    lower, upper = (
        np.take_along_axis(ordered, np.maximum(place, 0), axis=-1)[..., 0]
        for place in ((count - 1) // 2, count // 2)
    )
    return lower, upper


def _table(experiment: Experiment, results: pd.DataFrame, learner: str) -> Floats:
    """The samples that a learner needs, (dimensions, seeds); NaN if not known."""
    found = needed(experiment, results)
    values = found.loc[found["learner"] == learner, "samples_needed"].to_numpy(dtype=np.float64)
    return values.reshape(-1, len(experiment.seeds))
