"""The staircase: monomials on the Boolean cube, each of which extends the one before."""

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.inputs import InputDistribution
from bfc_lightning.seeds import generator
from bfc_lightning.targets.base import LayeredTarget
from bfc_lightning.targets.specification import resolve_scales
from bfc_lightning.types import as_integer


def require_cube(inputs: InputDistribution, name: str) -> None:
    """Checks that samples of x are on the Boolean cube, for the target with the given name.

    Raises:
        ValueError: if they are not.
    """
    if not bool((inputs.sample(256, generator(0, "cube")).abs() == 1).all()):
        raise ValueError(
            f"inputs of a {name} must be on the cube {{-1, 1}}^d, got other values: use "
            "Hypercube and regression."
        )


class Staircase(LayeredTarget):
    """A sum of monomials on the Boolean cube, each with one variable more than the one before.

        G(x) = sum_{l=1..L} alpha_l G_l(x),   G_l = x_1 x_2 ... x_l

    On {-1, 1}^d, each monomial is the square of a sum of the one before and a coordinate, up to
    constants:

        G_l = (S_l^2 - 2) / 2,   S_l = G_{l-1} + x_l,   G_0 = 1

    The monomials are orthonormal under the uniform distribution. Hence Var G = sum_l alpha_l^2, and
    the best approximation of G by polynomials of degree q is the sum of its first q levels: higher
    levels do not change what a lower layer has to learn, and nothing has to be corrected. The leap
    is 1: no monomial has more than one variable that is not in the one before.

    Source: Abbe et al., arXiv 2302.11055, staircase functions; Allen-Zhu and Li, arXiv 2001.04413,
    on correction.

    Args:
        inputs: the distribution of x, `Hypercube`.
        depth: L, from 1 to d.
        level_scales: alpha: a ratio r for r^(l-1), or a list of L positive numbers.
        seed: seed of the samples that estimate E G and Var G, 0 by default.

    Raises:
        ValueError: if x is not on the cube, or an argument is out of range.
    """

    def __init__(
        self,
        inputs: InputDistribution,
        depth: int = 3,
        level_scales: float | list[float] = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(inputs)
        seed = 0 if seed is None else seed
        self.depth = as_integer(depth, "depth", least=1)
        if self.depth > self.input_dim:
            raise ValueError(f"depth must be at most input_dim = {self.input_dim}, got {depth}.")
        require_cube(inputs, type(self).__name__)
        scales = resolve_scales(level_scales, input_dim=self.input_dim, depth=self.depth)
        self.level_scales = tuple(scales)
        self.estimate_moments(seed)

    def preactivations(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """Returns S_1..S_L, shapes (n, 1)."""
        below = [torch.ones_like(x[:, :1]), *self.features(x)[:-1]]
        return [lower + x[:, level : level + 1] for level, lower in enumerate(below)]

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """Returns G_1..G_L, shapes (n, 1)."""
        return list(torch.split(x[:, : self.depth].cumprod(dim=1), 1, dim=1))

    def level_outputs(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n levels"]:
        """Returns alpha_l x_1 ... x_l, one column per level."""
        return x[:, : self.depth].cumprod(dim=1) * x.new_tensor(self.level_scales)
