"""The configs and the commands of a comparison's runs."""

from pathlib import Path
from typing import Any

from bfc_lightning.experiments.comparison import BASELINE, TUNE, TUNE_WITH, Comparison, trials
from bfc_lightning.experiments.plan import PlannedRun, Point, Trial
from bfc_lightning.experiments.settings import (
    RESUMED,
    RUNS,
    as_yaml,
    base_files,
    base_names,
    merged,
    nested,
    options_of,
    words_of,
)


def settings_files(comparison: Comparison) -> dict[str, str]:
    """The configs that the runs are made from, as a comparison's folder keeps them.

    Args:
        comparison: what is compared.

    Returns:
        Text by path in the folder: `base/*`, `learners/NAME.yaml`, `grid/AXIS=LABEL.yaml`,
        `trials/NAME/KEY=VALUE.yaml`. What was chosen comes later, as `chosen/POINT.yaml`.
    """
    files = base_files(comparison)
    for learner in comparison.learners:
        files[f"learners/{learner}.yaml"] = as_yaml(learner_settings(comparison, learner))
        for trial in trials(comparison, learner):
            files[_trial_file(learner, trial)] = as_yaml(_tried(comparison, learner, trial))
    for name, axis in comparison.grid.items():
        for label, value in axis.labeled().items():
            files[f"grid/{name}={label}.yaml"] = as_yaml(nested(axis.key, value))
    return files


def learner_settings(comparison: Comparison, learner: str) -> dict[str, Any]:
    """A learner's block without what is for its tuning."""
    block = comparison.learners[learner]
    return {key: value for key, value in block.items() if key not in (TUNE, TUNE_WITH)}


def is_baseline(comparison: Comparison, learner: str) -> bool:
    """Whether a learner is run by `bfc baseline`."""
    return BASELINE in comparison.learners[learner]


def files_of(comparison: Comparison, run: PlannedRun) -> list[str]:
    """Which files a run is made from, later ones laid over earlier ones."""
    grid = [f"grid/{axis}={label}.yaml" for axis, label in run.point.labels]
    learner = run.point.learner
    last = []
    if run.trial is not None:
        last = [_trial_file(learner, run.trial)]
    elif trials(comparison, learner):
        last = [chosen_file(run.point)]
    return [*base_names(comparison), f"learners/{learner}.yaml", *grid, *last]


def chosen_file(point: Point) -> str:
    """Where the settings that won stand."""
    return f"chosen/{point.name}.yaml"


def chosen_settings(trial: Trial) -> dict[str, Any]:
    """A trial's settings, nested."""
    settings: dict[str, Any] = {}
    for key, value in trial.chosen:
        settings = merged(settings, nested(key, value))
    return settings


def commands_of(comparison: Comparison, run: PlannedRun, folder: Path) -> list[list[str]]:
    """The commands that make a run, one after the other.

    Args:
        comparison: what is compared.
        run: one of its runs.
        folder: of the comparison.

    Returns:
        The words after `bfc`: `fit` or `baseline`, and its arguments; then `test`, where trained
        learners are tested. Tuning does without.
    """
    configs = [str(folder / name) for name in files_of(comparison, run)]
    command, more = "fit", RESUMED
    if is_baseline(comparison, run.point.learner):
        command, more = "baseline", {"run.overwrite": "true"}
    options = {**options_of(comparison, run, folder), **more}
    commands = [words_of(command, configs, options)]
    if is_tested(comparison, run):
        config = folder / RUNS / run.name / "config.yaml"
        commands.append(["test", "-c", str(config), "--ckpt_path", "best"])
    return commands


def is_tested(comparison: Comparison, run: PlannedRun) -> bool:
    """Whether a run is scored on the test samples by a command of its own."""
    trained = not is_baseline(comparison, run.point.learner)
    return comparison.test and trained and run.trial is None


def _tried(comparison: Comparison, learner: str, trial: Trial) -> dict[str, Any]:
    return merged(comparison.learners[learner].get(TUNE_WITH, {}), chosen_settings(trial))


def _trial_file(learner: str, trial: Trial) -> str:
    return f"trials/{learner}/{trial.name}.yaml"
