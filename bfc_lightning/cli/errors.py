"""How a command ends: one handler turns exceptions into a line and an exit code."""

import errno
import os
import re
import traceback
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning.fabric.utilities.exceptions import MisconfigurationException

from bfc_lightning.callbacks.exceptions import Diverged, Interrupted
from bfc_lightning.cli.console import is_helper, say
from bfc_lightning.private import one_line
from bfc_lightning.runs.folder import RunError

EXIT_ERROR, EXIT_USAGE, EXIT_OOM, EXIT_SIGINT = 1, 2, 4, 130
TRACEBACK_VARIABLE = "BFC_TRACEBACK"

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OOM = re.compile("out of memory|can't allocate memory|not enough memory|Cannot allocate memory")
_JSONARGPARSE = re.compile("Does not validate|Problem with")  # it wraps what a class raises
_PLAIN = (ValueError, TypeError, OSError, ImportError, MisconfigurationException)


def run_command(command: Callable[[], int]) -> int:
    """Runs a command, reports what went wrong in one line, and returns the exit code."""
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
        if str(cause) and isinstance(cause, _PLAIN):
            raise RunError(str(error)) from error
        frame = traceback.extract_tb(cause.__traceback__)[-1]
        place = f"{os.path.basename(frame.filename)}, line {frame.lineno}"
        text = f"{type(cause).__name__}: {cause} ({place}; {TRACEBACK_VARIABLE}=1 shows more)"
        raise RunError(text) from error
