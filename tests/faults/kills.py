"""Commands killed at random moments, begun again until they end, and compared with whole ones.

Everything must be the same bit for bit: weights, optimizers, positions in the sample stream, logged
rows. As a batch is a function of its position alone, weights that are the same have seen the same
samples, none of them twice. Clocks, and what TensorBoard's files are called, may differ.
"""

import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals

from tests.faults.folders import differences, unreadable
from tests.faults.forked import Command
from tests.faults.kinds import KINDS, Kind, begin
from tests.faults.landing import MOMENTS, SIGNALS, Kill, send, unsaved, wait_for, wrong_end

_WORK_SECONDS = 60.0  # of a processor; more is a hang
_ATTEMPTS = 10


@dataclass(frozen=True)
class Outcome:
    """What became of one kill.

    Attributes:
        has_landed: whether it has reached a live process, and in time if that was to train.
        is_unfinished: whether steps were missing then, of a run or of one of several.
        problem: what was lost by it; empty if nothing.
    """

    has_landed: bool
    is_unfinished: bool = False
    problem: str = ""


@dataclass
class Tally:
    """What became of all kills, by kind of command and signal.

    Attributes:
        tried: those that have landed.
        unfinished: those of them that left steps to do; the others prove little.
        missed: those that came too late, or found no child to go to; others were drawn instead.
        lost: what was lost, one entry for each kill that lost something.
    """

    tried: Counter = field(default_factory=Counter)
    unfinished: Counter = field(default_factory=Counter)
    missed: Counter = field(default_factory=Counter)
    lost: list[tuple[tuple[str, str], str]] = field(default_factory=list)

    def add(self, key: tuple[str, str], outcome: Outcome, where: str) -> None:
        self.tried[key] += outcome.has_landed
        self.missed[key] += not outcome.has_landed
        self.unfinished[key] += outcome.is_unfinished
        if outcome.problem:
            self.lost.append((key, f"{outcome.problem}: {where}"))

    def lines(self) -> list[str]:
        form = "{:<20}{:<9}{:>7}{:>12}{:>8}{:>15}{:>6}"
        titles = ("tried", "unfinished", "missed", "resumed equal", "lost")
        rows = {key: self._row(key) for key in sorted(self.tried.keys() | self.missed.keys())}
        rows["together", ""] = tuple(map(sum, zip(*rows.values(), strict=True)))
        table = {("killed", "by"): titles, **rows}
        return [form.format(*key, *cells) for key, cells in table.items()]

    def _row(self, key: tuple[str, str]) -> tuple[int, ...]:
        tried, lost = self.tried[key], sum(each == key for each, _ in self.lost)
        return (tried, self.unfinished[key], self.missed[key], tried - lost, lost)


def try_kills(
    count: int,
    *,
    seed: int,
    folder: Path,
    only: Sequence[str] = ("",),
    signals: Sequence[Signals] = SIGNALS,
    moments: Mapping[str, int] = MOMENTS,
) -> Iterator[Tally]:
    """Kills commands.

    Args:
        count: how many kills are to land; where one misses, others are drawn in its place.
        seed: of the kills.
        folder: an empty one; what was lost stays in it.
        only: kinds with one of these in their name.
        signals: that are drawn from.
        moments: likewise, with how often each is drawn.

    Yields:
        The tally so far, after every kill.
    """
    chance, tally = random.Random(seed), Tally()
    whole: dict[str, tuple[Path, float]] = {}
    order = _order([kind for kind in KINDS if any(word in kind.name for word in only)], chance)
    for number in range(count * _ATTEMPTS):
        kind = order[tally.tried.total() % len(order)]
        if kind.name not in whole:
            whole[kind.name] = _undisturbed(kind, folder)
        kill = Kill(
            chance.choice(signals),
            chance.choices([*moments], [*moments.values()])[0],
            kind.has_children and chance.random() < 0.4,
            chance.random(),
            chance.randint(1, 30),
        )
        root = folder / f"kill-{number}"
        outcome = _try(kind, kill, whole[kind.name], root)
        tally.add((kind.name, kill.signum.name), outcome, f"{kill}: {root}")
        yield tally
        if tally.tried.total() == count:
            return


def _order(kinds: Sequence[Kind], chance: random.Random) -> list[Kind]:
    """Each at least once, however few kills there are; then by weight."""
    order = [kind for kind in kinds for _ in range(kind.weight - 1)]
    chance.shuffle(order)
    return [*kinds, *order]


def _undisturbed(kind: Kind, folder: Path) -> tuple[Path, float]:
    """A whole run, and the seconds that it takes."""
    root = folder / f"whole-{KINDS.index(kind)}"
    root.mkdir()
    began = time.monotonic()
    command = begin(kind, root)
    status = command.wait_working(_WORK_SECONDS)
    command.end()
    assert status == 0, command.printed()
    return root / "logs" / "run", time.monotonic() - began


def _try(kind: Kind, kill: Kill, whole: tuple[Path, float], root: Path) -> Outcome:
    """One kill, and what comes after it."""
    reference, seconds = whole
    run = root / "logs" / "run"
    root.mkdir()
    command = begin(kind, root)
    wait_for(kill, command, run=run, seconds=seconds, is_fit=kind.is_fit)
    has_landed = send(kill, command)
    is_unfinished = bool(unsaved(reference, run))
    problem = ""
    if has_landed and _was_ending(kill, command, is_unfinished=is_unfinished):
        has_landed = False
    if has_landed:
        problem = _end(kind, kill, command, reference) or _go_on(kind, root, reference)
    else:
        assert command.poll() in (None, 0), command.printed()
        command.end()
    if not problem:
        shutil.rmtree(root, ignore_errors=True)  # workers of a missed one may still write
    is_late = kill.moment == "training" and not is_unfinished
    if not has_landed or (is_late and not problem):
        return Outcome(has_landed=False)
    return Outcome(has_landed, is_unfinished, problem)


def _was_ending(kill: Kill, command: Command, *, is_unfinished: bool) -> bool:
    """Whether a process was done with everything, its exit included, when SIGKILL came."""
    is_of_first = kill.signum == signal.SIGKILL and not kill.is_of_child
    return is_of_first and not is_unfinished and command.wait_working(_WORK_SECONDS) == 0


def _end(kind: Kind, kill: Kill, command: Command, reference: Path) -> str:
    """Waits for the end of what was killed; what is wrong with it, empty if nothing."""
    status = command.wait_working(_WORK_SECONDS)
    command.end()
    if status is None:
        return "hangs when it is told to stop"
    run = command.log.parent / "logs" / "run"
    return wrong_end(
        kill,
        status,
        printed=command.printed(),
        is_fit=kind.is_fit,
        is_begun=any(run.rglob("last.ckpt")),
        is_saved=not unsaved(reference, run),
    )


def _go_on(kind: Kind, root: Path, reference: Path) -> str:
    """Begins it again; what was lost, empty if nothing."""
    again = begin(kind, root, is_again=True)
    status = again.wait_working(_WORK_SECONDS)
    again.end()
    if status != 0:
        return f"does not go on: exit status {status}"
    run = root / "logs" / "run"
    return "; ".join(unreadable(run) or differences(reference, run))
