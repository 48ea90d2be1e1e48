"""A claim: a sentence, where it comes from, the runs that it needs, and what must hold."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bfc_lightning.experiments.comparison import Comparison
from bfc_lightning.runs.folder import RunError

PROFILES = ("quick", "full")
_WORDS = ("sentence", "source", "shows", "does_not_show")
_KEYS = (*_WORDS, "runs", "conditions")
_BOUNDS = ("at_least", "at_most")


@dataclass(frozen=True)
class Term:
    """The final values of a metric over the seeds of a learner.

    Attributes:
        learner: its name in the comparison.
        metric: a logged key.
        at: (axis, label) where the comparison has a grid.
    """

    learner: str
    metric: str
    at: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """Learner and labels."""
        where = ", ".join(f"{axis} {label}" for axis, label in self.at)
        return f"{self.learner} ({where})" if where else self.learner


@dataclass(frozen=True)
class Value:
    """A median."""

    of: Term


@dataclass(frozen=True)
class Ratio:
    """One median over another."""

    of: Term
    to: Term


@dataclass(frozen=True)
class ExponentDifference:
    """How much faster the samples that one learner needs grow with d than those of another.

    Attributes:
        of: a learner's name.
        minus: another's.
    """

    of: str
    minus: str


Effect = Value | Ratio | ExponentDifference


@dataclass(frozen=True)
class Condition:
    """What must hold of an effect.

    Attributes:
        what: in words.
        effect: what is estimated.
        at_least: the smallest value with which the claim holds.
        at_most: the largest.
    """

    what: str
    effect: Effect
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def terms(self) -> tuple[Term, ...]:
        """What it takes from the runs; nothing where it takes exponents."""
        match self.effect:
            case Value(of):
                return (of,)
            case Ratio(of, to):
                return (of, to)
            case ExponentDifference():
                return ()


@dataclass(frozen=True)
class Claim:
    """A sentence that runs can refute.

    Attributes:
        name: of its file.
        sentence: the claim.
        source: paper and section, or ours.
        shows: what its holding would mean.
        does_not_show: what it would not.
        runs: the comparison that it is judged by, for each profile.
        conditions: all must hold.
    """

    name: str
    sentence: str
    source: str
    shows: str
    does_not_show: str
    runs: Mapping[str, Path]
    conditions: tuple[Condition, ...]


def find_claims(folder: Path) -> dict[str, Path]:
    """The claims in a folder.

    Args:
        folder: where each claim is a YAML file.

    Returns:
        Paths by name, in order.

    Raises:
        RunError: if there are none.
    """
    found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not found:
        raise RunError(f"configs must be a folder with claims (*.yaml), got {str(folder)!r}.")
    return found


def read_claim(path: Path) -> Claim:
    """Reads one claim.

    Args:
        path: of its file.

    Returns:
        The claim.

    Raises:
        RunError: if the file says less or more than a claim does.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as wrong:
        raise RunError(f"{path} must be a YAML file: {wrong}.") from wrong
    content = _mapping(content, str(path), _KEYS)
    _check_words(content, _WORDS, path)
    runs = _mapping(content["runs"], f"{path}: runs", PROFILES)
    conditions = content["conditions"]
    if not isinstance(conditions, list) or not conditions:
        raise RunError(f"{path}: conditions must be a list, got {conditions!r}.")
    read = [_condition(entry, f"{path}: conditions.{i}") for i, entry in enumerate(conditions)]
    words = {key: " ".join(content[key].split()) for key in _WORDS}
    files = {profile: path.parent / str(file) for profile, file in runs.items()}
    for file in files.values():
        if not file.is_file():
            raise RunError(f"{path}: runs must name comparisons, got {str(file)!r}.")
    return Claim(path.stem, **words, runs=files, conditions=tuple(read))


