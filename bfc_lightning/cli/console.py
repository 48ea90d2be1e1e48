"""What the command line prints: where a run lives, and what came out."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bfc_lightning.cli.processes import is_first_process
from bfc_lightning.runs.folder import FIGURES


def say(text: str) -> None:
    """Prints one line beside the results; of several processes the first one does.

    Args:
        text: the line.
    """
    if is_first_process():
        say_from_any(text)


def say_from_any(text: str) -> None:
    """Prints one line beside the results, from any process.

    Args:
        text: the line.
    """
    print(f"bfc: {text}", file=sys.stderr, flush=True)


@contextmanager
def only_the_first_prints() -> Iterator[None]:
    """Lets help and the like, which parsers print, come once from several processes."""
    if is_first_process():
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def show_start(
    folder: Path, *, seeds: Sequence[int], num_parameters: int, device: str, resume_step: int | None
) -> None:
    """Says what starts.

    Args:
        folder: of the run.
        seeds: of the run, or of each replica.
        num_parameters: trainable ones.
        device: which, and how many.
        resume_step: where a resumed run goes on.
    """
    going_on = "" if resume_step is None else f"  going on from step {resume_step}"
    many = len(seeds) > 1
    which = f"{len(seeds)} replicas  seeds {_listed(seeds)}" if many else f"seed {seeds[0]}"
    say(f"run {folder}  {which}  {num_parameters:,} parameters  {device}{going_on}")


def _listed(seeds: Sequence[int]) -> str:
    """First to last where they follow one another, else all, shortened."""
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds[:8])) + (", ..." if len(seeds) > 8 else "")


def show_scores(checkpoint: Path, step: int, scores: Mapping[str, float]) -> None:
    """Prints a table of scores.

    Args:
        checkpoint: which was scored.
        step: its optimizer steps.
        scores: by key.
    """
    show_metrics(f"{checkpoint}, step {step}", scores)


def show_metrics(title: str, metrics: Mapping[str, float]) -> None:
    """Prints a table of numbers.

    Args:
        title: the line above it.
        metrics: by key.
    """
    print(title)
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, value in sorted(metrics.items()):
        table.add_row(key, f"{value:.4g}")
    Console().print(table)


def rich_table(titles: Sequence[str], lines: Sequence[Sequence[str]], num_names: int) -> Table:
    """A table whose first columns are words and whose others are numbers.

    Args:
        titles: of the columns.
        lines: of cells.
        num_names: how many columns are words.

    Returns:
        The table, to be printed.
    """
    shown = Table()
    for number, title in enumerate(titles):
        shown.add_column(escape(title), justify="left" if number < num_names else "right")
    for line in lines:
        shown.add_row(*(escape(cell) for cell in line))
    return shown


def whose_medians(seeds: Sequence[int], diverged: Sequence[bool]) -> str:
    """Says what the numbers of several replicas are.

    Args:
        seeds: of each.
        diverged: whether it did.

    Returns:
        Half a line.
    """
    lost = [f"{n} (seed {seed})" for n, seed in enumerate(seeds) if diverged[n]]
    gone = f"; diverged: {', '.join(lost)}" if lost else ""
    return f"medians over {len(seeds) - len(lost)} of {len(seeds)} replicas{gone}"


def show_result(folder: Path, summary: Mapping[str, Any], *, score_key: str) -> None:
    """Prints the small table at the end of a run, and where to look next.

    Args:
        folder: of the run.
        summary: as `summary.json` holds it.
        score_key: `val/nmse` or `val/error`.
    """
    metrics = summary["metrics"]
    replicas = summary.get("replicas", [])
    print(f"{folder}: {summary['status']}")
    if replicas:
        diverged = [each["status"] == "diverged" for each in replicas]
        print(whose_medians([each["seed"] for each in replicas], diverged))
    table = Table()
    table.add_column("result")
    table.add_column("value", justify="right")
    table.add_row(f"error of the learner ({score_key})", _number(metrics.get(score_key)))
    without = metrics.get("reference/without_last_level")
    if without is not None and without < 1:
        table.add_row("  of one that lacks the last level", _number(without))
    for key in sorted(key for key in metrics if key.startswith("levels/residual_")):
        level = key.rsplit("_", 1)[1]
        table.add_row(f"residual of level {level} ({key})", _number(metrics[key]))
    table.add_row("optimizer steps", f"{summary['steps']:,}")
    table.add_row("samples seen", f"{summary['samples_seen']:,}")
    table.add_row("seconds", f"{summary['wall_seconds']:.1f}")
    Console().print(table)
    if (folder / FIGURES).is_dir():
        print(f"pictures:    {folder / FIGURES}/*.png")
    board = _command(Path(sys.executable).with_name("tensorboard"))
    print(f"TensorBoard: {board} --logdir {folder.parent}", flush=True)


def _command(program: Path) -> str:
    """As one would type it: by name where the shell finds it, else from here."""
    if shutil.which(program.name):
        return program.name
    here = Path.cwd()
    return str(program.relative_to(here) if program.is_relative_to(here) else program)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"
