"""How a command ends: which failures are told in one line, and with which exit status."""

from argparse import ArgumentError
from collections.abc import Callable

from bfc_lightning.callbacks.stops import LostProcess
from bfc_lightning.cli.complaints import one_line
from bfc_lightning.cli.console import say
from bfc_lightning.cli.processes import rank
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
    except (PermissionError, NotADirectoryError) as refused:
        tell(f"error: {refused.filename} must be writable: {refused.strerror}.")
        return 2
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


def is_lack_of_memory(failed: Exception) -> bool:
    """Whether an exception says that memory ran out, on the CPU or on a GPU."""
    words = ("can't allocate memory", "out of memory", "not enough memory")
    return isinstance(failed, MemoryError) or any(word in str(failed) for word in words)
