"""Algorithm 1 as a training scheme: stages that start wide weights W_l and narrow weights K_l."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from bfc_lightning.schemes import OneByOne, Phase
from bfc_lightning.types import as_integer


class Thresholds(ABC):
    """Rules that end a stage, by the objective on a fixed sample.

        Obj = E (F - y)^2 + Reg

    Args:
        check_every: training steps between two evaluations of the objective.
        num_samples: size of the sample. It is part of a fixed training set, if there is one, and
            otherwise a sample that is not trained on.
        noise: standard deviation of the noise that the algorithm adds to W in each step. The noise
            of all steps between two checks is added at once, with standard deviation
            noise check_every^(1/2).

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, check_every: int = 200, num_samples: int = 4096, noise: float = 0.0) -> None:
        self.check_every = as_integer(check_every, "check_every", least=1)
        self.num_samples = as_integer(num_samples, "num_samples", least=1)
        self.noise = noise
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be at least 0 and finite, got {noise}.")
        self.noise_per_check = noise * math.sqrt(self.check_every)

    def limit(self, stage: int, *, scales: Sequence[float], input_dim: int) -> float | None:
        """Returns the value that the objective must reach, or None if it depends on the run."""
        return None

    @abstractmethod
    def ends_stage(
        self, stage: int, history: Sequence[float], *, scales: Sequence[float], input_dim: int
    ) -> bool:
        """Whether the next stage begins.

        Args:
            stage: number of the stage, counted from 0: W_2, K_2, W_3, K_3, ...
            history: the objective at the checks since the stage began.
            scales: alpha_2, ..., alpha_L.
            input_dim: d.
        """


class PlateauThresholds(Thresholds):
    """Thresholds relative to the plateau that is measured during the run. Not part of the paper.

    A stage ends when the objective has reached a plateau.

    Args:
        fall: a stage that starts W_l also requires that the objective has fallen to `fall` times
            its value at the start of the stage, since W_l first has to leave a saddle.
        ratio: at a plateau, the smallest value of the last `patience` checks is above `ratio` times
            the smallest earlier one.
        patience: number of checks.
        **settings: see `Thresholds`.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        fall: float = 0.5,
        ratio: float = 0.95,
        patience: int = 5,
        **settings: Any,  # noqa: ANN401, those of the base class
    ) -> None:
        super().__init__(**settings)
        self.fall = fall
        self.ratio = ratio
        self.patience = as_integer(patience, "patience", least=1)
        if not 0 < fall <= 1 or not 0 < ratio <= 1:
            raise ValueError(f"fall and ratio must be in (0, 1], got {fall} and {ratio}.")

    def ends_stage(
        self, stage: int, history: Sequence[float], *, scales: Sequence[float], input_dim: int
    ) -> bool:
        """See `PlateauThresholds`."""
        if len(history) <= self.patience:
            return False
        earlier, recent = history[: -self.patience], history[-self.patience :]
        has_fallen = stage % 2 == 1 or min(recent) <= self.fall * history[0]
        return has_fallen and min(recent) > self.ratio * min(earlier)


class TheoremThresholds(Thresholds):
    """The thresholds of the special case of the theorem.

        K_l starts when Obj <= alpha_l^2 d^(-1/(6 C^l))
        W_l starts when Obj <= alpha_{l-1}^2 d^(-1/(3 C^(l-1)))            l >= 3

    At sizes that can be run, the objective may settle above them, and later stages never begin.

    Source: Allen-Zhu and Li, arXiv 2001.04413, Thres_down and Thres_up.

    Args:
        constant: C, above 1.
        **settings: see `Thresholds`.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        constant: float = 3.0,
        **settings: Any,  # noqa: ANN401, those of the base class
    ) -> None:
        super().__init__(**settings)
        if not 1 < constant < math.inf:
            raise ValueError(f"constant must be above 1 and finite, got {constant}.")
        self.constant = constant

    def limit(self, stage: int, *, scales: Sequence[float], input_dim: int) -> float:
        """Returns the threshold that ends a stage."""
        level = 2 + stage // 2
        divisor = 6 if stage % 2 == 0 else 3
        exponent = -1 / (divisor * self.constant**level)
        return float(scales[level - 2] ** 2 * input_dim**exponent)

    def ends_stage(
        self, stage: int, history: Sequence[float], *, scales: Sequence[float], input_dim: int
    ) -> bool:
        """See `TheoremThresholds`."""
        return history[-1] <= self.limit(stage, scales=scales, input_dim=input_dim)


