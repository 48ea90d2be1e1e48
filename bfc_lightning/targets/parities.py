"""Products of pairs on the Boolean cube, and products of these: a target with vector values."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.inputs import InputDistribution
from bfc_lightning.targets.base import Target
from bfc_lightning.targets.staircase import require_cube

_NUM_PAIRS = 8
_REPEATS = 4


class NestedParities(Target):
    """A function of products of pairs on the Boolean cube, with eight outputs.

        H(x) = beta F(x) + alpha G(F(x))                        in R^8
        F(x) = (x_1 x_2, x_3 x_4, ..., x_15 x_16)
        G(y) = (y_1 y_2 y_3 y_4, ..., y_5 y_6 y_7 y_8, ...), each of the two four times

    Level 1 is beta F, of degree 2, and level 2 is alpha G(F), of degree 8. All monomials are
    orthonormal under the uniform distribution, so that E|H|^2 = 8 (beta^2 + alpha^2). Other
    coordinates of x are irrelevant.

    Source: Allen-Zhu and Li, arXiv 1905.10337, experiments. They print two entries of G. That each
    has four copies is our reading of the scale of their loss, E|alpha G|^2 = 0.72 at alpha = 0.3.

    Args:
        inputs: the distribution of x, `Hypercube` of dimension at least 16.
        beta: weight of level 1, at least 0.
        alpha: weight of level 2, positive.

    Raises:
        ValueError: if x is not on the cube, or a number is out of range.
    """

    output_shape = (_NUM_PAIRS,)

    def __init__(self, inputs: InputDistribution, beta: float = 1.0, alpha: float = 0.3) -> None:
        super().__init__(inputs)
        if self.input_dim < 2 * _NUM_PAIRS:
            raise ValueError(f"input_dim must be at least {2 * _NUM_PAIRS}, got {self.input_dim}.")
        if not (0 <= beta < math.inf and 0 < alpha < math.inf):
            raise ValueError(
                f"beta must be at least 0 and alpha positive, got beta {beta} and alpha {alpha}."
            )
        require_cube(inputs, type(self).__name__)
        self.level_scales = self.beta, self.alpha = beta, alpha
        self.mean.zero_()
        self.variance.fill_(beta**2 + alpha**2)

    def level_outputs(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n levels k"]:
        """Returns beta F(x) and alpha G(F(x))."""
        pairs = x[:, : 2 * _NUM_PAIRS].reshape(-1, _NUM_PAIRS, 2).prod(dim=2)
        products = pairs.reshape(-1, _NUM_PAIRS // _REPEATS, _REPEATS).prod(dim=2)
        upper = products.repeat_interleave(_REPEATS, dim=1)
        return torch.stack([self.beta * pairs, self.alpha * upper], dim=1)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Returns H(x)."""
        return self.level_outputs(x).sum(dim=1)
