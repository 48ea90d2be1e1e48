"""Reasons for which a run ends early, each with its exit status."""

import signal

LOST = 1
MISTAKE = 2


class Diverged(Exception):  # noqa: N818, a way to end and no error of the program
    """The loss became NaN or infinite.

    Args:
        step: the optimizer step at which it was seen.
        what: which quantity.
    """

    exit_status = 3

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} is not finite at step {step}: the run diverged.")
        self.step = step


class Interrupted(Exception):  # noqa: N818, likewise
    """The user or the machine asked the run to stop.

    Args:
        signum: the signal that was received.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}.")
        self.exit_status = 128 + signum


class LostProcess(Exception):  # noqa: N818, likewise
    """Another process of the run is gone.

    Args:
        told: one line; empty where another process tells it.
        exit_status: of the processes that are left.
    """

    def __init__(self, told: str, exit_status: int = LOST) -> None:
        super().__init__(told)
        self.exit_status = exit_status
