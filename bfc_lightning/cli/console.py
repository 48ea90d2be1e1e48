"""What commands print. Output is for show: a closed pipe or an ASCII terminal never ends a run."""

import io
import logging
import math
import os
import re
import shlex
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bfc_lightning.runs.folder import FIGURES


def is_helper() -> bool:
    """Whether this is not the first of several processes."""
    return bool(rank_zero_only.rank)  # type: ignore[attr-defined]


@rank_zero_only
def say(text: str) -> None:
    """Prints one line to stderr, in the first process."""
    print(f"bfc: {text}", file=sys.stderr, flush=True)


class _Shown:
    """A stream that ends no command: what cannot be written any more is dropped."""

    def __init__(self, stream: TextIO) -> None:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:  # nobody reads; also for what Python itself flushes at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401, whatever the stream has
        return getattr(self._stream, name)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Lets no failure of stdout or stderr reach the command."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Shown(stream or open(os.devnull, "w")) for stream in before)  # noqa: SIM115
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def hide_chatter() -> None:
    """Hides what Lightning says at every start, but not what callbacks and profilers log."""
    for name in ("lightning.pytorch.utilities", "lightning.fabric.utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The loaders hold numbers of batches, not data.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
    # A login node has `srun`, too.
    warnings.filterwarnings("ignore", message="The `srun` command is available.*")
    # A checkpoint of a user's ModelCheckpoint is taken after the step, as with autograd.
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization.*")
    threading.excepthook = _report_thread


def _report_thread(args: threading.ExceptHookArgs) -> None:
    """Leaves out TensorBoard's writer if the disk is full: its next call raises too."""
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)


def command_line(argv: Sequence[str]) -> str:
    """A bfc command, quoted for a shell."""
    return f"bfc {shlex.join(argv)}"


def to_continue(command: str, argv: Sequence[str]) -> str:
    """The command again, without the option that deletes what it has done."""
    line = command_line([command, *argv])
    return re.sub(r" --run\.overwrite(=\S+| [^-\s]\S*)?(?= |$)", "", line)


def show_table(
    titles: Sequence[str], lines: Sequence[Sequence[str]], *, num_names: int = 1
) -> None:
    """Prints a table; its first columns are text, the others numbers."""
    table = Table()
    for number, title in enumerate(titles):
        table.add_column(escape(title), justify="left" if number < num_names else "right")
    for line in lines:
        table.add_row(*(escape(cell) for cell in line))
    Console(width=None if sys.stdout.isatty() else 1000).print(table)  # a file has long lines


def show_metrics(title: str, metrics: Mapping[str, float]) -> None:
    """Prints metrics by name."""
    print(title)
    show_table(["metric", "value"], [[key, f"{metrics[key]:.4g}"] for key in sorted(metrics)])


def describe_replicas(replicas: Sequence[Mapping[str, Any]]) -> str:
    """Says over which replicas medians are taken."""
    lost = [str(each["seed"]) for each in replicas if each["status"] == "diverged"]
    text = f"medians over {len(replicas) - len(lost)} of {len(replicas)} replicas"
    return f"{text}; diverged: seed {', '.join(lost)}" if lost else text


def show_result(folder: Path, summary: Mapping[str, Any], *, score_key: str) -> None:
    """Prints the table at the end of a run, and where to look next."""
    metrics = summary["metrics"]
    print(f"{folder}: {summary['status']}")
    if "replicas" in summary:
        print(describe_replicas(summary["replicas"]))
    rows = {f"error of the learner ({score_key})": score_key}
    if metrics.get("reference/without_last_level", 1) < 1:
        rows["  of a learner without the last level"] = "reference/without_last_level"
    for key in sorted(key for key in metrics if key.startswith("levels/residual_")):
        rows[f"residual of level {key.rsplit('_', 1)[1]} ({key})"] = key
    lines = [[title, f"{metrics.get(key, math.nan):.2e}"] for title, key in rows.items()]
    lines += [
        ["optimizer steps", f"{summary['steps']:,}"],
        ["samples seen", f"{summary['samples_seen']:,}"],
        ["seconds", f"{summary['wall_seconds']:.1f}"],
    ]
    show_table(["result", "value"], lines)
    if (folder / FIGURES).is_dir():
        print(f"figures:     {folder / FIGURES}/*.png")
    print(f"TensorBoard: {shlex.join(['tensorboard', '--logdir', str(folder.parent)])}")
