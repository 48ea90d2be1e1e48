"""Training schemes: the layers that are part of f, and the trained layers, at every step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import ClassVar, Literal, get_args

from bfc_lightning.gradients import Cut
from bfc_lightning.types import as_integer

Control = Literal["taught_levels", "detach_features", "detach_readout", "restart", "subtract"]


@dataclass(frozen=True)
class Phase:
    """A part of a run with its own optimizer and learning-rate schedule.

    Args:
        start: number of training steps before the phase.
        stop: number of training steps at the end of the phase.
        depth: layers 1, ..., depth are part of f.
        trained: numbers of the trained layers. c and u, if any, are always trained.
        taught: last level of the target that is part of the labels; None for all levels.
        cut: which gradients are blocked, see `DenseNet.cut`.
        lr_factor: factor of the learning rate.
        distilled: K_2, ..., K_distilled are trained, see `DistilledNet`. 0 for a DenseNet.
        is_open: whether the optimizer covers all layers, also those that join during the phase.
        is_fresh: whether the trained parameters start from their initialization.
        pull: coefficient of sum_l |V_l - V'_l|^2 in the loss, over the layers of the phase before,
            with V'_l their weights at its end.
    """

    start: int
    stop: int
    depth: int
    trained: tuple[int, ...]
    taught: int | None = None
    cut: Cut = "none"
    lr_factor: float = 1.0
    distilled: int = 0
    is_open: bool = False
    is_fresh: bool = False
    pull: float = 0.0

    @property
    def length(self) -> int:
        """The number of training steps."""
        return self.stop - self.start

    def progress(self, step: int) -> float:
        """Returns the completed fraction of the phase after `step` training steps of the run."""
        return (step - self.start) / self.length


class Scheme(ABC):
    """The order in which layers are added to f, and the layers that are trained in each phase.

    Layer l consists of V_{l,j}, b_l and, if it is trainable, v_l. Every phase has its own optimizer
    and learning-rate schedule, and optimizer state is not kept.

    Args:
        freeze: for each layer, the training step from which it is no longer trained, e.g.
            {1: 2000}. Freezing does not start a new phase.

    Attributes:
        control: the control experiment, if any.
        distills: whether the scheme requires a learner with distillation.
        stretches: whether the phases depend on the length of the run.
        check_steps: the training steps between checks that may change what is trained, or None.

    Raises:
        ValueError: if a step is negative.
    """

    control: Control | None = None
    distills: ClassVar[bool] = False
    stretches: bool = False
    check_steps: int | None = None

    def __init__(self, freeze: dict[int, int] | None = None) -> None:
        self.freeze = {
            as_integer(layer, "freeze"): as_integer(step, "freeze", least=0)
            for layer, step in (freeze or {}).items()
        }

    @abstractmethod
    def phase_steps(self, depth: int, max_steps: int) -> list[int]:
        """Returns the lengths of the phases in training steps. Their sum is that of the run.

        Args:
            depth: L, the number of layers of the learner.
            max_steps: length of the run if the scheme does not define it.
        """

    @abstractmethod
    def layers_of_phase(self, number: int, depth: int) -> tuple[int, Sequence[int]]:
        """Returns the number of layers in f, and the numbers of the trained layers, in a phase.

        Args:
            number: number of the phase, counted from 0.
            depth: L.
        """

    def num_graphs(self, depth: int, num_phases: int) -> int:
        """Returns the number of training steps that differ in what they train."""
        return num_phases

    def phases(self, depth: int, max_steps: int) -> list[Phase]:
        """Returns the phases of the run in order, without gaps.

        Args:
            depth: L.
            max_steps: length of the run if the scheme does not define it.

        Raises:
            ValueError: if `freeze` contains a layer or a step that does not exist.
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
            kept = tuple(layer for layer in trained if layer not in self.frozen_at(start))
            distilled = self.distilled_in_phase(number)
            planned.append(Phase(start, stop, active, kept, distilled=distilled))
        return planned

    def distilled_in_phase(self, number: int) -> int:
        """Returns the last layer whose narrow weights are trained in a phase. 0 by default."""
        return 0

    def logged(self, phase: Phase) -> dict[str, int]:
        """Returns what is logged when a phase begins."""
        return {"scheme/active_layers": phase.depth}

    def frozen_at(self, step: int) -> frozenset[int]:
        """Returns the layers that are frozen after `step` training steps."""
        return frozenset(layer for layer, since in self.freeze.items() if since <= step)


class Joint(Scheme):
    """All layers are part of f and trained from the first step."""

    def phase_steps(self, depth: int, max_steps: int) -> list[int]:
        """Returns one phase, the whole run."""
        return [max_steps]

    def layers_of_phase(self, number: int, depth: int) -> tuple[int, Sequence[int]]:
        """Returns all layers, all trained."""
        return depth, range(1, depth + 1)


