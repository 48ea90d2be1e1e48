"""A claim: a sentence, its source, the runs that it needs, and what must hold."""

import math
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, Namespace

from bfc_lightning.experiments.spec import Experiment

PROFILES = ("quick", "full")
VALUE, RATIO, EXPONENT = "value", "ratio", "exponent"
_TERMS = {
    VALUE: ("value",),
    RATIO: ("ratio.of", "ratio.to"),
    EXPONENT: ("exponent.of", "exponent.minus"),
}
TEXTS = ("sentence", "source", "shows", "does_not_show")


@dataclass(frozen=True)
class Term:
    """The final values of a metric over the seeds of a learner, at labels of the grid's axes."""

    learner: str
    metric: str
    at: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def label(self) -> str:
        """Learner and labels."""
        where = ", ".join(f"{axis} {label}" for axis, label in self.at.items())
        return f"{self.learner} ({where})" if where else self.learner


@dataclass(frozen=True)
class Condition:
    """Bounds of an effect: the median of a term, or the ratio of the medians of two.

    For the effect `exponent`, the difference of two exponents, terms have no metric.
    """

    what: str
    effect: str
    terms: tuple[Term, ...]
    at_least: float = -math.inf
    at_most: float = math.inf


@dataclass(frozen=True)
class Claim:
    """A sentence that runs can refute; `runs` is the file of an experiment for each profile."""

    name: str
    sentence: str
    source: str
    shows: str
    does_not_show: str
    runs: Mapping[str, Path]
    conditions: tuple[Condition, ...]


def find_claims(folder: Path) -> dict[str, Path]:
    """The files of the claims in a folder, by name."""
    found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if not found:
        raise ValueError(f"configs must be a folder with claims (*.yaml), got {str(folder)!r}.")
    return found


def read_claim(path: Path) -> Claim:
    """Reads the file of a claim."""
    try:  # the base loader leaves labels as they are written, e.g. 0.50
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        parser = ArgumentParser(exit_on_error=False)
        for key in (*TEXTS, *(f"runs.{profile}" for profile in PROFILES)):
            parser.add_argument(f"--{key}", type=str, required=True)
        parser.add_argument("--conditions", type=list, required=True)
        given = _parsed(parser, content)
        texts = {key: " ".join(given[key].split()) for key in TEXTS}
        runs = {profile: path.parent / given.runs[profile] for profile in PROFILES}
        if missing := [str(file) for file in runs.values() if not file.is_file()]:
            raise ValueError(f"runs must name files, got {missing[0]!r}.")
        if not given.conditions:
            raise ValueError("conditions must not be empty.")
        entries = enumerate(given.conditions)
        conditions = tuple(_condition(entry, f"conditions.{i}") for i, entry in entries)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    return Claim(path.stem, **texts, runs=runs, conditions=conditions)


def _parsed(parser: ArgumentParser, content: object, where: str = "") -> Namespace:
    if not isinstance(content, dict):
        raise ValueError(f"{where}expected a mapping of keys to values, got {content!r}.")
    try:
        found: Namespace = parser.instantiate(parser.parse_object(content))
    except ArgumentError as error:
        raise ValueError(f"{where}{error}") from error
    return found


def _condition(entry: object, where: str) -> Condition:
    effects = [key for key in _TERMS if isinstance(entry, dict) and key in entry]
    if len(effects) != 1:
        raise ValueError(f"{where} must have one of {', '.join(_TERMS)}, got {entry!r}.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--what", type=str, required=True)
    parser.add_argument("--at_least", type=float, default=-math.inf)
    parser.add_argument("--at_most", type=float, default=math.inf)
    for key in _TERMS[effects[0]]:
        if effects[0] == EXPONENT:
            parser.add_argument(f"--{key}", type=str, required=True)
        else:
            parser.add_class_arguments(Term, key)
    given = _parsed(parser, entry, f"{where}: ")
    low, high = given.at_least, given.at_most
    if not low <= high or not (math.isfinite(low) or math.isfinite(high)):
        raise ValueError(f"{where} must have finite at_least <= at_most, got {low} and {high}.")
    found = [given[key] for key in _TERMS[effects[0]]]
    terms = tuple(Term(term, "") if effects[0] == EXPONENT else term for term in found)
    return Condition(given.what, effects[0], terms, low, high)


def check_claim(claim: Claim, experiment: Experiment) -> None:
    """Checks that an experiment has what a claim asks for."""
    known = {"learner": experiment.learners, **{a.name: a.values for a in experiment.axes}}
    for condition in claim.conditions:
        is_exponent = condition.effect == EXPONENT
        if is_exponent and experiment.scaling is None:
            raise ValueError(f"claim {claim.name}: exponents need an experiment with scaling.")
        for term in condition.terms:
            given = {"learner": term.learner, **term.at}
            where = f"claim {claim.name}: at of {term.learner}"
            if not is_exponent and given.keys() != known.keys():
                raise ValueError(f"{where} must have {list(known)[1:]}, got {list(term.at)}.")
            for key, label in given.items():
                if label not in known[key]:
                    names = ", ".join(known[key])
                    raise ValueError(f"{where}: {key} must be one of {names}, got {label!r}.")
