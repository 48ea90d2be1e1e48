"""Whether runs support a claim: effects with intervals over seeds, held against bounds."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from bfc_lightning.experiments.bootstrap import Estimate, Floats, draws, interval
from bfc_lightning.experiments.claims.claim import TEXTS, Claim, Condition, Term
from bfc_lightning.experiments.scaling import SamplesNeeded
from bfc_lightning.experiments.spec import Experiment, Status
from bfc_lightning.experiments.tables import rows_where

HOLDS, DOES_NOT_HOLD, UNDECIDED = "holds", "does not hold", "undecided"
_MIN_SEEDS = 5


def judge_all(
    claims: Sequence[Claim], experiment: Experiment, results: pd.DataFrame, *, runs: str = ""
) -> list[dict[str, Any]]:
    """What claims.json says of claims that share an experiment; `runs` is the folder of its runs.

    A claim holds if every condition does, and does not hold if one does not.
    """
    judgments = []
    for claim in claims:
        judged = [_judge(condition, experiment, results) for condition in claim.conditions]
        verdicts = {condition["verdict"] for condition in judged}
        verdict = HOLDS if verdicts == {HOLDS} else UNDECIDED
        verdict = DOES_NOT_HOLD if DOES_NOT_HOLD in verdicts else verdict
        texts = {key: getattr(claim, key) for key in TEXTS}
        judgment = {"name": claim.name, "verdict": verdict, **texts, "runs": runs}
        judgments.append(judgment | {"conditions": judged})
    return judgments


def verdict_on(condition: Condition, estimate: Estimate) -> str:
    """Undecided if the interval contains a bound; otherwise it is wholly inside or outside."""
    if condition.at_least <= estimate.low and estimate.high <= condition.at_most:
        return HOLDS
    if estimate.high < condition.at_least or estimate.low > condition.at_most:
        return DOES_NOT_HOLD
    return UNDECIDED


def effect_of(values: Floats, numbers: Floats | None = None) -> Estimate:
    """The median of a term over seeds, or the ratio of the medians of two, with its interval.

    With numbers, it is the least-squares slope of the logarithms of the medians over theirs. The
    values are (terms, seeds); the same seeds are drawn for all terms.
    """
    medians = np.median(values[:, draws(values.shape[1])], axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        if numbers is not None:
            x = np.log(numbers) - np.log(numbers).mean()
            found = x @ np.log(medians) / (x @ x)
        else:
            found = medians[0] / medians[1] if len(medians) > 1 else medians[0]
    return Estimate(float(found[0]), *interval(found[1:]))


def _judge(condition: Condition, experiment: Experiment, results: pd.DataFrame) -> dict[str, Any]:
    found = [_values_of(term, results) for term in condition.terms]
    estimate, reason = None, next((lost for _, lost in found if lost), "")
    if len(experiment.seeds) < _MIN_SEEDS:
        reason = f"no interval from fewer than {_MIN_SEEDS} seeds."
    if not reason and condition.exponent:
        estimate = SamplesNeeded(experiment, results).exponent(**vars(condition.exponent))
        reason = f"the exponents have no difference: {estimate.reason}."
    elif not reason:
        table = [[values[seed] for seed in experiment.seeds] for values, _ in found]
        slope = condition.slope
        numbers = None if slope is None else np.array([float(label) for label in slope.labels])
        reason = "the effect is not finite: a median is 0."
        estimate = effect_of(np.array(table), numbers)
    if estimate and not all(map(math.isfinite, (estimate.value, estimate.low, estimate.high))):
        estimate = None
    bounds = {"at_least": condition.at_least, "at_most": condition.at_most}
    return {
        "what": condition.what,
        "verdict": verdict_on(condition, estimate) if estimate else UNDECIDED,
        "effect": format_effect(condition),
        "value": estimate and estimate.value,
        "interval": estimate and [estimate.low, estimate.high],
        **{name: bound for name, bound in bounds.items() if math.isfinite(bound)},
        "reason": "" if estimate else reason,
        "terms": [
            {"learner": term.learner, **term.at, "metric": term.metric}
            | {"values": {str(seed): value for seed, value in values.items()}}
            for term, (values, _) in zip(condition.terms, found, strict=True)
        ],
    }


def _values_of(term: Term, results: pd.DataFrame) -> tuple[dict[int, float], str]:
    """A term's numbers by seed, of the finished runs; which seeds have none, and why."""
    rows = rows_where(results, {"learner": term.learner, **term.at}).set_index("seed")
    is_finished = rows["status"] == Status.FINISHED
    numbers = rows.reindex(columns=[term.metric])[term.metric].where(is_finished)
    values = {int(str(seed)): float(value) for seed, value in numbers.dropna().items()}
    states = rows.loc[numbers.isna(), "status"].replace(Status.FINISHED, "has none")
    lost = ", ".join(f"seed {seed} {status}" for seed, status in states.items())
    return values, f"no {term.metric} of {term.label}: {lost}." if lost else ""


def format_effect(condition: Condition) -> str:
    """The effect that is estimated, e.g. `val/nmse: layerwise / joint`."""
    if condition.exponent is not None:
        return f"exponent of {condition.exponent.of} - exponent of {condition.exponent.minus}"
    of, to = condition.terms[0], condition.terms[-1]
    if condition.slope is not None:
        return f"{of.metric}: slope of {of.learner} over {condition.slope.axis}"
    if condition.ratio is None:
        return f"{of.metric}: {of.label}"
    if of.metric == to.metric:
        return f"{of.metric}: {of.label} / {to.label}"
    return f"{of.metric} of {of.label} / {to.metric} of {to.label}"