class OneByOne(Scheme):
    """Layers are added one after another, one per phase.

    Controls test whether a lower layer improves *because* a higher layer was added. Each control
    removes one possible cause. Controls require regression.

    Args:
        steps: length of each phase, one number or one number per layer. The length of the run is
            their sum. By default, `trainer.max_steps` is divided equally.
        freeze: for each layer, the training step from which it is no longer trained.
        lr_factors: factors of the learning rate, one per phase.
        control: `taught_levels`: the labels of phase l contain only levels 1 to l of the target,
            so that layers 1 to l cannot over-fit to higher levels before layer l+1 is added. Other
            controls act from phase 2 on. `detach_features`: gradients do not pass through the
            weights by which a layer reads lower layers. Higher layers affect lower layers only
            through the residual of f. `detach_readout`: the weights of a lower layer get no
            gradient through its own readout, only through the layers that read it. `restart`: the
            optimizer and the schedule are reset, but no layer is added. `subtract`: like
            `restart`, with levels above the first subtracted from the labels, as perfect higher
            layers would do. Use the last checkpoint, since validation uses the whole target.

    Raises:
        ValueError: if a number is out of range.
    """

    controls: ClassVar[tuple[str, ...]] = get_args(Control)

    def __init__(
        self,
        steps: int | list[int] | None = None,
        freeze: dict[int, int] | None = None,
        lr_factors: list[float] | None = None,
        control: Control | None = None,
    ) -> None:
        super().__init__(freeze)
        self.stretches = steps is None
        self.steps = _as_integers(steps)
        if not all(0 < factor < math.inf for factor in lr_factors or []):
            raise ValueError(f"lr_factors must all be positive and finite, got {lr_factors}.")
        if control not in (None, *self.controls):
            raise ValueError(
                f"scheme.control must be one of {', '.join(self.controls)}, got {control}."
            )
        self.lr_factors = lr_factors
        self.control = control

    def phases(self, depth: int, max_steps: int) -> list[Phase]:
        """See `Scheme.phases`. Applies `lr_factors` and the control.

        Raises:
            ValueError: if there is not one factor per phase, or a control has no second phase.
        """
        planned = super().phases(depth, max_steps)
        factors = [1.0] * len(planned) if self.lr_factors is None else self.lr_factors
        if len(factors) != len(planned):
            raise ValueError(
                f"scheme.lr_factors must be one number for each of {len(planned)} phases, "
                f"got {factors}."
            )
        pairs = zip(planned, factors, strict=True)
        planned = [replace(phase, lr_factor=factor) for phase, factor in pairs]
        if self.control is None:
            return planned
        if depth < 2:
            raise ValueError(
                f"scheme.control {self.control} requires at least 2 layers, got {depth}."
            )
        return [_controlled(phase, planned[0].depth, self.control) for phase in planned]

    def num_phases(self, depth: int) -> int:
        """Returns the number of phases: one per layer."""
        return depth

    def phase_steps(self, depth: int, max_steps: int) -> list[int]:
        """Returns `steps`, or `max_steps` divided equally with any remainder in the last phases.

        Raises:
            ValueError: if there is not one number per phase, or fewer training steps than phases.
        """
        count, steps = self.num_phases(depth), self.steps
        if steps is not None:
            lengths = [steps] * count if isinstance(steps, int) else list(steps)
            if len(lengths) != count:
                raise ValueError(
                    f"scheme.steps must be one number or one for each of {count} phases, "
                    f"got {steps}."
                )
            return lengths
        if max_steps < count:
            raise ValueError(
                f"trainer.max_steps must be at least 1 for each of {count} phases, got {max_steps}."
            )
        bounds = [max_steps * number // count for number in range(count + 1)]
        return [stop - start for start, stop in pairwise(bounds)]


class Progressive(OneByOne):
    """Layer l is added in phase l, and all lower layers are still trained.

    It has all controls of `OneByOne`.
    """

    def layers_of_phase(self, number: int, depth: int) -> tuple[int, Sequence[int]]:
        """Returns layers 1 to number + 1, all trained."""
        return number + 1, range(1, number + 2)


class Layerwise(OneByOne):
    """Layer l is added in phase l, and only this layer is trained.

    Its only control is `taught_levels`, see `OneByOne`.
    """

    controls = ("taught_levels",)

    def layers_of_phase(self, number: int, depth: int) -> tuple[int, Sequence[int]]:
        """Returns layers 1 to number + 1, of which only the last is trained."""
        return number + 1, [number + 1]


def _controlled(phase: Phase, first: int, control: Control) -> Phase:
    """Applies a control to a phase of a run that starts with `first` layers."""
    if control == "taught_levels":
        return replace(phase, taught=phase.depth)
    if phase.depth == first:
        return phase
    if control == "detach_features":
        return replace(phase, cut="features")
    if control == "detach_readout":
        return replace(phase, cut="readout")
    kept = tuple(layer for layer in phase.trained if layer <= first)
    same = replace(phase, depth=first, trained=kept, distilled=min(phase.distilled, first))
    return same if control == "restart" else replace(same, taught=first)


def _as_integers(steps: int | Sequence[int] | None) -> int | list[int] | None:
    if isinstance(steps, Sequence):
        return [as_integer(length, "steps", least=1) for length in steps]
    return None if steps is None else as_integer(steps, "steps", least=1)
