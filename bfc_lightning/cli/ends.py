"""How a command ends: which failures are told in one line, and with which exit status."""

from argparse import ArgumentError
from collections.abc import Callable

from bfc_lightning.callbacks.stops import LostProcess
from bfc_lightning.cli.complaints import one_line
from bfc_lightning.cli.console import say
from bfc_lightning.cli.processes import rank
from bfc_lightning.cli.refusals import CLOSED, FULL, is_lack_of_memory
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
        tell(f"error: {one_line(str(mistake))}")
        return 2
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
        where = f"process {rank()} is " if rank() > 0 else ""
        tell(f"{where}out of memory: {one_line(str(failed))}")
        return LACKED_MEMORY


def _told(failed: OSError, tell: Callable[[str], None]) -> int:
    """Says what the file system refuses, and raises anything else; the exit status."""
    where = f"{failed.filename} " if failed.filename else "the file "
    if failed.errno in FULL:
        where = f" for {failed.filename}" if failed.filename else ""
        tell(f"error: no space is left{where}: {failed.strerror}.")
        return 1
    if failed.errno not in CLOSED:
        raise failed
    tell(f"error: {where}must be writable: {failed.strerror}.")
    return 2
