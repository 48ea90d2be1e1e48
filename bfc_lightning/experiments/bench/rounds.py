"""Contestants take turns: whatever else the machine does meets all of them alike."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

Name = Literal["fit", "fit_plain", "replicas", "bare", "compiled", "jax", "limit"]
CONTESTANTS: tuple[Name, ...] = get_args(Name)
"""Who takes part, in the order of their turns; `replicas` only where their number is given."""


class Skipped(Exception):  # noqa: N818, no error of the program
    """A contestant cannot take part here; its text says why, in a few words."""


class Contestant(Protocol):
    """A way to do the work; made ready, and compiled where it is, when it is made."""

    def seconds_per_step(self) -> float:
        """Does the work once.

        Returns:
            Seconds that a training step took.
        """


@dataclass
class Times:
    """What the rounds of one size gave.

    Attributes:
        contestants: who takes part.
        seconds: per step, one number a round, by contestant.
        skipped: why the others did not take part, by contestant.
    """

    contestants: dict[Name, Contestant] = field(default_factory=dict)
    seconds: dict[Name, list[float]] = field(default_factory=dict)
    skipped: dict[Name, str] = field(default_factory=dict)


def take_turns(
    makers: Mapping[Name, Callable[[], Contestant]],
    num_rounds: int,
    *,
    told: Callable[[str], None],
    after_round: Callable[[Times], None],
) -> Times:
    """Times the contestants, one after another, round after round.

    Args:
        makers: make the contestants ready, by name, in their order.
        num_rounds: how many times each of them runs.
        told: gets a line whenever one of them has run.
        after_round: gets what is known after each round.

    Returns:
        The times.
    """
    times = Times()
    for name, make in makers.items():
        try:
            times.contestants[name] = make()
            times.seconds[name] = []
        except Skipped as reason:
            times.skipped[name] = str(reason)
            told(f"{name} is skipped: {reason}")
    for number in range(1, num_rounds + 1):
        for name, contestant in times.contestants.items():
            gc.collect()
            times.seconds[name].append(contestant.seconds_per_step())
            told(f"{number}/{num_rounds} {name} {1e3 * times.seconds[name][-1]:.4g} ms a step")
        after_round(times)
    return times


def ratios(numerator: Sequence[float], denominator: Sequence[float]) -> list[float]:
    """How many times as long one contestant took as another, round by round.

    Args:
        numerator: seconds of the one.
        denominator: seconds of the other, in the same rounds.

    Returns:
        One number a round.
    """
    return [one / other for one, other in zip(numerator, denominator, strict=True)]
