"""What a run compares with earlier steps: measures at the start of phases, and weights."""

import math
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise

from torch import Tensor

from bfc_lightning.learners import Learner
from bfc_lightning.measures.correlation import weight_correlation
from bfc_lightning.schemes import Phase

_LOW_ERROR = 1e-3


class Milestones:
    """Compares a measurement with earlier ones of the same run.

    - `features/correction_l`: `residual_l` just before the first update of the phase in which layer
      l + 1 joins, divided by `residual_l` now, if layer l continues to train.
    - `features/halved_step_l`: the first measured step at which `residual_l` is at most half the
      untrained learner's; `levels/halved_step_l`: at which `levels/residual_l` is at most 1/2.
    - `features/consumed_leakage_1_fall`: the consumed leakage when `levels/nmse` was first at most
      1e-3, divided by that now.
    """

    def __init__(self, phases: Iterable[Phase]) -> None:
        self.kept: dict[str, float] = {}
        self._joins = {
            after.start: before.depth
            for before, after in pairwise(phases)
            if after.depth > before.depth and before.depth in after.trained
        }

    def compare(self, step: int, named: Mapping[str, float]) -> dict[str, float]:
        """The numbers that follow from measures and references, by name, and from earlier ones."""
        if step in self._joins:
            key = f"features/residual_{self._joins[step]}"
            if key in named:
                self.kept[key] = named[key]
        corrections = {
            key.replace("residual", "correction"): _ratio(value, named[key])
            for key, value in self.kept.items()
            if key.startswith("features/residual_") and key in named
        }
        return {**corrections, **self._halved(step, named), **self._fall(named)}

    def _halved(self, step: int, named: Mapping[str, float]) -> dict[str, float]:
        reached = {}
        for key, value in named.items():
            if re.fullmatch(r"(features|levels)/residual_\d+", key):
                mark = key.replace("residual", "halved_step")
                whole = 1.0 if key.startswith("levels") else named.get(f"{key}_untrained", 0.0)
                if value <= whole / 2:
                    self.kept.setdefault(mark, step)
                if mark in self.kept:
                    reached[mark] = self.kept[mark]
        return reached

    def _fall(self, named: Mapping[str, float]) -> dict[str, float]:
        key = "features/consumed_leakage_1"
        if key in named and named.get("levels/nmse", math.inf) <= _LOW_ERROR:
            self.kept.setdefault(key, named[key])
        has_both = key in named and key in self.kept
        return {f"{key}_fall": _ratio(self.kept[key], named[key])} if has_both else {}


class WeightMarks:
    """Compares the weights of a learner with earlier ones.

    - `features/weight_correlation_l`: with those just before a layer above l joined.
    - `features/weight_correlation_initial_l`: with the initialization.
    """

    def __init__(self) -> None:
        self.kept: dict[int, Tensor] = {}

    def update(self, network: Learner, depth: int) -> None:
        """Keeps the weights of the active layers below layer `depth`, which joins, once."""
        for level, weights in network.neuron_weights().items():
            if level <= min(depth - 1, network.active_depth) and level not in self.kept:
                self.kept[level] = weights.detach().cpu().clone()

    def compare(self, network: Learner, untrained: Learner) -> dict[str, float]:
        """The correlations of the active layers by name."""
        named, initial = {}, untrained.neuron_weights()
        for level, weights in network.neuron_weights().items():
            if level <= network.active_depth:
                key, now = f"features/weight_correlation_initial_{level}", weights.detach().cpu()
                named[key] = float(weight_correlation(now, initial[level].detach().cpu()))
                if level in self.kept:
                    key = f"features/weight_correlation_{level}"
                    named[key] = float(weight_correlation(now, self.kept[level]))
        return named


def _ratio(before: float, now: float) -> float:
    return before / now if now else math.inf
