"""How a command ends that several processes run: all with one status, and one of them tells."""

from argparse import ArgumentError
from collections.abc import Callable

from bfc_lightning.callbacks.stops import LOST, MISTAKE, Diverged, Interrupted, LostProcess
from bfc_lightning.cli.complaints import one_line
from bfc_lightning.cli.console import say, say_from_any
from bfc_lightning.cli.ends import ended
from bfc_lightning.cli.peers import Peers, find_peers
from bfc_lightning.cli.processes import rank
from bfc_lightning.cli.refusals import is_lack_of_memory, refusal_of_files
from bfc_lightning.experiments.limits import LACKED_MEMORY
from bfc_lightning.runs.folder import RunError


def run_together(command: Callable[[Peers], int]) -> int:
    """Runs a command, perhaps beside other processes that run it too.

    Args:
        command: is given the processes, and returns its exit status.

    Returns:
        The exit status.
    """
    peers = Peers()

    def run() -> int:
        nonlocal peers
        peers = find_peers()
        try:
            peers.check_nodes()
            return command(peers)
        except (Diverged, Interrupted) as stop:
            say(str(stop))
            return stop.exit_status
        except Exception as failed:
            _tell_peers(peers, failed)
            raise

    def tell(text: str) -> None:
        if peers.takes_the_word():
            say_from_any(text)

    try:
        status = ended(run, tell)
        if status != LOST or peers.have_a_reason:
            peers.leave()
    finally:
        peers.close()
    return status


def refuse_together(mistake: str) -> int:
    """Ends all processes that were started with a command that they cannot run.

    Args:
        mistake: in one line.

    Returns:
        The exit status.
    """

    def refuse(peers: Peers) -> int:
        raise RunError(mistake)

    return run_together(refuse)


def _tell_peers(peers: Peers, failed: Exception) -> None:
    """Lets the others end for the same reason, and the first of those that know it tell.

    Raises:
        LostProcess: instead of a lack of memory, which is told with the number of the process.
    """
    if isinstance(failed, LostProcess):
        peers.ask_for_reason()
    elif isinstance(failed, ArgumentError | RunError):
        _complain(peers, str(failed), MISTAKE)
    elif isinstance(failed, OSError):
        if (refusal := refusal_of_files(failed)) is not None:
            _complain(peers, *refusal)
    elif is_lack_of_memory(failed) and (peers.size > 1 or rank() > 0):
        words = f"process {rank()} is out of memory: {one_line(str(failed))}"
        peers.complain(words, LACKED_MEMORY)
        raise LostProcess(words, LACKED_MEMORY) from failed


def _complain(peers: Peers, reason: str, exit_status: int) -> None:
    """What the first process finds as well, it tells."""
    peers.complain(reason, exit_status)
    if peers.rank > 0:
        peers.leave()