def check_claim(claim: Claim, comparison: Comparison) -> None:
    """Refuses a claim that asks its comparison for what it has not.

    Args:
        claim: any.
        comparison: that it is judged by.

    Raises:
        RunError: if a learner, an axis or a label is unknown.
    """
    for condition in claim.conditions:
        effect = condition.effect
        if isinstance(effect, ExponentDifference):
            learners = [effect.of, effect.minus]
            if comparison.scaling is None:
                raise RunError(f"claim {claim.name}: exponents need a comparison with scaling.")
        else:
            learners = [term.learner for term in condition.terms]
        for learner in learners:
            _check_known(f"claim {claim.name}: learner", learner, comparison.learners)
        for term in condition.terms:
            _check_labels(f"claim {claim.name}: at of {term.learner}", term, comparison)


def _check_labels(name: str, term: Term, comparison: Comparison) -> None:
    given = dict(term.at)
    if set(given) != set(comparison.grid):
        raise RunError(f"{name} must have {list(comparison.grid)}, got {list(given)}.")
    for axis, label in given.items():
        _check_known(f"{name}: {axis}", label, comparison.grid[axis].labeled())


def _check_known(name: str, word: str, known: Mapping[str, object]) -> None:
    if word not in known:
        raise RunError(f"{name} must be one of {', '.join(known)}, got {word!r}.")


def _condition(entry: object, where: str) -> Condition:
    kinds = {"value": _value, "ratio": _ratio, "exponent": _exponent}
    if not isinstance(entry, dict) or len(set(entry) & set(kinds)) != 1:
        raise RunError(f"{where} must have one of {', '.join(kinds)}, got {entry!r}.")
    kind = next(key for key in kinds if key in entry)
    bounds = {key: entry[key] for key in _BOUNDS if key in entry}
    content = _mapping(entry, where, ("what", kind, *bounds))
    _check_words(content, ("what",), where)
    for key, bound in bounds.items():
        is_number = isinstance(bound, int | float) and not isinstance(bound, bool)
        if not is_number or not abs(bound) < math.inf:
            raise RunError(f"{where}.{key} must be a finite number, got {bound!r}.")
    if not bounds or bounds.get("at_least", -math.inf) > bounds.get("at_most", math.inf):
        raise RunError(f"{where} must have at_least or at_most, in this order, got {bounds}.")
    effect = kinds[kind](content[kind], f"{where}.{kind}")
    return Condition(content["what"], effect, **{key: float(b) for key, b in bounds.items()})


def _value(entry: object, where: str) -> Effect:
    return Value(_term(entry, where))


def _ratio(entry: object, where: str) -> Effect:
    content = _mapping(entry, where, ("of", "to"))
    return Ratio(*(_term(content[key], f"{where}.{key}") for key in ("of", "to")))


def _exponent(entry: object, where: str) -> Effect:
    content = _mapping(entry, where, ("of", "minus"))
    _check_words(content, ("of", "minus"), where)
    return ExponentDifference(content["of"], content["minus"])


def _term(entry: object, where: str) -> Term:
    has_labels = isinstance(entry, dict) and "at" in entry
    content = _mapping(entry, where, ("learner", "metric", *(["at"] if has_labels else [])))
    _check_words(content, ("learner", "metric"), where)
    at = content.get("at", {})
    if not isinstance(at, dict):
        raise RunError(f"{where}.at must be labels by axis, got {at!r}.")
    labels = tuple({str(axis): str(label) for axis, label in at.items()}.items())
    return Term(content["learner"], content["metric"], labels)


def _mapping(content: object, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(content, dict) or set(content) != set(keys):
        got = list(content) if isinstance(content, dict) else content
        raise RunError(f"{where} must have the keys {', '.join(keys)}, got {got!r}.")
    return content


def _check_words(content: Mapping[str, object], keys: tuple[str, ...], where: object) -> None:
    for key in keys:
        if not isinstance(content[key], str) or not str(content[key]).strip():
            raise RunError(f"{where}: {key} must be words, got {content[key]!r}.")
