"""`claims.json`, and what is made from it: `claims.md`."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from bfc_lightning.experiments.claims.claim import Condition, ExponentDifference, Ratio
from bfc_lightning.experiments.claims.verdicts import Finding, Judgment
from bfc_lightning.experiments.results import markdown_table

_INTRODUCTION = """\
Each claim is a sentence with the runs that could show it to be wrong. An effect is a median over
seeds, a ratio of medians or a difference of exponents, with a 95 % bootstrap interval over the
seeds. A claim *holds* if the intervals of all its conditions lie within the bounds, *does not hold*
if one lies wholly outside, and is *undecided* otherwise.

Theory proves lower bounds for every kernel method, for every fixed feature map and for certain
two-layer polynomial networks, each on targets chosen for the proof. For layerwise training and for
kernels applied in sequence there is no bound: that they fail is a measurement, on these targets,
with these settings."""


def as_json(judgment: Judgment, *, runs: str) -> dict[str, Any]:
    """What `claims.json` says of one claim.

    Args:
        judgment: of the claim.
        runs: the folder of its runs, relative to the file.

    Returns:
        Plain data: the same for the same runs.
    """
    claim = judgment.claim
    return {
        "name": claim.name,
        "verdict": judgment.verdict,
        "sentence": claim.sentence,
        "source": claim.source,
        "shows": claim.shows,
        "does_not_show": claim.does_not_show,
        "runs": runs,
        "conditions": [_finding_as_json(finding) for finding in judgment.findings],
    }


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    condition, estimate = finding.condition, finding.estimate
    bounds = {"at_least": condition.at_least, "at_most": condition.at_most}
    return {
        "what": condition.what,
        "verdict": finding.verdict,
        "effect": effect_in_words(condition),
        "value": None if estimate is None else estimate.value,
        "interval": None if estimate is None else [estimate.low, estimate.high],
        **{name: bound for name, bound in bounds.items() if math.isfinite(bound)},
        "reason": finding.reason,
        "terms": [
            {
                "learner": term.learner,
                **dict(term.at),
                "metric": term.metric,
                "values": {str(seed): value for seed, value in values.items()},
            }
            for term, values in zip(condition.terms, finding.values, strict=True)
        ],
    }


def effect_in_words(condition: Condition) -> str:
    """What is estimated, e.g. `val/nmse: layerwise / joint`.

    Args:
        condition: any.

    Returns:
        The words.
    """
    effect = condition.effect
    if isinstance(effect, ExponentDifference):
        return f"exponent of {effect.of} - exponent of {effect.minus}"
    if not isinstance(effect, Ratio):
        return f"{effect.of.metric}: {effect.of.label}"
    of, to = effect.of, effect.to
    if of.metric == to.metric:
        return f"{of.metric}: {of.label} / {to.label}"
    if (of.learner, of.at) == (to.learner, to.at):
        return f"{of.label}: {of.metric} / {to.metric}"
    return f"{of.metric} of {of.label} / {to.metric} of {to.label}"


def number(value: float) -> str:
    """A number for people: three figures, powers of ten where it is very small."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.3g}"


def interval_in_words(condition: Mapping[str, Any]) -> str:
    """Effect and interval of a condition of `claims.json`, or why there is none."""
    if condition["value"] is None:
        return str(condition["reason"])
    low, high = condition["interval"]
    return f"{number(condition['value'])} [{number(low)}, {number(high)}]"


def bound_in_words(condition: Mapping[str, Any]) -> str:
    """What a condition of `claims.json` asks for."""
    signs = {"at_least": "≥", "at_most": "≤"}
    return ", ".join(f"{signs[key]} {number(condition[key])}" for key in signs if key in condition)


def tally(claims: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many claims hold, do not hold, and are undecided.

    Args:
        claims: of `claims.json`.

    Returns:
        Counts by verdict.
    """
    counts = {"holds": 0, "does not hold": 0, "undecided": 0}
    for claim in claims:
        counts[claim["verdict"]] += 1
    return counts


def as_markdown(content: Mapping[str, Any]) -> str:
    """`claims.md`: every claim with its verdict, its numbers, what it shows and what it doesn't.

    Args:
        content: of `claims.json`.

    Returns:
        The text.
    """
    claims = content["claims"]
    parts = [
        "# Claims",
        f"Made by `{content['command']}` from its claims.json, not by hand.",
        _INTRODUCTION,
        markdown_table(
            ["claim", "verdict"],
            [[f"[{claim['sentence']}](#{claim['name']})", claim["verdict"]] for claim in claims],
        ),
        *(_section(claim) for claim in claims),
    ]
    return "\n\n".join(parts) + "\n"


def _section(claim: Mapping[str, Any]) -> str:
    lines = [
        [
            *(entry["what"], entry["effect"], bound_in_words(entry)),
            *(interval_in_words(entry), entry["verdict"]),
        ]
        for entry in claim["conditions"]
    ]
    parts = [
        f"## {claim['name']}",
        f"**{claim['sentence']}** {claim['verdict'].capitalize()}.",
        f"Source: {claim['source']}",
        markdown_table(["condition", "effect", "asked", "measured", "verdict"], lines),
        f"What it shows: {claim['shows']}",
        f"What it does not show: {claim['does_not_show']}",
    ]
    return "\n\n".join(parts)
