"""The two examples of the slides, as hierarchical targets with explicit weights."""

from typing import Literal

import torch

from bfc_lightning.inputs import InputDistribution, haar_orthogonal
from bfc_lightning.seeds import generator
from bfc_lightning.targets.hierarchical import HierarchicalTarget
from bfc_lightning.targets.specification import Weights
from bfc_lightning.types import as_integer

_IDENTITY = [[1.0, 0.0], [0.0, 1.0]]


def _unit_rows(input_dim: int, first: int) -> list[list[float]]:
    """The unit vectors e_first and e_{first+1}."""
    as_integer(input_dim, "input_dim", least=first + 2)
    rows: list[list[float]] = torch.eye(input_dim)[first : first + 2].tolist()
    return rows


class RichRepresentation(HierarchicalTarget):
    """Shows why over-parameterization matters: the first level has many representations.

        G(x) = x_1^2 + x_2^2 + a (x_1^4 + x_2^4)

    The first level is invariant under rotations of (x_1, x_2), and the second is not. A layer of
    two neurons that is trained alone can learn a rotation that cannot represent x_1^4 + x_2^4.

    Optimizers with coordinate-wise learning rates, such as Adam, tend to the diagonals x_1 + x_2
    and x_1 - x_2, which are the worst rotation. `basis: random` avoids this. It replaces x_1 and
    x_2 by the coordinates along two orthonormal Haar-distributed directions.

    Source: the slides on hierarchical learning (Li), first example, with a = 0.3 and x ~ N(0, 1)
    in R^1000.

    Args:
        inputs: the distribution of x, of dimension at least 2.
        gap: a, the weight of the second level.
        basis: `coordinates`, as in the formula, or `random` directions.
        seed: seed of the random directions and of the samples that estimate E G and Var G.
    """

    def __init__(
        self,
        inputs: InputDistribution,
        gap: float = 0.3,
        basis: Literal["coordinates", "random"] = "coordinates",
        seed: int | None = None,
    ) -> None:
        rows = _unit_rows(inputs.input_dim, 0)
        if basis == "random":
            random = generator(0 if seed is None else seed, "basis")
            rows = haar_orthogonal(inputs.input_dim, random)[:2].tolist()
        weights: Weights = [[rows], [_IDENTITY]]
        super().__init__(
            inputs,
            widths=[2, 2],
            level_scales=[1.0, gap],
            sources=[[0], [1]],
            signs="positive",
            normalize=False,
            weights=weights,
            seed=seed,
        )


class BackwardCorrection(HierarchicalTarget):
    """Shows why lower layers need correction: the first layer also fits part of the second level.

        G(x) = x_1^2 + x_2^2 + a ((x_1^2 + x_3)^2 + (x_2^2 + x_4)^2)

    Trained alone, the first layer learns about (x_1 + a x_3)^2 + (x_2 + a x_4)^2. When the second
    layer is trained as well, the weight of x_3 and x_4 in the first layer shrinks to a^2, a^3, ...

    Source: the slides on hierarchical learning (Li), second example, with a = 0.3 and x in R^1000
    with mean 1 in every coordinate.

    Args:
        inputs: the distribution of x, of dimension at least 4.
        gap: a, the weight of the second level.
        seed: seed of the samples that estimate E G and Var G.
    """

    def __init__(
        self, inputs: InputDistribution, gap: float = 0.3, seed: int | None = None
    ) -> None:
        upper = [_unit_rows(inputs.input_dim, 2), _IDENTITY]
        weights: Weights = [[_unit_rows(inputs.input_dim, 0)], upper]
        super().__init__(
            inputs,
            widths=[2, 2],
            level_scales=[1.0, gap],
            sources=[[0], [0, 1]],
            signs="positive",
            normalize=False,
            weights=weights,
            seed=seed,
        )
