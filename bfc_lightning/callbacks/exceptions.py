"""Ways in which a run ends early, each with its exit code."""

import signal


class RunError(ValueError):
    """A mistake of the user about settings, folders or checkpoints; its text is one line."""


class Diverged(Exception):  # noqa: N818, a way to end and not an error of the program
    """A loss, a score or a weight is NaN or infinite."""

    exit_code = 3

    def __init__(self, step: int, quantity: str) -> None:
        super().__init__(f"the run diverged: {quantity} is not finite at step {step}.")


class Interrupted(BaseException):
    """A signal asked the run to stop; no handler of errors catches it, as with Ctrl-C."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}.")
        self.exit_code = 128 + signum
