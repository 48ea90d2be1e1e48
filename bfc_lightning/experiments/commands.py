"""The configs and the commands of a comparison's runs."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bfc_lightning.experiments.comparison import BASELINE, TUNE, TUNE_WITH, Comparison, trials
from bfc_lightning.experiments.plan import PlannedRun, Point, Trial


def settings_files(comparison: Comparison) -> dict[str, str]:
    """The configs that the runs are made from, as a comparison's folder keeps them.

    Args:
        comparison: what is compared.

    Returns:
        Text by path in the folder: `base/*`, `learners/NAME.yaml`, `grid/AXIS=LABEL.yaml`,
        `trials/NAME/KEY=VALUE.yaml`. What was chosen comes later, as `chosen/POINT.yaml`.
    """
    files = {
        name: Path(path.absolute).read_text(encoding="utf-8")
        for name, path in zip(_base_names(comparison), comparison.base, strict=True)
    }
    for learner in comparison.learners:
        files[f"learners/{learner}.yaml"] = as_yaml(learner_settings(comparison, learner))
        for trial in trials(comparison, learner):
            files[_trial_file(learner, trial)] = as_yaml(_tried(comparison, learner, trial))
    for name, axis in comparison.grid.items():
        for label, value in axis.labelled().items():
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
    return [*_base_names(comparison), f"learners/{learner}.yaml", *grid, *last]


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
    configs = [("-c", str(folder / name)) for name in files_of(comparison, run)]
    options = {
        "seed_everything": run.seed,
        "run.root": folder / "runs",
        "run.name": run.name,
        "run.figures": "false",
        "run.threads": comparison.run.threads,
    }
    command = "fit"
    more = {"run.overwrite": "false", "resume": "auto", "trainer.enable_progress_bar": "false"}
    if is_baseline(comparison, run.point.learner):
        command, more = "baseline", {"run.overwrite": "true"}
    given = [(f"--{key}", str(value)) for key, value in {**options, **more}.items()]
    commands = [[command, *itertools.chain.from_iterable([*configs, *given])]]
    if is_tested(comparison, run):
        config = folder / "runs" / run.name / "config.yaml"
        commands.append(["test", "-c", str(config), "--ckpt_path", "best"])
    return commands


def is_tested(comparison: Comparison, run: PlannedRun) -> bool:
    """Whether a run is scored on the test samples by a command of its own."""
    trained = not is_baseline(comparison, run.point.learner)
    return comparison.test and trained and run.trial is None


def as_yaml(content: Mapping[str, Any]) -> str:
    """A mapping as YAML text, in its order; short lists in one line."""
    text: str = yaml.safe_dump(dict(content), sort_keys=False, default_flow_style=None, width=100)
    return text


def nested(key: str, value: object) -> dict[str, Any]:
    """{a: {b: value}} from the dotted key a.b."""
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings, the second laid over the first."""
    result = dict(below)
    for key, value in above.items():
        known = result.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            result[key] = merged(known, value)
        else:
            result[key] = value
    return result


def _tried(comparison: Comparison, learner: str, trial: Trial) -> dict[str, Any]:
    return merged(comparison.learners[learner].get(TUNE_WITH, {}), chosen_settings(trial))


def _trial_file(learner: str, trial: Trial) -> str:
    return f"trials/{learner}/{trial.name}.yaml"


def _base_names(comparison: Comparison) -> list[str]:
    """The bases' names in the folder; a number tells apart those of the same name."""
    names: list[str] = []
    for path in comparison.base:
        name, number = f"base/{Path(path.absolute).name}", 1
        while name in names:
            number += 1
            name = f"base/{number}-{Path(path.absolute).name}"
        names.append(name)
    return names
