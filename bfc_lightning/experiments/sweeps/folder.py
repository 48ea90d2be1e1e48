"""The folder of a sweep: what it holds, and who may write to it.

sweep.yaml          everything the sweep was told, ready to be run again
base/               the configs that all runs share
commands.txt        one command for each run
runs/ logs/         the runs' folders; what they printed
together/           replicas that are being trained
stopped/            which runs were stopped at a limit
sweep.md *.csv *.png        what came out
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from bfc_lightning.experiments.limits import STOPPED
from bfc_lightning.experiments.own_folder import FolderKind, locked
from bfc_lightning.experiments.settings import (
    BASE,
    LOGS,
    RUNS,
    TOGETHER,
    base_files,
    base_names,
)
from bfc_lightning.experiments.sweeps.commands import commands_of
from bfc_lightning.experiments.sweeps.sweep import Sweep

KIND = FolderKind(
    command="sweep",
    noun="sweep",
    parts=(BASE, STOPPED, RUNS, TOGETHER, LOGS),
    files=("sweep.md", "sweep.csv", "sweep.png"),
    has_lines=True,
)


def find_sweep(sweep: Sweep, configs: Sequence[str]) -> Path:
    """The folder of a sweep, there or not.

    Args:
        sweep: what is swept.
        configs: the files it was read from.

    Returns:
        The path; nothing is made.
    """
    return KIND.find(sweep.run, configs, files=partial(base_files, sweep))


def kept_bases(sweep: Sweep, folder: Path) -> list[str]:
    """The copies of the base in the folder, which nobody edits while runs are begun."""
    return [str(folder / name) for name in base_names(sweep)]


@contextmanager
def claimed(sweep: Sweep, folder: Path) -> Iterator[None]:
    """Makes the folder, or takes an existing one, and keeps others out until the block ends.

    Args:
        sweep: what is swept, its settings compared with those of the runs that are there; with
            `run.overwrite` an existing folder is emptied.
        folder: of the sweep.

    Yields:
        While the block runs, no other process may claim it.
    """
    files = base_files(sweep)  # a base may lie in the folder that is overwritten
    commands = commands_of(sweep, folder, bases=kept_bases(sweep, folder))
    with locked(folder):
        if sweep.run.overwrite:
            KIND.empty(folder, files)
        lines = [[words] for words in commands.values()]
        KIND.write(folder, settings=asdict(sweep), files=files, commands=lines)
        yield
