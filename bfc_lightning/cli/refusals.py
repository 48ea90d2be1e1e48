"""What settings make a library raise, told as the mistakes of the user that they are."""

import contextlib
import errno
import io
import sys
import traceback
from argparse import ArgumentError
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bfc_lightning.callbacks.stops import LOST, MISTAKE, LostProcess
from bfc_lightning.runs.folder import RunError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # there is no space left
# A place that cannot be written to.
_CLOSED = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EROFS, errno.ENAMETOOLONG)
TRACEBACK_VARIABLE = "BFC_TRACEBACK"
"""Where it is set, a mistake is told with the calls that led to it."""
# What torch says of sizes that no memory has.
_TOO_LARGE = ("Overflow when unpacking long", "Storage size calculation overflowed")
# Raised with words for the user; others are told with the place where they came from.
_IN_WORDS = ("ValueError", "TypeError", "MisconfigurationException", "ImportError", "OSError")


@contextmanager
def refusing() -> Iterator[None]:
    """Makes a mistake of the user of what is raised while settings are read and objects built.

    Settings reach many libraries, and each has exceptions of its own. A lack of memory stays one.

    Raises:
        ArgumentError: as it is, and whatever else can tell of itself.
        LostProcess: likewise.
        RunError: instead of everything else.
    """
    try:
        yield
    except (ArgumentError, RunError, LostProcess):
        raise
    except Exception as refused:
        is_of_files = isinstance(refused, OSError) and refusal_of_files(refused) is not None
        if is_of_files or is_lack_of_memory(refused):
            raise
        raise RunError(in_words(refused)) from refused


@contextmanager
def parsing() -> Iterator[None]:
    """The same for parsers, some of which print what is wrong and exit.

    Raises:
        ArgumentError: as it is, and RunError.
        RunError: instead of the exit, and of everything else that settings make a parser raise.
        SystemExit: where help was asked for.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except (ArgumentError, RunError):
        raise
    except Exception as refused:
        if is_lack_of_memory(refused):
            raise
        raise RunError(f"the settings must be readable: {in_words(refused)}") from refused
    except SystemExit as end:
        if not end.code:
            raise
        lines = said.getvalue().strip().splitlines() or ["the command could not be read"]
        raise RunError(lines[-1].removeprefix("error: ")) from end
    sys.stderr.write(said.getvalue())  # warnings


def absent_folders(folder: Path) -> list[Path]:
    """Which of a folder and those above it are not there yet, the innermost first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Takes away what was made for something that was refused.

    Args:
        folders: the innermost first; those that hold something stay.
    """
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def in_words(refused: BaseException) -> str:
    """What an exception says, with its kind and place where it does not speak to the user.

    Args:
        refused: the exception.

    Returns:
        Some words.
    """
    kinds = {kind.__name__ for kind in type(refused).__mro__}
    if str(refused).strip() and kinds & set(_IN_WORDS) and not isinstance(refused, UnicodeError):
        return str(refused)
    words = " ".join(f"{type(refused).__name__}: {refused}".split()).rstrip(" .:")
    places = traceback.extract_tb(refused.__traceback__)
    place = f"{Path(places[-1].filename).name}, line {places[-1].lineno}"
    return f"{words} ({place}; {TRACEBACK_VARIABLE}=1 shows more)."


def is_lack_of_memory(failed: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the CPU or on a GPU."""
    words = ("can't allocate memory", "out of memory", "not enough memory", *_TOO_LARGE)
    return isinstance(failed, MemoryError) or any(word in str(failed) for word in words)


def refusal_of_files(failed: OSError) -> tuple[str, int] | None:
    """What the file system refuses, for the user.

    Args:
        failed: what was raised.

    Returns:
        A sentence and the exit status; None for anything else, which is no matter of the user's.
    """
    if failed.errno in _FULL:
        where = f" for {failed.filename}" if failed.filename else ""
        return f"no space is left{where}: {failed.strerror}.", LOST
    if failed.errno in _CLOSED:
        where = failed.filename or "the file"
        return f"{where} must be writable: {failed.strerror}.", MISTAKE
    return None
