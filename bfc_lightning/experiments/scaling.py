"""How the samples that a learner needs grow with the input dimension: n ~ d^exponent."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bfc_lightning.experiments.bootstrap import Estimate, Floats, draws, interval
from bfc_lightning.experiments.spec import Experiment, Status

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

    e_n is infinite for a run that diverged, NaN for one that was stopped at a limit, None without a
    result. n is infinite if the error was not reached, and NaN if a run that decides it is missing.
    Also returns whether the smallest n that was tried is already enough, so that n is a bound.
    """
    above: tuple[float, float] | None = None
    for number in sorted(errors, reverse=True):
        reached = errors[number]
        if reached is None:
            return math.nan, False
        if above is None and math.isnan(reached):
            continue
        if not reached <= error:
            if above is None:
                return math.inf, False
            b, error_b = above
            if error_b == 0 or not math.isfinite(reached):
                return b, False
            share = math.log(reached / error) / math.log(reached / error_b)
            return number * (b / number) ** share, False
        above = (number, reached)
    return (above[0], True) if above else (math.inf, False)


class SamplesNeeded:
    """The samples that each learner needs, in an experiment with `scaling`.

    `table` has a row for each learner, dimension and seed: the samples are infinite if the error is
    not reached, and NaN if that is not known. `dimensions` and `samples` are labels in increasing
    order, and `goal` is the error to be reached.
    """

    def __init__(self, experiment: Experiment, results: pd.DataFrame) -> None:
        scaling = experiment.scaling
        assert scaling is not None
        self.scaling, self.learners, self.seeds = scaling, experiment.learners, experiment.seeds
        self.dimensions = sorted(experiment.axes[scaling.dimension], key=float)
        self.samples = sorted(experiment.axes[scaling.samples], key=float)
        metric = scaling.metric or experiment.metrics[0]
        self.goal = f"{metric} <= {scaling.error:g}"
        limits = {Status.DIVERGED: math.inf, Status.TIMEOUT: math.nan, Status.OOM: math.nan}
        names = ["learner", scaling.dimension, "seed", scaling.samples, "status", metric]
        errors: dict[tuple[Any, ...], float | None] = {}
        for row in results.reindex(columns=names).itertuples(index=False, name=None):
            is_known = row[4] == Status.FINISHED and not math.isnan(row[5])
            errors[row[:4]] = row[5] if is_known else limits.get(row[4])
        rows = []
        for key in itertools.product(self.learners, self.dimensions, self.seeds):
            mine = {float(n): errors.get((*key, n)) for n in self.samples}
            rows.append((*key, *samples_needed(mine, scaling.error)))
        columns = ["learner", scaling.dimension, "seed", "samples_needed", "is_bound"]
        self.table = pd.DataFrame(rows, columns=columns)

    def medians(self, learner: str) -> pd.DataFrame:
        """The samples that a learner needs, over the seeds: one row per dimension.

        `samples` is the median over the seeds that are known, of which one that did not reach the
        error counts as infinite; it is NaN if none is known. `is_bound` says that the median is an
        upper bound, `num_reached` counts the seeds that reached the error.
        """
        values = self._values(learner)
        lower, upper = _middles(values)
        return pd.DataFrame(index=self.dimensions).assign(
            samples=(lower + upper) / 2,
            is_bound=lower <= float(self.samples[0]),
            num_reached=np.isfinite(values).sum(axis=1),
        )

    def exponent(self, of: str, minus: str | None = None) -> Estimate:
        """How fast the samples grow that a learner needs, or the difference of two learners.

            exponent = sum (x - mean x) (y - mean y) / sum (x - mean x)^2

        with x = log d and y the logarithm of the median of n over seeds, at the dimensions at which
        more than half of the seeds reached the error and the median is not a bound. The interval
        holds the middle 95 % of the exponents over 2,000 draws of the seeds with replacement.

        Each draw is used for both terms of a difference, but each exponent has its own dimensions,
        since a bound that is taken as a number would make it too small.

        Source: see `bootstrap.draws`.
        """
        slopes = self._slopes(of)
        if minus is not None:
            slopes = slopes - self._slopes(minus)
        value, drawn = float(slopes[0]), slopes[1:]
        if math.isnan(value):
            return Estimate(value, reason="fewer than two usable dimensions")
        if len(self.seeds) < 2:
            return Estimate(value, reason="one seed: no interval")
        undefined = float(np.isnan(drawn).mean())
        if undefined > _MAX_UNDEFINED:
            return Estimate(value, reason=f"undefined in {undefined:.0%} of draws: no interval")
        return Estimate(value, *interval(drawn))

    def _slopes(self, learner: str) -> Floats:
        """The exponent of all seeds, then those of the draws; NaN if undefined."""
        num_seeds = len(self.seeds)
        values = self._values(learner)[:, draws(num_seeds)]
        lower, upper = _middles(values)
        is_used = 2 * np.isfinite(values).sum(axis=-1) > num_seeds
        is_used &= lower > float(self.samples[0])
        y = np.log(np.where(is_used, (lower + upper) / 2, 1.0))
        x = np.log(np.array(self.dimensions, dtype=np.float64))[:, None]
        with np.errstate(invalid="ignore"):  # 0 / 0 with fewer than two dimensions
            mean = np.where(is_used, x, 0).sum(axis=0) / is_used.sum(axis=0)
            x = np.where(is_used, x - mean, 0)
            return np.asarray((x * y).sum(axis=0) / np.square(x).sum(axis=0))

    def _values(self, learner: str) -> Floats:
        """The samples of a learner, (dimensions, seeds)."""
        found = self.table.loc[self.table["learner"] == learner, "samples_needed"]
        return found.to_numpy(dtype=np.float64).reshape(-1, len(self.seeds))

    def to_csv(self) -> str:
        """`scaling.csv`."""
        is_bound = self.table["is_bound"].map({True: "yes", False: "no"})
        table = self.table.assign(is_bound=is_bound)
        return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")

    def summary(self) -> pd.DataFrame:
        """Exponent and medians of every learner, as text."""
        lines = []
        for learner in self.learners:
            line = {"learner": learner, "exponent": str(self.exponent(learner))}
            for label, row in self.medians(learner).iterrows():
                text = _as_text(row, float(self.samples[-1]), len(self.seeds))
                line[f"{self.scaling.dimension} = {label}"] = text
            lines.append(line)
        return pd.DataFrame(lines)

    def about(self) -> str:
        """What the numbers of `summary` are."""
        return (
            f"Samples needed for {self.goal}: medians over the seeds, followed by the number of "
            "seeds that reached it if some did not. > means not reached with the most samples, <= "
            "means that the fewest samples were enough. The exponent is that of "
            f"{self.scaling.samples} ~ {self.scaling.dimension}^exponent with its 95 % bootstrap "
            "interval over seeds, from the numbers without > and <=. scaling.csv has one row per "
            "seed."
        )


def _middles(values: Floats) -> tuple[Floats, Floats]:
    ordered = np.sort(values, axis=-1)  # NaN comes last
    count = (~np.isnan(values)).sum(axis=-1, keepdims=True)
    places = np.concatenate([(count - 1) // 2, count // 2], axis=-1)
    middles = np.take_along_axis(ordered, places, axis=-1)  # NaN, the last one, without a count
    return middles[..., 0], middles[..., 1]


def _as_text(row: "pd.Series[Any]", most: float, num_seeds: int) -> str:
    if math.isnan(row["samples"]):
        return "-"
    text = f"> {most:,.0f}" if math.isinf(row["samples"]) else f"{row['samples']:,.0f}"
    text = f"<= {text}" if row["is_bound"] and math.isfinite(row["samples"]) else text
    reached = int(row["num_reached"])
    return text if reached in (0, num_seeds) else f"{text} ({reached} of {num_seeds})"
