"""What a worker is told: one command after another, with signs between them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from bfc_lightning.experiments.grouping import Commands, Group
from bfc_lightning.experiments.settings import RUNS

AND = "&&"
ALSO = ";"
SPLIT = "split"
"""What a worker is told, to make a run folder of each replica: run folder, root, names."""


def group_words(group: Group, commands: Commands, *, folder: Path, beside: Path) -> tuple[str, ...]:
    """What a worker is told, to train a group and leave the folders that its runs would have left.

    Args:
        group: the runs.
        commands: that make a run; the first one is its `fit`.
        folder: of the experiment.
        beside: the folder for the replicas while they are trained.

    Returns:
        Words; commands between `;` are done whatever became of those before them, those after `&&`
        only where all before succeeded.
    """
    replicas = {
        "run.root": str(beside),
        "run.name": group.name,
        "model.num_replicas": str(len(group.runs)),
        "replica_overrides": json.dumps(group.overrides),
    }
    fit, *_ = commands(group.runs[0])
    fit = [*fit, *(word for key, value in replicas.items() for word in (f"--{key}", value))]
    names = [run.name for run in group.runs]
    split = [SPLIT, str(beside / group.name), str(folder / RUNS), *names]
    rest = [command for run in group.runs for command in commands(run)[1:]]
    words = [*fit, AND, *split]
    if rest:
        words += [AND, *joined(rest, ALSO)]
    return tuple(words)


def joined(commands: Iterable[Sequence[str]], sign: str = AND) -> tuple[str, ...]:
    """The words of several commands in one row, with a sign between them."""
    words = [word for command in commands for word in (sign, *command)]
    return tuple(words[1:])


def parted(words: Sequence[str], sign: str) -> list[list[str]]:
    """The words between one sign and the next."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == sign:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts
