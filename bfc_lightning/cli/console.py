"""What commands print. Output is for show: a closed pipe or an ASCII terminal never ends a run."""

import logging
import os
import shlex
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bfc_lightning.runs.folder import FIGURES

_CHATTER = (
    *(
        "GPU available",
        "TPU available",
        "HPU available",
        "LOCAL_RANK",
        "Seed set to",
        "💡",
        "-----",
    ),
    *("Initializing distributed", "distributed_backend", "All distributed", "`Trainer("),
    *("`Trainer.fit` stopped", "Using default `ModelCheckpoint`"),
)
_LOGGERS = (
    *("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"),
    *("lightning.fabric.utilities.distributed", "lightning.fabric.utilities.rank_zero"),
)


@rank_zero_only
def say(text: str) -> None:
    """Prints one line to stderr, in the first process."""
    print(f"bfc: {text}", file=sys.stderr, flush=True)


class _TolerantStream:
    """A stream that drops what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            return self._stream.write(text.encode(encoding, "replace").decode(encoding))
        except (OSError, ValueError):
            return self._give_up(len(text))

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up(0)

    def _give_up(self, count: int) -> int:
        self._stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, until the end
        return count

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401, whatever the stream has
        return getattr(self._stream, name)


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Lets no failure of stdout or stderr reach the command."""
    before = sys.stdout, sys.stderr
    sys.stdout = _TolerantStream(sys.stdout or open(os.devnull, "w"))  # noqa: SIM115
    sys.stderr = _TolerantStream(sys.stderr or open(os.devnull, "w"))  # noqa: SIM115
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Hides the traceback of TensorBoard's writer if the disk is full: its next call raises too."""
    before = threading.excepthook

    def report(args: threading.ExceptHookArgs) -> None:
        if not isinstance(args.exc_value, OSError):
            before(args)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before


def hide_chatter() -> None:
    """Hides what Lightning says at every start; what a user's callback logs is shown."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if _is_worth_reading not in logger.filters:
            logger.addFilter(_is_worth_reading)
    # The loaders hold numbers of batches, not data.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
    # A checkpoint of a user's ModelCheckpoint is taken after the step, as with autograd.
    warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization.*")


def _is_worth_reading(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_CHATTER)


def command_line(argv: Sequence[str]) -> str:
    """A bfc command, quoted for a shell."""
    return f"bfc {shlex.join(argv)}"


def show_table(
    titles: Sequence[str], lines: Sequence[Sequence[str]], *, num_names: int = 1
) -> None:
    """Prints a table; its first columns are text, the others numbers."""
    table = Table()
    for number, title in enumerate(titles):
        table.add_column(escape(title), justify="left" if number < num_names else "right")
    for line in lines:
        table.add_row(*(escape(cell) for cell in line))
    console = Console()
    if not console.is_terminal:
        console = Console(width=1000)  # no lines are broken in a file
    console.print(table)


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
    lines = [[f"error of the learner ({score_key})", _number(metrics.get(score_key))]]
    without = metrics.get("reference/without_last_level")
    if without is not None and without < 1:
        lines.append(["  of a learner without the last level", _number(without)])
    for key in sorted(key for key in metrics if key.startswith("levels/residual_")):
        lines.append([f"residual of level {key.rsplit('_', 1)[1]} ({key})", _number(metrics[key])])
    lines.append(["optimizer steps", f"{summary['steps']:,}"])
    lines.append(["samples seen", f"{summary['samples_seen']:,}"])
    lines.append(["seconds", f"{summary['wall_seconds']:.1f}"])
    show_table(["result", "value"], lines)
    if (folder / FIGURES).is_dir():
        print(f"figures:     {folder / FIGURES}/*.png")
    program = Path(sys.executable).with_name("tensorboard")
    board = program.name if shutil.which(program.name) else os.path.relpath(program)
    print(f"TensorBoard: {shlex.join([board, '--logdir', str(folder.parent)])}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"