class Distillation(OneByOne):
    """Algorithm 1: stages W_2, K_2, W_3, K_3, ..., W_L, K_L, each of which adds trained weights.

    K_l starts from W_l by a singular value decomposition, see `initial_distill`. All weights that
    have started train until the end of the run. A stage lasts a number of training steps, with its
    own optimizer and schedule, or until the objective meets a threshold, with one optimizer and one
    schedule for the run. With thresholds, eps_0 is halved and lambda_6 divided by 4 at each check
    at which the objective is below eps_0^2/4.

    Source: Allen-Zhu and Li, arXiv 2001.04413, Algorithm 1. It takes the objective of every step
    and single samples.

    Args:
        steps: length of each stage, one number or one number per stage. By default,
            `trainer.max_steps` is divided equally.
        lr_factors: factors of the learning rate, one per stage.
        control: see `OneByOne`. `detach_readout` is not available.
        thresholds: rules that end a stage, in place of `steps`. The run has `trainer.max_steps`.

    Raises:
        ValueError: if thresholds are combined with other arguments, or a number is out of range.
    """

    controls = ("taught_levels", "detach_features", "restart", "subtract")
    distills: ClassVar[bool] = True

    def __init__(
        self,
        steps: int | list[int] | None = None,
        lr_factors: list[float] | None = None,
        control: Literal["taught_levels", "detach_features", "restart", "subtract"] | None = None,
        thresholds: Thresholds | None = None,
    ) -> None:
        super().__init__(steps, None, lr_factors, control)
        self.thresholds = thresholds
        others = {"steps": steps, "lr_factors": lr_factors, "control": control}
        used = [name for name, value in others.items() if value]
        if thresholds is not None:
            if used:
                raise ValueError(f"{used[0]} cannot be combined with thresholds.")
            self.stretches = False
            self.check_steps = thresholds.check_every

    def num_phases(self, depth: int) -> int:
        """Returns the number of stages, or 1 with thresholds."""
        return 1 if self.thresholds is not None else num_stages(depth)

    def num_graphs(self, depth: int, num_phases: int) -> int:
        """Returns the number of stages."""
        return num_stages(depth)

    def layers_of_phase(self, number: int, depth: int) -> tuple[int, Sequence[int]]:
        """Returns layers 2 to l, all trained."""
        level = 2 + number // 2
        return level, range(2, level + 1)

    def distilled_in_phase(self, number: int) -> int:
        """Returns l after K_l has started, and l - 1 before."""
        return 1 + (number + 1) // 2

    def phases(self, depth: int, max_steps: int) -> list[Phase]:
        """See `Scheme.phases`. With thresholds, the only phase begins with stage 0."""
        planned = super().phases(depth, max_steps)
        if self.thresholds is None:
            return planned
        return [replace(phase, is_open=True) for phase in planned]

    def phase_of_stage(self, phase: Phase, stage: int, depth: int) -> Phase:
        """Returns the phase of a run with thresholds, with the layers of a stage."""
        active, trained = self.layers_of_phase(stage, depth)
        distilled = self.distilled_in_phase(stage)
        return replace(phase, depth=active, trained=tuple(trained), distilled=distilled)

    def logged(self, phase: Phase) -> dict[str, int]:
        """Returns the number of layers and of the stage."""
        return {**super().logged(phase), "scheme/stage": stage_of(phase)}


def num_stages(depth: int) -> int:
    """Returns the number of stages: W_l and K_l of layers 2, ..., L."""
    return 2 * (depth - 1)


def stage_name(stage: int) -> str:
    """Returns the weights that a stage starts, e.g. `W_2`."""
    return f"{'WK'[stage % 2]}_{2 + stage // 2}"


def stage_of(phase: Phase) -> int:
    """Returns the number of the stage whose layers a phase has, counted from 0."""
    return 2 * (phase.depth - 2) + int(phase.distilled >= phase.depth)
