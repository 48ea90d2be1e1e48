"""The commands of a sweep's runs, each of which needs nothing but the base."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bfc_lightning.experiments.plan import PlannedRun
from bfc_lightning.experiments.settings import RESUMED, command_line, options_of, words_of
from bfc_lightning.experiments.sweeps.sweep import Sweep, as_option, sweep_points, sweep_runs


def point_words(settings: Mapping[str, Any], bases: Sequence[str]) -> list[str]:
    """The command `fit` at a point, without seed and folder.

    Args:
        settings: of the point, by dotted key.
        bases: the configs that all runs share.

    Returns:
        The words after `bfc`.
    """
    return words_of("fit", bases, {key: as_option(value) for key, value in settings.items()})


def commands_of(sweep: Sweep, folder: Path, *, bases: Sequence[str]) -> dict[PlannedRun, list[str]]:
    """The command of every run.

    Args:
        sweep: what is swept.
        folder: of the sweep; it need not exist.
        bases: the configs that all runs share.

    Returns:
        The words after `bfc`, in the order of the runs.
    """
    points = sweep_points(sweep)
    return {
        run: _run_words(sweep, run, folder, settings=points[run.point], bases=bases)
        for run in sweep_runs(sweep)
    }


def command_lines(sweep: Sweep, folder: Path) -> list[str]:
    """One line for each run, to be run from the working directory in any order, on any machine.

    Args:
        sweep: what is swept.
        folder: of the sweep; it need not exist.

    Returns:
        The lines, in the order of the runs.
    """
    bases = [_from_here(Path(path.absolute)) for path in sweep.base]
    return [command_line([words]) for words in commands_of(sweep, folder, bases=bases).values()]


def _run_words(
    sweep: Sweep,
    run: PlannedRun,
    folder: Path,
    *,
    settings: Mapping[str, Any],
    bases: Sequence[str],
) -> list[str]:
    """The command that begins a run, or goes on with it."""
    options = {**options_of(sweep, run, folder), **RESUMED}
    return [*point_words(settings, bases), *words_of("fit", [], options)[1:]]


def _from_here(path: Path) -> str:
    """Relative to the working directory where the file lies in it."""
    here = Path.cwd()
    return os.path.relpath(path, here) if path.is_relative_to(here) else str(path)
