"""What runs say of a claim: effects with intervals over seeds, and whether they suffice."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bfc_lightning.experiments.bootstrap import Estimate, Floats, draws, interval
from bfc_lightning.experiments.claims.claim import (
    Claim,
    Condition,
    ExponentDifference,
    Ratio,
    Term,
)
from bfc_lightning.experiments.comparison import Comparison
from bfc_lightning.experiments.plan import Point
from bfc_lightning.experiments.results import FINISHED, Row, of_point
from bfc_lightning.experiments.scaling import exponent_difference
from bfc_lightning.runs.folder import RunError

HOLDS, DOES_NOT_HOLD, UNDECIDED = "holds", "does not hold", "undecided"

_FEWEST_SEEDS = 5


@dataclass(frozen=True)
class Finding:
    """What became of one condition.

    Attributes:
        condition: which.
        verdict: `holds`, `does not hold` or `undecided`.
        estimate: the effect and its 95 % interval; None where there is none.
        reason: why there is none.
        values: of each term, by seed.
    """

    condition: Condition
    verdict: str
    estimate: Estimate | None
    reason: str
    values: tuple[dict[int, float], ...]


@dataclass(frozen=True)
class Judgment:
    """What became of a claim.

    Attributes:
        claim: which.
        verdict: `holds` where every condition does, `does not hold` where one does not, else
            `undecided`.
        findings: one for each condition.
    """

    claim: Claim
    verdict: str
    findings: tuple[Finding, ...]


def judge(claim: Claim, comparison: Comparison, rows: Sequence[Row]) -> Judgment:
    """Holds a claim against its runs.

    Args:
        claim: any.
        comparison: that it is judged by.
        rows: of all its runs.

    Returns:
        The judgment; the same for the same rows.
    """
    findings = tuple(_find(condition, comparison, rows) for condition in claim.conditions)
    verdicts = [finding.verdict for finding in findings]
    verdict = HOLDS if all(word == HOLDS for word in verdicts) else UNDECIDED
    return Judgment(claim, DOES_NOT_HOLD if DOES_NOT_HOLD in verdicts else verdict, findings)


def verdict_on(condition: Condition, estimate: Estimate) -> str:
    """Where an interval lies: wholly within a condition's bounds, wholly outside, or across one.

    Source: ours.

    Args:
        condition: has the bounds.
        estimate: has the interval.

    Returns:
        `holds`, `does not hold` or `undecided`.
    """
    if condition.at_least <= estimate.low and estimate.high <= condition.at_most:
        return HOLDS
    if estimate.high < condition.at_least or estimate.low > condition.at_most:
        return DOES_NOT_HOLD
    return UNDECIDED


def effect_of(
    statistic: Callable[[Floats], Floats],
    values: Floats,
) -> Estimate:
    """A statistic of medians over seeds, with the percentile interval over seeds drawn again.

    Source: see `bootstrap.draws`; the same seeds are drawn for every term.

    Args:
        statistic: from medians, (terms, draws), to one number a draw.
        values: of every term and seed, (terms, seeds).

    Returns:
        The statistic of the medians themselves, and its 95 % interval.
    """
    found = statistic(np.median(values[:, draws(values.shape[1])], axis=2))
    return Estimate(float(found[0]), *interval(found[1:]))


def _find(condition: Condition, comparison: Comparison, rows: Sequence[Row]) -> Finding:
    values = tuple(values_of(term, comparison, rows) for term in condition.terms)
    try:
        estimate = _estimate(condition, comparison, rows, values)
    except RunError as lacking:
        return Finding(condition, UNDECIDED, None, str(lacking), values)
    return Finding(condition, verdict_on(condition, estimate), estimate, "", values)


def _estimate(
    condition: Condition,
    comparison: Comparison,
    rows: Sequence[Row],
    values: Sequence[dict[int, float]],
) -> Estimate:
    """The effect.

    Raises:
        RunError: if a run gave no number, or there is no interval.
    """
    effect = condition.effect
    if len(comparison.seeds) < _FEWEST_SEEDS:
        raise RunError(f"no interval from fewer than {_FEWEST_SEEDS} seeds.")
    if isinstance(effect, ExponentDifference):
        estimate = exponent_difference(comparison, rows, effect.of, effect.minus)
        lacking = f"the exponents have no difference: {estimate.reason}."
    else:
        estimate = effect_of(*_statistic(condition, comparison, rows, values))
        lacking = "the effect is not finite: a median is 0."
    if not all(map(math.isfinite, (estimate.value, estimate.low, estimate.high))):
        raise RunError(lacking)
    return estimate


def _statistic(
    condition: Condition,
    comparison: Comparison,
    rows: Sequence[Row],
    values: Sequence[dict[int, float]],
) -> tuple[Callable[[Floats], Floats], Floats]:
    """What is taken of the medians, and the values.

    Raises:
        RunError: if a run gave none.
    """
    for term, found in zip(condition.terms, values, strict=True):
        if len(found) < len(comparison.seeds):
            raise RunError(_what_is_lacking(term, comparison, rows, found))
    seeds = [[found[seed] for seed in comparison.seeds] for found in values]
    return _quotient if isinstance(condition.effect, Ratio) else _first, np.array(seeds)


def values_of(term: Term, comparison: Comparison, rows: Sequence[Row]) -> dict[int, float]:
    """A term's numbers by seed, of the runs that finished and have one.

    Args:
        term: which.
        comparison: whose runs they are.
        rows: of all of them.

    Returns:
        Values by seed.
    """
    finished = of_point(rows, _point(term, comparison), FINISHED)
    return {
        row.run.seed: row.metrics[term.metric] for row in finished if term.metric in row.metrics
    }


def _point(term: Term, comparison: Comparison) -> Point:
    labels = dict(term.at)
    return Point(term.learner, tuple((axis, labels[axis]) for axis in comparison.grid))


def _what_is_lacking(
    term: Term, comparison: Comparison, rows: Sequence[Row], found: dict[int, float]
) -> str:
    mine = of_point(rows, _point(term, comparison))
    lacking = [row for row in mine if row.run.seed not in found]
    told = [
        f"seed {row.run.seed} " + ("has none" if row.status == FINISHED else row.status)
        for row in lacking
    ]
    return f"no {term.metric} of {term.label}: {', '.join(told).replace('_', ' ')}."


def _first(medians: Floats) -> Floats:
    first: Floats = medians[0]
    return first


def _quotient(medians: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: Floats = medians[0] / medians[1]
    return ratios
