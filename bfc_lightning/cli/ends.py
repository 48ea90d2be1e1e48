"""How a command ends: which failures are told in one line, and with which exit status."""

import os
import traceback
from argparse import ArgumentError
from collections.abc import Callable

from bfc_lightning.callbacks.stops import MISTAKE, LostProcess
from bfc_lightning.cli.complaints import one_line
from bfc_lightning.cli.console import say
from bfc_lightning.cli.refusals import TRACEBACK_VARIABLE, is_lack_of_memory, refusal_of_files
from bfc_lightning.experiments.limits import LACKED_MEMORY
from bfc_lightning.runs.folder import RunError


def ended(command: Callable[[], int], tell: Callable[[str], None] = say) -> int:
    """Runs a command, and tells what went wrong in one line.

    Args:
        command: returns its exit status.
        tell: says it.

    Returns:
        That, or 2 for a mistake of the user, 4 where it needed more memory than there is, 130 after
        Ctrl-C, 1 where another process of the run is gone.
    """
    try:
        return command()
    except (ArgumentError, RunError) as mistake:
        return _told_mistake(mistake, tell)
    except OSError as failed:
        return _told(failed, tell)
    except LostProcess as lost:
        if str(lost):
            tell(f"error: {lost}")
        return lost.exit_status
    except KeyboardInterrupt:
        tell("stopped by SIGINT.")
        return 130
    except SystemExit as done:  # --help, --print_config
        if isinstance(done.__context__, KeyboardInterrupt):  # Lightning's way to end
            tell("stopped by SIGINT.")
            return 130
        return int(done.code or 0)
    except Exception as failed:
        if not is_lack_of_memory(failed):
            raise
        tell(f"out of memory: {one_line(str(failed))}")
        return LACKED_MEMORY


def _told_mistake(mistake: Exception, tell: Callable[[str], None]) -> int:
    tell(f"error: {one_line(str(mistake))}")
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(mistake)
    return MISTAKE


def _told(failed: OSError, tell: Callable[[str], None]) -> int:
    """Says what the file system refuses, and raises anything else; the exit status."""
    refusal = refusal_of_files(failed)
    if refusal is None:
        raise failed
    tell(f"error: {refusal[0]}")
    return refusal[1]
