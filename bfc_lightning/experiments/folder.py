"""The folder of a comparison: what it holds, who may write to it, and when it may be gone on with.

compare.yaml        everything the comparison was told, ready to be run again
base/ learners/ grid/       the configs of the runs
trials/ chosen/     what is tried where learners are tuned, and what won
commands.txt        one command for each run
runs/ logs/         the runs' folders; what they printed
together/           replicas that are being trained
stopped/            which runs were stopped at a limit
compare.md *.csv *.png      what came out
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import yaml

from bfc_lightning.experiments.commands import commands_of, settings_files
from bfc_lightning.experiments.comparison import Comparison, planned_runs, planned_trials
from bfc_lightning.experiments.limits import STOPPED
from bfc_lightning.experiments.own_folder import FolderKind, locked
from bfc_lightning.experiments.settings import BASE, LOGS, RUNS, TOGETHER, TRIALS
from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.identity import differences, flatten

KIND = FolderKind(
    command="compare",
    noun="comparison",
    parts=(BASE, "learners", "grid", TRIALS, "chosen", STOPPED, RUNS, TOGETHER, LOGS),
    files=(
        *("compare.md", "compare.csv", "trials.csv", "scaling.csv"),
        *("compare.png", "scaling.png"),
    ),
)


def find_comparison(comparison: Comparison, configs: Sequence[str]) -> Path:
    """The folder of a comparison, there or not.

    Args:
        comparison: what is compared.
        configs: the files it was read from.

    Returns:
        The path; nothing is made.
    """
    return KIND.find(comparison.run, configs, files=partial(settings_files, comparison))


def check_unchanged(comparison: Comparison, folder: Path) -> None:
    """Refuses to go on with runs that were made from other settings.

    Every run in the folder counts, also those of learners, seeds or values that are left out now.

    Args:
        comparison: what is compared.
        folder: of the comparison.

    Raises:
        RunError: if the base, a learner or a value of the grid has changed since.
    """
    runs = sorted(path.name for path in (folder / RUNS).glob("*-seed*"))
    if not runs:
        return
    files = settings_files(comparison)
    for name, text in files.items():
        made = [run for run in runs if _is_part(name, run)]
        if made and (folder / name).is_file():
            changes = _changes(folder / name, text)
            if changes:
                what = f"{_called(name)} has changed since {made[0]} was begun"
                raise RunError(f"{what}: {'; '.join(changes[:3])}; {KIND.way_out}")
    before = yaml.safe_load((folder / KIND.mark).read_text(encoding="utf-8"))["base"]
    now = [name for name in files if name.startswith("base/")]
    if before != now:
        raise RunError(
            f"base must stay {[Path(name).name for name in before]}, with which {runs[0]} was "
            f"begun, got {[Path(name).name for name in now]}; {KIND.way_out}"
        )


def _is_part(file: str, run: str) -> bool:
    """Whether a run was made from one of the settings files; in doubt, yes."""
    kind, _, name = file.removesuffix(".yaml").partition("/")
    if kind == "learners":
        return run.startswith(f"{name}-")
    if kind == "trials":
        learner, _, trial = name.partition("/")
        return run.startswith(f"{learner}-") and f"-tune({trial})-" in run
    return kind == "base" or f"-{name}-" in run


def _called(name: str) -> str:
    kind, _, file = name.partition("/")
    stem = file.removesuffix(".yaml")
    words = {"base": f"the base {file}", "learners": f"learner {stem}", "trials": f"trial {stem}"}
    return words.get(kind, f"grid {stem}")


def _changes(path: Path, text: str) -> list[str]:
    """What differs in meaning between a stored config and the one it would be now."""
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    return differences(flatten(yaml.safe_load(before) or {}), flatten(yaml.safe_load(text) or {}))


@contextmanager
def claimed(comparison: Comparison, folder: Path) -> Iterator[None]:
    """Makes the folder, or takes an existing one, and keeps others out until the block ends.

    Args:
        comparison: what is compared; with `run.overwrite` an existing folder is emptied.
        folder: of the comparison.

    Yields:
        While the block runs, no other process may claim it.
    """
    files = settings_files(comparison)  # a base may lie in the folder that is overwritten
    with locked(folder):
        if comparison.run.overwrite:
            KIND.empty(folder, files)
        check_unchanged(comparison, folder)
        runs = [*planned_trials(comparison), *planned_runs(comparison)]
        commands = [commands_of(comparison, run, folder) for run in runs]
        KIND.write(folder, settings=asdict(comparison), files=files, commands=commands)
        yield
