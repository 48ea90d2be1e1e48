"""How a command ends: one handler turns exceptions into a line and an exit code."""

import errno
import os
import re
import traceback
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bfc_lightning.callbacks.exceptions import Diverged, Interrupted
from bfc_lightning.cli.console import say
from bfc_lightning.runs.folder import RunError

EXIT_ERROR, EXIT_USAGE, EXIT_DIVERGED, EXIT_OOM = 1, 2, 3, 4
EXIT_SIGINT = 130
TRACEBACK_VARIABLE = "BFC_TRACEBACK"
CHILD_VARIABLE = "BFC_RUN_FOLDER"
"""Set for the processes that a run starts; the first one reports how the run ended."""

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OOM = (
    *("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory"),
    *("Storage size calculation overflowed", "Overflow when unpacking long"),
)
# Lines of jsonargparse's messages that say nothing to a user.
_NOISE = re.compile(
    r"^(Does not validate|Subtypes:|Errors:|- Expected a <class 'NoneType'>|Given value type:|"
    r"- Expected a path but|Type .* expects a function or a callable class:|"
    r"Given value: Namespace\()"
)
_PLAIN = ("ValueError", "RunError", "ArgumentError", "MisconfigurationException", "UsageError")


def run_command(command: Callable[[], int]) -> int:
    """Runs a command, reports what went wrong in one line, and returns the exit code."""
    try:
        return command()
    except (Diverged, Interrupted) as stop:
        say(str(stop))
        return 0 if CHILD_VARIABLE in os.environ else stop.exit_code
    except KeyboardInterrupt:
        say("stopped by SIGINT.")
        return EXIT_SIGINT
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning's way to end
            say("stopped by SIGINT.")
            return EXIT_SIGINT
        return int(stop.code or 0)
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    is_usage = isinstance(error, ArgumentError | RunError)
    if os.environ.get(TRACEBACK_VARIABLE) or not (is_usage or _is_expected(error)):
        traceback.print_exception(error)
    if is_out_of_memory(error):
        say(f"error: out of memory: {one_line(error)}")
        return EXIT_OOM
    say(f"error: {one_line(error)}")
    return EXIT_USAGE if is_usage else EXIT_ERROR


def _is_expected(error: Exception) -> bool:
    return is_out_of_memory(error) or isinstance(error, OSError)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on a GPU."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in _OOM)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turns what settings make a library raise, before anything has run, into a usage error."""
    try:
        yield
    except (ArgumentError, RunError, Diverged):
        raise
    except Exception as error:
        is_full = isinstance(error, OSError) and error.errno in _NO_SPACE
        if is_full or is_out_of_memory(error):
            raise
        raise RunError(_explained(error)) from error


def _explained(error: Exception) -> str:
    """The message of an exception, with type and place unless it was written for users."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if str(error).strip() and names & {*_PLAIN, "OSError", "ImportError", "TypeError"}:
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
    return f"{type(error).__name__}: {error} ({place}; {TRACEBACK_VARIABLE}=1 shows more)"


def one_line(error: BaseException | str, longest: int = 600) -> str:
    """A message in one line, without the lines in which jsonargparse repeats itself."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = " ".join(line for line in lines if line and not _NOISE.match(line))
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text)
    text = re.sub(r"\s*Given value: ", ", got ", re.sub(r"(^|\s)- ", "; ", text).strip("; "))
    text += " ''" if text.endswith(":") else ""  # an empty value
    return text if len(text) <= longest else f"{text[:longest]} ..."
