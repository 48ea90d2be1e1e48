"""The settings of a comparison's learners, parsed before anything is run."""

import os
import tempfile
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bfc_lightning.cli.complaints import one_line
from bfc_lightning.cli.fit_parser import FitParser
from bfc_lightning.experiments.commands import (
    files_of,
    is_baseline,
    learner_settings,
    settings_files,
)
from bfc_lightning.experiments.comparison import (
    BASELINE,
    TUNE,
    TUNE_WITH,
    Comparison,
    points,
    trials,
)
from bfc_lightning.experiments.plan import PlannedRun
from bfc_lightning.runs.folder import RunError


def check_learners(comparison: Comparison) -> None:
    """Parses the settings of every learner, with every value of every axis of the grid.

    A combination that is wrong though each of its values is right is left to its runs to refuse.

    Args:
        comparison: what is compared.

    Raises:
        RunError: if they are none of `bfc fit`.
    """
    _check_first_level(comparison)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, text in settings_files(comparison).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        for run in _kinds_of_runs(comparison):
            # what is chosen is one of the trials
            names = [name for name in files_of(comparison, run) if (folder / name).is_file()]
            words = [word for name in names for word in ("-c", str(folder / name))]
            has_baseline = is_baseline(comparison, run.point.learner)
            try:
                FitParser(has_baseline=has_baseline).check(words)
            except (ArgumentError, RunError) as mistake:
                text = one_line(str(mistake)).replace(f"{folder}{os.sep}", "")
                raise RunError(f"learner {_in_words(run)}: {text}") from mistake


def _kinds_of_runs(comparison: Comparison) -> Iterator[PlannedRun]:
    """A run for every value of every axis, and each trial of a learner once."""
    firsts = {(name, next(iter(axis.labeled()))) for name, axis in comparison.grid.items()}
    seen = set()
    for point in points(comparison):
        if len(set(point.labels) - firsts) < 2:
            yield PlannedRun(point, seed=0)
        if point.learner not in seen:
            yield from (PlannedRun(point, 0, trial) for trial in trials(comparison, point.learner))
        seen.add(point.learner)


def _check_first_level(comparison: Comparison) -> None:
    """Refuses groups that `bfc fit` does not have, or that are not for a learner to change.

    Raises:
        RunError: if there is one; it lists the known ones.
    """
    known = FitParser().groups()
    given = [
        (f"learners.{name}", set(learner_settings(comparison, name)) - {BASELINE})
        for name in comparison.learners
    ]
    for name, block in comparison.learners.items():
        tuned = {str(key).partition(".")[0] for key in block.get(TUNE, {})}
        given.append((f"learners.{name}.tune", _without_baseline(tuned, block)))
        given.append((
            f"learners.{name}.tune_with",
            _without_baseline(set(block.get(TUNE_WITH, {})), block),
        ))
    given += [
        (f"grid.{name}.key", {axis.key.split(".")[0]}) for name, axis in comparison.grid.items()
    ]
    for name, keys in given:
        strange = sorted(str(key) for key in keys if key not in known)
        if strange:
            raise RunError(f"{name} must begin with one of {', '.join(known)}, got {strange[0]}.")


def _without_baseline(groups: set[str], block: Mapping[str, Any]) -> set[str]:
    return groups - {BASELINE} if BASELINE in block else groups


def _in_words(run: PlannedRun) -> str:
    where = [f"{axis} = {label}" for axis, label in run.point.labels]
    return ", ".join([run.point.learner, *where, *([run.trial.name] if run.trial else [])])
