"""What commands of many runs share: one run in a worker, the table, the exit status."""

import resource
import shlex
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from bfc_lightning.cli.config_files import check_config_files, check_groups
from bfc_lightning.cli.console import rich_table, say
from bfc_lightning.cli.refusals import remove_empty
from bfc_lightning.experiments.plan import ExperimentOptions, Limits
from bfc_lightning.experiments.settings import LOGS
from bfc_lightning.runs.folder import RunError

if TYPE_CHECKING:
    from bfc_lightning.experiments.execution import Outcome
    from bfc_lightning.experiments.own_folder import FolderKind


class PlainHelp(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the lines of the description as they are."""


def experiment_parser(command: str, noun: str, description: str) -> ArgumentParser:
    """A parser for an experiment's configs, without its own arguments.

    Args:
        command: of `bfc`.
        noun: what a config holds.
        description: for its help.

    Returns:
        The parser.
    """
    parser = ArgumentParser(
        prog=f"bfc {command}",
        exit_on_error=False,
        description=description,
        formatter_class=PlainHelp,
    )
    told = f"A {noun}; a later one overrides an earlier."
    parser.add_argument("-c", "--config", action="config", help=told)
    return parser


def parse_experiment(
    parser: ArgumentParser, words: Sequence[str], groups: Sequence[str] = ("run", "limits")
) -> tuple[dict[str, Any], list[str]]:
    """Reads what every experiment has.

    Args:
        parser: with all arguments.
        words: of the command.
        groups: names of groups of settings that it has.

    Returns:
        Settings by name, `run` and `limits` built; and the configs, as given.
    """
    words = list(words)
    check_config_files(words)
    parsed = parser.parse_args(words)
    check_groups(parsed, groups)
    configs = [str(file) for file in parsed.pop("config") or []]
    parts = vars(parsed)
    parts["run"] = ExperimentOptions(**vars(parsed.run))
    parts["limits"] = Limits(**vars(parsed.limits))
    return parts, configs


def run_one(words: Sequence[str], num_runs: int, gigabytes: float | None = None) -> int:
    """Runs commands in a worker, as if they had been typed.

    Args:
        words: after `bfc`, commands with signs between them, as `group_words` puts them.
        num_runs: that they make.
        gigabytes: of memory that each run may take; any if not given.

    Returns:
        The exit status of the first one that fails, or 0.
    """
    import_module("lightning.pytorch")  # what is mapped before the limit does not count

    from bfc_lightning.experiments.group_words import ALSO, AND, parted

    status = 0
    for part in parted(words, AND):
        commands = parted(part, ALSO)
        runs_each = num_runs // len(commands)  # one for all of them, or one for each
        if not status:
            with _memory_limit(None if gigabytes is None else gigabytes * runs_each):
                status = max([_run_command(command) for command in commands])
    return status


def _run_command(words: list[str]) -> int:
    """One command of `bfc`, or what makes run folders of replicas."""
    from bfc_lightning.cli import main
    from bfc_lightning.experiments.group_words import SPLIT

    print(f"$ bfc {shlex.join(words)}", flush=True)
    if words[0] == SPLIT:
        from bfc_lightning.runs.splitting import split_run

        _, folder, root, *names = words
        split_run(Path(folder), Path(root), names)
        return 0
    sys.argv[1:] = words  # Lightning starts further processes with these
    return main(words)


@contextmanager
def _memory_limit(gigabytes: float | None) -> Iterator[None]:
    """Lets this process map so much more than now, where the system can tell how much that is."""
    mapped = Path("/proc/self/statm")
    if gigabytes is None or not mapped.is_file():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(mapped.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + int(gigabytes * 2**30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def show_table(titles: Sequence[str], lines: Sequence[Sequence[str]], *, num_names: int) -> None:
    """Prints a table; on a terminal that is too narrow, with a line for each result.

    Args:
        titles: of the columns.
        lines: of cells.
        num_names: how many columns are words.
    """
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)  # no lines are broken in a file
    shown = rich_table(titles, lines, num_names)
    if Measurement.get(console, console.options, shown).maximum >= console.width:
        long = [[*ln[:num_names], *pair] for ln in lines for pair in _pairs(titles, ln, num_names)]
        shown = rich_table([*titles[:num_names], "result", "value"], long, num_names + 1)
    console.print(shown)


def _pairs(titles: Sequence[str], line: Sequence[str], num_names: int) -> list[tuple[str, str]]:
    """Each result of a line beside its title, for terminals that are too narrow for columns."""
    return list(zip(titles[num_names:], line[num_names:], strict=True))


def show_end(outcome: "Outcome", files: Sequence[Path], metrics: Sequence[str]) -> None:
    """Prints where the files are, and which metrics were asked for in vain.

    Args:
        outcome: of an experiment.
        files: that it may have left.
        metrics: that were asked for.
    """
    from bfc_lightning.experiments.results import metric_names

    print("files:", *(file for file in files if file.is_file()), flush=True)
    known = metric_names(outcome.rows)
    absent = [metric for metric in metrics if metric not in known]
    if known and absent:
        say(f"warning: no run logged {', '.join(absent)}; known: {', '.join(known)}.")


def refuse_all(
    outcome: "Outcome", folder: Path, *, kind: "FolderKind", absent: Sequence[Path]
) -> None:
    """Makes a mistake of the user of an experiment of which every run was one.

    Args:
        outcome: of the experiment.
        folder: of it.
        kind: of the folder.
        absent: what was not there before, of the folder and those above it; it is taken away again.

    Raises:
        RunError: if every run was refused; it has the reason of the first.
    """
    if outcome.signum or outcome.num_refused < len(outcome.rows):
        return
    log = folder / LOGS / f"{outcome.rows[0].run.name}.txt"
    reason = log.read_text(encoding="utf-8", errors="replace").splitlines()[-1]
    if folder in absent:
        kind.empty(folder, {})
        remove_empty(absent)
    raise RunError(f"every run was refused: {reason.removeprefix('bfc: error: ')}")


def exit_status(outcome: "Outcome", command: str) -> int:
    """Says what is left to do, if anything.

    Args:
        outcome: of an experiment.
        command: that goes on with it.

    Returns:
        The exit status: 0 where every run came to an end, 1 where one failed, 128 and the number of
        the signal where one stopped it.
    """
    statuses = [row.status for row in outcome.rows]
    num_left = sum(status in ("interrupted", "missing") for status in statuses)
    num_failed = statuses.count("failed")
    if outcome.signum:
        num_left += num_failed + outcome.num_trials_left
        say(f"stopped with {num_left} runs to go; go on: {command}")
        return 128 + outcome.signum
    if num_failed or num_left:
        say(f"{num_failed + num_left} of {len(statuses)} runs failed; again: {command}")
        return 1
    return 0
