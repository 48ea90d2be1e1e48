"""Schemes that train the first layers alone, and then all layers from their initialization."""

import math
from collections.abc import Sequence
from dataclasses import replace

from bfc_lightning.schemes import OneByOne, Phase
from bfc_lightning.types import as_integer


class _FirstLayersThenAll(OneByOne):
    """Phase 1 trains layers 1, ..., first alone. Phase 2 adds all other layers.

    In phase 2, all trained parameters start from their initialization, the same as at the start of
    the run. The parameters include c and u. `FreezeBelow` describes the arguments.
    """

    num_frozen = 0  # layers that are frozen in phase 2
    pull = 0.0

    def __init__(self, first: int, steps: int | list[int] | None = None) -> None:
        super().__init__(steps)
        self.first = as_integer(first, "first", least=1)

    def num_phases(self, depth: int) -> int:
        """Returns 2."""
        return 2

    def layers_of_phase(self, number: int, depth: int) -> tuple[int, Sequence[int]]:
        """Returns layers 1 to `first`, all trained, and then all layers, with frozen ones."""
        if number == 0:
            return self.first, range(1, self.first + 1)
        return depth, range(self.num_frozen + 1, depth + 1)

    def phases(self, depth: int, max_steps: int) -> list[Phase]:
        """See `Scheme.phases`.

        Raises:
            ValueError: if no layer is left for phase 2.
        """
        if self.first >= depth:
            raise ValueError(
                f"scheme.first must be less than the number of layers, {depth}, got {self.first}."
            )
        alone, whole = super().phases(depth, max_steps)
        return [alone, replace(whole, is_fresh=True, pull=self.pull)]


class FreezeBelow(_FirstLayersThenAll):
    """Layers 1, ..., first alone, then all layers, with layers 1, ..., first - depth frozen.

    This measures how deep the correction of lower layers reaches. In phase 2, all layers that are
    not frozen, c and u start from their initialization.

    Source: the experiment on the depth of the correction in Allen-Zhu and Li, arXiv 2001.04413.

    Args:
        first: number of layers of phase 1, at least 1 and less than L.
        depth: how many of these layers train in phase 2, counted from the highest one. 0 freezes
            all of them, as in layerwise training. `first` freezes none.
        steps: length of each phase, one number or two. By default, `trainer.max_steps` is divided
            equally.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, first: int, depth: int, steps: int | list[int] | None = None) -> None:
        super().__init__(first, steps)
        self.depth = as_integer(depth, "depth")
        if not 0 <= self.depth <= self.first:
            raise ValueError(
                f"scheme.depth must be between 0 and scheme.first, {self.first}, got {depth}."
            )
        self.num_frozen = self.first - self.depth


class PullBelow(_FirstLayersThenAll):
    """Layers 1, ..., first alone, then all layers, with the lower ones pulled to earlier weights.

    In phase 2, no layer is frozen, and all parameters start from their initialization. The loss of
    phase 2 contains pull * sum_l |V_l - V'_l|^2 over l = 1, ..., first, with V'_l the weights of
    layer l at the end of phase 1. If the error is as low as without the penalty, there are
    corrected weights close to the earlier ones.

    Source: the experiment on the amount of correction in Allen-Zhu and Li, arXiv 2001.04413, where
    the coefficient is 0.0005 or 0.0007.

    Args:
        first: number of layers of phase 1, at least 1 and less than L.
        pull: coefficient of the penalty, positive.
        steps: length of each phase, one number or two. By default, `trainer.max_steps` is divided
            equally.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, first: int, pull: float, steps: int | list[int] | None = None) -> None:
        super().__init__(first, steps)
        if not 0 < pull < math.inf:
            raise ValueError(f"pull must be positive and finite, got {pull}.")
        self.pull = pull
