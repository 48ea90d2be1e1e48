"""What commands print, and how they end.

Output is for show: a closed pipe or an ASCII terminal never ends a run. One handler turns
exceptions into a line and an exit code.
"""

import errno
import io
import logging
import math
import os
import re
import shlex
import signal
import sys
import threading
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.table import Table

from bfc_lightning.callbacks.exceptions import Diverged, Interrupted
from bfc_lightning.private import one_line
from bfc_lightning.runs.folder import FIGURES, RunError

EXIT_ERROR, EXIT_USAGE, EXIT_OOM, EXIT_SIGINT = 1, 2, 4, 130
TRACEBACK_VARIABLE = "BFC_TRACEBACK"

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OOM = re.compile("out of memory|can't allocate memory|not enough memory|Cannot allocate memory")
_JSONARGPARSE = re.compile("Does not validate|Problem with")  # it wraps what a class raises
_PLAIN = (ValueError, TypeError, OSError, ImportError, MisconfigurationException)
# What Lightning says at every start; callbacks and profilers log elsewhere.
_CHATTY_LOGGERS = ("lightning.pytorch.utilities", "lightning.fabric.utilities")
_CHATTY_WARNINGS = (
    ".*does not have many workers.*",  # the loaders hold numbers of batches, not data
    ".*isinstance\\(treespec, LeafSpec\\).*",
    "The `srun` command is available.*",  # on a login node, too
    # A checkpoint of a user's ModelCheckpoint is taken after the step, as with autograd.
    "Using ModelCheckpoint with manual optimization.*",
)


def run_command(command: Callable[[], int]) -> int:
    """Runs a command, reports what went wrong in one line, and returns the exit code."""
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _CHATTY_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    threading.excepthook = _report_thread
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, _stop)  # so that a command without state cleans up
    streams = sys.stdout, sys.stderr
    out, err = (_Shown(stream or open(os.devnull, "w")) for stream in streams)  # noqa: SIM115
    with redirect_stdout(out), redirect_stderr(err):
        try:
            return _exit_code(command)
        finally:
            out.flush()
            err.flush()
            for number, handler in before.items():
                signal.signal(number, handler)


def _stop(signum: int, frame: object) -> None:
    raise Interrupted(signum)


def _report_thread(args: threading.ExceptHookArgs) -> None:
    """Leaves out TensorBoard's writer if the disk is full: its next call raises too."""
    if not isinstance(args.exc_value, OSError):
        threading.__excepthook__(args)


def _exit_code(command: Callable[[], int]) -> int:
    try:
        return command()
    except (Diverged, Interrupted) as stop:
        say(str(stop))
        return 0 if is_helper() else stop.exit_code  # the first process reports it
    except (KeyboardInterrupt, SystemExit) as stop:  # Lightning turns the first into the second
        if isinstance(stop, SystemExit) and not isinstance(stop.__context__, KeyboardInterrupt):
            return int(stop.code or 0)
        say("stopped by SIGINT.")
        return EXIT_SIGINT
    except Exception as error:
        is_usage, is_oom = isinstance(error, ArgumentError | RunError), _is_out_of_memory(error)
        is_known = is_usage or is_oom or isinstance(error, OSError)
        if os.environ.get(TRACEBACK_VARIABLE) or not is_known:
            traceback.print_exception(error)
        say(f"error: {'out of memory: ' if is_oom else ''}{one_line(error)}")
        return EXIT_USAGE if is_usage else EXIT_OOM if is_oom else EXIT_ERROR


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or _OOM.search(str(error)) is not None


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turns what settings make a library raise, before anything has run, into a usage error."""
    try:
        yield
    except (ArgumentError, RunError, Diverged):
        raise
    except Exception as error:
        if getattr(error, "errno", None) in _NO_SPACE or _is_out_of_memory(error):
            raise
        cause: BaseException = error
        while (below := cause.__cause__ or cause.__context__) and _JSONARGPARSE.match(str(cause)):
            cause = below
        text = str(error)
        if not (str(cause) and isinstance(cause, _PLAIN)):  # a bug, as of a user's class
            frame = traceback.extract_tb(cause.__traceback__)[-1]
            place = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
            text = f"{type(cause).__name__}: {cause} ({place}; {TRACEBACK_VARIABLE}=1 shows more)"
        raise RunError(text) from error


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
        table.add_column(title, justify="left" if number < num_names else "right")
    for line in lines:
        table.add_row(*line)
    width = None if sys.stdout.isatty() else 1000  # a file has long lines
    Console(width=width, markup=False).print(table)


def show_metrics(title: str, summary: Mapping[str, Any]) -> None:
    """Prints metrics by name."""
    print(title)
    _print_replicas(summary.get("replicas", []))
    metrics = sorted(summary["metrics"].items())
    show_table(["metric", "value"], [[key, f"{value:.4g}"] for key, value in metrics])


def _print_replicas(replicas: Sequence[Mapping[str, Any]]) -> None:
    """Says over which replicas medians are taken."""
    lost = [str(each["seed"]) for each in replicas if each["status"] == "diverged"]
    diverged = f"; diverged: seed {', '.join(lost)}" if lost else ""
    if replicas:
        kept = len(replicas) - len(lost)
        print(f"medians over {kept} of {len(replicas)} replicas{diverged}")


def show_result(folder: Path, summary: Mapping[str, Any], *, score_key: str) -> None:
    """Prints the table at the end of a run, and where to look next."""
    metrics = summary["metrics"]
    print(f"{folder}: {summary['status']}")
    _print_replicas(summary.get("replicas", []))
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
