"""Numbers that compare a moment of a run with an earlier one, and what must be kept for them."""

import math
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from bfc_lightning.schemes import Phase

LOW_ERROR = 1e-3


class Milestones:
    """Keeps earlier values and sets the present ones against them.

    - `features/correction_l`: `residual_l` just before the first update of the phase in which layer
      l + 1 joins, divided by `residual_l` now; where layer l goes on training.
    - `features/halved_step_l`: the first measured step at which `residual_l` is at most half the
      untrained learner's; `levels/halved_step_l`: at which `levels/residual_l` is at most 1/2.
    - `features/consumed_leakage_1_fall`: the consumed leakage when `levels/nmse` was first at most
      1e-3, divided by that now.

    Source: ours.

    Args:
        phases: of the run.
    """

    def __init__(self, phases: Iterable[Phase]) -> None:
        self._joins = {
            after.start: before.depth
            for before, after in pairwise(phases)
            if after.depth > before.depth and before.depth in after.trained
        }
        self._kept: dict[str, float] = {}

    def compare(self, step: int, named: Mapping[str, float]) -> dict[str, float]:
        """What follows from this moment and earlier ones.

        Args:
            step: optimizer steps taken so far.
            named: the measures of this moment, and the references, by name.

        Returns:
            Numbers by name.
        """
        if step in self._joins:
            key = f"features/residual_{self._joins[step]}"
            if key in named:
                self._kept[key] = named[key]
        derived = {
            key.replace("residual", "correction"): _ratio(value, named[key])
            for key, value in self._kept.items()
            if key.startswith("features/residual_") and key in named
        }
        return {**derived, **self._halved(step, named), **self._fall(named)}

    def state_dict(self) -> dict[str, Any]:
        """What is kept."""
        return dict(self._kept)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Goes on with what was kept.

        Args:
            state: from `state_dict`.
        """
        self._kept = dict(state)

    def _halved(self, step: int, named: Mapping[str, float]) -> dict[str, float]:
        reached = {}
        for key, value in named.items():
            if re.fullmatch(r"(features|levels)/residual_\d+", key):
                mark = key.replace("residual", "halved_step")
                whole = 1.0 if key.startswith("levels") else named.get(f"{key}_untrained", 0.0)
                if value <= whole / 2:
                    self._kept.setdefault(mark, step)
                if mark in self._kept:
                    reached[mark] = self._kept[mark]
        return reached

    def _fall(self, named: Mapping[str, float]) -> dict[str, float]:
        key = "features/consumed_leakage_1"
        if key not in named:
            return {}
        if named.get("levels/nmse", math.inf) <= LOW_ERROR:
            self._kept.setdefault(key, named[key])
        return {f"{key}_fall": _ratio(self._kept[key], named[key])} if key in self._kept else {}


def _ratio(before: float, now: float) -> float:
    return before / now if now else float("inf")
