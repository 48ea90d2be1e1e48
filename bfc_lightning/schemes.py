"""Training schemes: which layers take part in f, and which are trained, at every step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import ClassVar, Literal, get_args

from bfc_lightning.networks import Cut

Control = Literal["taught_levels", "detach_features", "detach_readout", "restart", "subtract"]


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with one optimizer and one run of the learning-rate schedule.

    Args:
        start: optimizer steps taken before it.
        stop: optimizer steps taken when it is over.
        depth: layers 1, ..., depth are part of f.
        trained: numbers of the layers that are trained; c and u always are.
        taught: labels are cut off after this level of the target; None for the whole target.
        cut: which gradients are cut, see `DenseNet.cut`.
        lr_factor: multiplies the learning rate.
    """

    start: int
    stop: int
    depth: int
    trained: tuple[int, ...]
    taught: int | None = None
    cut: Cut = "none"
    lr_factor: float = 1.0

    @property
    def is_intervened(self) -> bool:
        """Whether labels or gradients are changed, which only the autograd path carries out."""
        return self.taught is not None or self.cut != "none"

    @property
    def length(self) -> int:
        """Its optimizer steps."""
        return self.stop - self.start

    def progress(self, step: int) -> float:
        """The part of it that is done after `step` optimizer steps of the run."""
        return (step - self.start) / self.length


class Scheme(ABC):
    """In which order the layers join f, and which of them go on training.

    Layer l means V_{l,j}, b_l and, where it is trainable, v_l. A layer that has not joined is
    absent from f. Every phase has an optimizer of its own, without memory, and its own run of the
    learning-rate schedule.

    Args:
        freeze: layer by layer, the optimizer step from which it is trained no more, e.g. {1: 2000}.
            Nothing starts anew there.

    Attributes:
        control: what a scheme of several phases is controlled by, if anything.

    Raises:
        ValueError: if a step is negative.
    """

    control: Control | None = None

    def __init__(self, freeze: dict[int, int] | None = None) -> None:
        self.freeze = dict(freeze or {})
        if min(self.freeze.values(), default=0) < 0:
            raise ValueError(f"freeze must name steps from 0 on, got {self.freeze}.")

    @abstractmethod
    def phase_steps(self, depth: int, max_steps: int) -> list[int]:
        """The lengths of the phases, in optimizer steps.

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
        """The layers that `freeze` holds after `step` optimizer steps."""
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

    controls: ClassVar[tuple[str, ...]] = get_args(Control)

    def __init__(
        self,
        steps: int | list[int] | None = None,
        freeze: dict[int, int] | None = None,
        lr_factors: list[float] | None = None,
        control: Control | None = None,
    ) -> None:
        super().__init__(freeze)
        if min(_as_list(steps), default=1) < 1:
            raise ValueError(f"steps must be at least 1 in every phase, got {steps}.")
        if not all(0 < factor < math.inf for factor in lr_factors or []):
            raise ValueError(f"lr_factors must all be positive and finite, got {lr_factors}.")
        if control not in (None, *self.controls):
            raise ValueError(f"control must be one of {', '.join(self.controls)}, got {control}.")
        self.steps = steps
        self.lr_factors = lr_factors
        self.control = control

    def phases(self, depth: int, max_steps: int) -> list[Phase]:
        """See `Scheme.phases`; with `lr_factors` and the control of the scheme.

        Raises:
            ValueError: if there is not one factor for each phase, or no second phase to control.
        """
        planned = super().phases(depth, max_steps)
        factors = [1.0] * depth if self.lr_factors is None else self.lr_factors
        if len(factors) != depth:
            raise ValueError(
                f"scheme.lr_factors must be one number for each of {depth} layers, got {factors}."
            )
        planned = [
            replace(phase, lr_factor=factor) for phase, factor in zip(planned, factors, strict=True)
        ]
        if self.control is None:
            return planned
        if depth < 2:
            raise ValueError(
                f"scheme.control {self.control} acts from phase 2 on: it needs a learner of at "
                f"least 2 layers, got {depth}."
            )
        return [
            _controlled(phase, number, self.control)
            for number, phase in enumerate(planned, start=1)
        ]

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

    Whether a lower layer improves *because* a higher one has joined is a question for controls,
    each of which takes one possible cause away. They need regression.

    Args:
        steps: of each phase, one number or one for each layer; the run's length is then their sum.
            Without them, `trainer.max_steps` is shared out equally.
        freeze: for each layer, the step from which it is no longer trained.
        lr_factors: multiply the learning rate, one number for each phase.
        control: `taught_levels`: labels of phase l are cut off after level l of the target, so that
            layers 1 to l have nothing to over-fit to before layer l+1 joins. From phase 2 on,
            `detach_features`: no gradient passes through the weights by which a layer reads lower
            ones, and a lower layer sees higher ones only through the residual of f;
            `detach_readout`: the weights of a lower layer get no gradient through its own readout,
            only through the layers that read it; `restart`: optimizer and schedule start again, but
            no layer joins the first; `subtract`: as `restart`, and levels above the first are
            subtracted from the labels, as perfect higher layers would. Validation scores the whole
            target, so with `subtract` look at the last checkpoint and not at the best one.

    Raises:
        ValueError: if a number is out of range.
    """

    def layers_of_phase(self, number: int, depth: int) -> tuple[int, Sequence[int]]:
        """Layers 1 to number + 1, all trained."""
        return number + 1, range(1, number + 2)


class Layerwise(_OneByOne):
    """Layer l joins at the start of phase l; it alone is trained, then frozen for good.

    Args:
        steps: of each phase, one number or one for each layer; the run's length is then their sum.
            Without them, `trainer.max_steps` is shared out equally.
        freeze: for each layer, the step from which it is no longer trained.
        lr_factors: multiply the learning rate, one number for each phase.
        control: `taught_levels`: labels of phase l are cut off after level l of the target.

    Raises:
        ValueError: if a number is out of range.
    """

    controls = ("taught_levels",)

    def __init__(
        self,
        steps: int | list[int] | None = None,
        freeze: dict[int, int] | None = None,
        lr_factors: list[float] | None = None,
        control: Literal["taught_levels"] | None = None,
    ) -> None:
        super().__init__(steps, freeze, lr_factors, control)

    def layers_of_phase(self, number: int, depth: int) -> tuple[int, Sequence[int]]:
        """Layers 1 to number + 1, of which the last is trained."""
        return number + 1, [number + 1]


def _controlled(phase: Phase, number: int, control: Control) -> Phase:
    """Phase `number`, counted from 1, under a control."""
    if control == "taught_levels":
        return replace(phase, taught=number)
    if number == 1:
        return phase
    if control == "detach_features":
        return replace(phase, cut="features")
    if control == "detach_readout":
        return replace(phase, cut="readout")
    alone = replace(phase, depth=1, trained=tuple(set(phase.trained) & {1}))
    return alone if control == "restart" else replace(alone, taught=1)


def _as_list(steps: int | list[int] | None) -> list[int]:
    return [] if steps is None else [steps] if isinstance(steps, int) else steps
