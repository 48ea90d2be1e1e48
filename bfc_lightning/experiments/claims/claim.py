"""A claim: a sentence, its source, the runs that it needs, and what must hold."""

import math
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jsonargparse import ArgumentParser

from bfc_lightning.experiments.spec import Experiment

PROFILES = {"quick", "full"}
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
class Ratio:
    """Two terms, whose medians are divided."""

    of: Term
    to: Term


@dataclass(frozen=True)
class Exponent:
    """Two learners, whose exponents are subtracted."""

    of: str
    minus: str


@dataclass(frozen=True)
class Slope:
    """A term at several numbers of an axis; the slope of its logarithm over theirs."""

    learner: str
    metric: str
    axis: str
    labels: list[str] = field(hash=False)


@dataclass(frozen=True)
class Condition:
    """Bounds of an effect: the median of a term, or one of the others."""

    what: str
    value: Term | None = None
    ratio: Ratio | None = None
    exponent: Exponent | None = None
    slope: Slope | None = None
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def terms(self) -> list[Term]:
        """Those of a value, ratio or slope, of which a slope has one for each number."""
        if self.slope is not None:
            learner, metric, axis = self.slope.learner, self.slope.metric, self.slope.axis
            return [Term(learner, metric, {axis: label}) for label in self.slope.labels]
        if self.ratio is not None:
            return [self.ratio.of, self.ratio.to]
        return [] if self.value is None else [self.value]


@dataclass(frozen=True)
class Claim:
    """A sentence that runs can refute; `runs` is the file of an experiment for each profile."""

    name: str
    sentence: str
    source: str
    shows: str
    does_not_show: str
    runs: dict[str, Path]
    conditions: list  # type: ignore[type-arg]  # each is parsed by itself


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
        given = _parsed(Claim, content)
        for key in TEXTS:
            given[key] = " ".join(given[key].split())
        files = given["runs"] = {name: path.parent / file for name, file in given["runs"].items()}
        if files.keys() != PROFILES or not all(map(Path.is_file, files.values())):
            raise ValueError(f"runs must name a file for quick and full, got {content['runs']}.")
        if not given["conditions"]:
            raise ValueError("conditions must not be empty.")
        entries = enumerate(given["conditions"])
        given["conditions"] = [_condition(entry, f"conditions.{i}") for i, entry in entries]
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error
    return Claim(path.stem, **given)


def _parsed(kind: type, content: object, where: str = "") -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{where}expected a mapping of keys to values, got {content!r}.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, skip={"name"})
    try:
        return dict(vars(parser.instantiate(parser.parse_object(content))))
    except ArgumentError as error:
        raise ValueError(f"{where}{error}") from error


def _condition(entry: object, where: str) -> Condition:
    condition = Condition(**_parsed(Condition, entry, f"{where}: "))
    kinds = [condition.value, condition.ratio, condition.exponent, condition.slope]
    if kinds.count(None) != len(kinds) - 1:
        raise ValueError(f"{where} must have one of value, ratio, exponent, slope, got {entry!r}.")
    labels = condition.slope.labels if condition.slope else ["1", "2"]
    if len(set(labels)) < 2 or not (pd.to_numeric(pd.Series(labels), errors="coerce") > 0).all():
        raise ValueError(f"{where}: labels must be at least two positive numbers, got {labels}.")
    low, high = condition.at_least, condition.at_most
    if not low <= high or not (math.isfinite(low) or math.isfinite(high)):
        raise ValueError(f"{where} must have finite at_least <= at_most, got {low} and {high}.")
    return condition


def check_claim(claim: Claim, experiment: Experiment) -> None:
    """Checks that an experiment has what a claim asks for."""
    known: Mapping[str, Mapping[str, object]] = {"learner": experiment.learners, **experiment.axes}
    for condition in claim.conditions:
        if condition.exponent is not None and experiment.scaling is None:
            raise ValueError(f"claim {claim.name}: exponents need an experiment with scaling.")
        learners = vars(condition.exponent).values() if condition.exponent is not None else ()
        asked = [("learner", learner) for learner in learners]
        for term in condition.terms:
            asked += [("learner", term.learner), *term.at.items()]
            if term.at.keys() != experiment.axes.keys():
                where, axes = f"claim {claim.name}: at of {term.learner}", list(experiment.axes)
                raise ValueError(f"{where} must have {axes}, got {list(term.at)}.")
        for key, label in asked:
            if label not in known[key]:
                where, names = f"claim {claim.name}: {key}", ", ".join(known[key])
                raise ValueError(f"{where} must be one of {names}, got {label!r}.")
