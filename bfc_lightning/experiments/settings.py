"""The settings of an experiment's runs, as text, as nested mappings, and as words of a command."""

import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bfc_lightning.experiments.plan import Experiment, PlannedRun

RUNS = "runs"
LOGS = "logs"
TOGETHER = "together"
TRIALS = "trials"
BASE = "base"
RESUMED = {"run.overwrite": "false", "resume": "auto", "trainer.enable_progress_bar": "false"}
"""What `bfc fit` is told, so that the same command begins a run and goes on with it."""


def base_names(experiment: Experiment) -> list[str]:
    """Where an experiment's folder keeps the configs that all runs share.

    Args:
        experiment: what is run.

    Returns:
        Paths in the folder, in their order; a number tells apart those of the same name.
    """
    names: list[str] = []
    for path in experiment.base:
        file = Path(path.absolute).name
        name, number = f"{BASE}/{file}", 1
        while name in names:
            number += 1
            name = f"{BASE}/{number}-{file}"
        names.append(name)
    return names


def base_files(experiment: Experiment) -> dict[str, str]:
    """The configs that all runs share.

    Args:
        experiment: what is run.

    Returns:
        Text by path in the folder.
    """
    texts = [Path(path.absolute).read_text(encoding="utf-8") for path in experiment.base]
    return dict(zip(base_names(experiment), texts, strict=True))


def options_of(experiment: Experiment, run: PlannedRun, folder: Path) -> dict[str, str]:
    """What every run is told of its seed, its folder and the machine.

    Args:
        experiment: what is run.
        run: one of its runs.
        folder: of the experiment.

    Returns:
        Values by dotted key.
    """
    return {
        "seed_everything": str(run.seed),
        "run.root": str(folder / RUNS),
        "run.name": run.name,
        "run.figures": "false",
        "run.threads": str(experiment.run.threads),
    }


def words_of(command: str, configs: Sequence[str], options: Mapping[str, str]) -> list[str]:
    """A command of `bfc`.

    Args:
        command: its name.
        configs: laid over each other.
        options: values by dotted key.

    Returns:
        The words after `bfc`.
    """
    pairs = [("-c", config) for config in configs]
    pairs += [(f"--{key}", value) for key, value in options.items()]
    return [command, *itertools.chain.from_iterable(pairs)]


def command_line(commands: Sequence[Sequence[str]]) -> str:
    """The commands of a run as one line for a shell.

    Args:
        commands: the words after `bfc` of each.

    Returns:
        The line, with `&&` between them.
    """
    return " && ".join(f"bfc {shlex.join(words)}" for words in commands)


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
