"""What is told of a run's end: its status with its headline, and why it failed."""

from collections.abc import Sequence
from pathlib import Path

from bfc_lightning.callbacks.stops import MISTAKE
from bfc_lightning.experiments.progress import RunsProgress
from bfc_lightning.experiments.results import Row
from bfc_lightning.experiments.workers import Ended

_TAIL_LINES = 6


def outcome_of(row: Row, headline: str) -> str:
    """Status and headline of a run, in a few words.

    Args:
        row: of the run.
        headline: the metric that is told, where there is one.

    Returns:
        The words.
    """
    value = row.metrics.get(headline)
    words = row.status.replace("_", " ")
    return words if value is None else f"{words} {headline} {value:.1e}"


def explain(event: Ended, progress: RunsProgress, shown: set[str]) -> None:
    """Says why a run failed, the same reason only once.

    Args:
        event: its end.
        progress: where it is said.
        shown: the reasons that were said before; this one is added.
    """
    what = _death_of(event) if event.has_died else f"exit status {event.status}"
    tail = tail_of(event.task.log, only_last=event.status == MISTAKE)
    reason = "\n".join(f"    {line}" for line in tail)
    if reason and reason in shown:
        reason = "    as before"
    shown.add(reason)
    progress.say(f"  {event.task.name} failed: {what}; {event.task.log} ends with\n{reason}")


def reason_of(event: Ended) -> str:
    """Why a task did not do what it was to do, in a few words.

    Args:
        event: its end.

    Returns:
        That it took too long, how its process died, or the last that it said.
    """
    if event.is_overdue:
        return f"stopped after {event.seconds:.0f} s"
    if event.has_died:
        return _death_of(event)
    return (tail_of(event.task.log, only_last=True) or [f"exit status {event.status}"])[0]


def _death_of(event: Ended) -> str:
    if event.status < 0:
        return f"its process was killed by signal {-event.status}"
    return f"its process died (exit code {event.status})"


def tail_of(log: Path, *, only_last: bool) -> Sequence[str]:
    """The end of what a run printed.

    Args:
        log: the file; none is as good as an empty one.
        only_last: one line in place of some.

    Returns:
        Its last lines.
    """
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    return lines[-(1 if only_last else _TAIL_LINES) :]
