"""Training schemes: which layers take part in f, and which are trained, at every step."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with one optimiser and one run of the learning-rate schedule.

    Args:
        start: optimiser steps taken before it.
        stop: optimiser steps taken when it is over.
        depth: layers 1, ..., depth are part of f.
        trained: numbers of the layers that are trained; c and u always are.
    """

    start: int
    stop: int
    depth: int
    trained: tuple[int, ...]

    @property
    def length(self) -> int:
        """Its optimiser steps."""
        return self.stop - self.start

    def progress(self, step: int) -> float:
        """The part of it that is done after `step` optimiser steps of the run."""
        return (step - self.start) / self.length


class Scheme(ABC):
    """In which order the layers join f, and which of them go on training.

    Layer l means V_{l,j}, b_l and, where it is trainable, v_l. A layer that has not joined is
    absent from f. Every phase has an optimiser of its own, without memory, and its own run of the
    learning-rate schedule.

    Args:
        freeze: layer by layer, the optimiser step from which it is trained no more, e.g. {1: 2000}.
            Nothing starts anew there.

    Raises:
        ValueError: if a step is negative.
    """

    def __init__(self, freeze: dict[int, int] | None = None) -> None:
        self.freeze = dict(freeze or {})
        if min(self.freeze.values(), default=0) < 0:
            raise ValueError(f"freeze must name steps from 0 on, got {self.freeze}.")

    @abstractmethod
    def phase_steps(self, depth: int, max_steps: int) -> list[int]:
        """The lengths of the phases, in optimiser steps.

        Args:
            depth: L, layers of the learner.
            max_steps: the run's length where the scheme has none of its own.

        Returns:
            One length a phase; the run's length is their sum.
        """

    @abstractmethod
    def layers_of_phase(self, number: int, depth: int) -> tuple[int, Sequence[int]]:
        """What phase `number` (from 0) is about.

        Args:
            number: of the phase.
            depth: L.

        Returns:
            How many layers are part of f, and which of them are trained.
        """

    @property
    def stretches(self) -> bool:
        """Whether the phases follow from the run's length, so that a longer run is another one."""
        return False

    def phases(self, depth: int, max_steps: int) -> list[Phase]:
        """The whole run.

        Args:
            depth: L.
            max_steps: the run's length where the scheme has none of its own.

        Returns:
            The phases, in order, without gaps.

        Raises:
            ValueError: if `freeze` names a layer or a step that does not exist.
        """
        bounds = list(accumulate(self.phase_steps(depth, max_steps), initial=0))
        for layer, step in self.freeze.items():
            if not 1 <= layer <= depth:
                raise ValueError(f"scheme.freeze must name layers 1 to {depth}, got {layer}.")
            if step >= bounds[-1]:
                raise ValueError(
                    f"scheme.freeze must name steps below the run's {bounds[-1]}, got {step}."
                )
        planned = []
        for number, (start, stop) in enumerate(pairwise(bounds)):
            active, trained = self.layers_of_phase(number, depth)
            frozen = self.frozen_at(start)
            kept = tuple(layer for layer in trained if layer not in frozen)
            planned.append(Phase(start, stop, active, kept))
        return planned

    def frozen_at(self, step: int) -> frozenset[int]:
        """The layers that `freeze` holds after `step` optimiser steps."""
        return frozenset(layer for layer, since in self.freeze.items() if since <= step)


class Joint(Scheme):
    """All layers from the first step on."""

    def phase_steps(self, depth: int, max_steps: int) -> list[int]:
        """One phase, the whole run."""
        return [max_steps]

    def layers_of_phase(self, number: int, depth: int) -> tuple[int, Sequence[int]]:
        """All layers, all trained."""
        return depth, range(1, depth + 1)


class _OneByOne(Scheme):
    """Layers that join one after another, a phase each."""

    def __init__(
        self, steps: int | list[int] | None = None, freeze: dict[int, int] | None = None
    ) -> None:
        super().__init__(freeze)
        if min(_as_list(steps), default=1) < 1:
            raise ValueError(f"steps must be at least 1 in every phase, got {steps}.")
        self.steps = steps

    @property
    def stretches(self) -> bool:
        """Whether no steps were given."""
        return self.steps is None

    def phase_steps(self, depth: int, max_steps: int) -> list[int]:
        """`steps`, or the run shared out equally; what does not divide goes to the last phases.

        Raises:
            ValueError: if there is not one number a layer, or not one step for each.
        """
        if isinstance(self.steps, int):
            return [self.steps] * depth
        if self.steps is not None:
            if len(self.steps) != depth:
                raise ValueError(
                    f"scheme.steps must be one number or one for each of {depth} layers, "
                    f"got {self.steps}."
                )
            return list(self.steps)
        if max_steps < depth:
            raise ValueError(
                f"trainer.max_steps must be at least 1 for each of {depth} layers, got {max_steps}."
            )
        shared = [max_steps * number // depth for number in range(depth + 1)]
        return [stop - start for start, stop in pairwise(shared)]


class Progressive(_OneByOne):
    """Layer l joins at the start of phase l, and all lower ones go on training.

    What this shows: the features of a lower layer, settled while it trained alone, become better
    once a higher one joins.

    Args:
        steps: of each phase, one number or one a layer; the run's length is then their sum. Without
            them, `trainer.max_steps` is shared out equally.
        freeze: layer by layer, the step from which it is trained no more.

    Raises:
        ValueError: if a number of steps is below 1 or a frozen step negative.
    """

    def layers_of_phase(self, number: int, depth: int) -> tuple[int, Sequence[int]]:
        """Layers 1 to number + 1, all trained."""
        return number + 1, range(1, number + 2)


class Layerwise(_OneByOne):
    """Layer l joins at the start of phase l; it alone is trained, then frozen for good.

    Args:
        steps: of each phase, one number or one a layer; the run's length is then their sum. Without
            them, `trainer.max_steps` is shared out equally.
        freeze: layer by layer, the step from which it is trained no more.

    Raises:
        ValueError: if a number of steps is below 1 or a frozen step negative.
    """

    def layers_of_phase(self, number: int, depth: int) -> tuple[int, Sequence[int]]:
        """Layers 1 to number + 1, of which the last is trained."""
        return number + 1, [number + 1]


def _as_list(steps: int | list[int] | None) -> list[int]:
    return [] if steps is None else [steps] if isinstance(steps, int) else steps
