"""SIGHT: a function of one feature, which is a sum over a subset of directions."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.inputs import InputDistribution, haar_orthogonal
from bfc_lightning.seeds import generator
from bfc_lightning.targets.base import Target


class Sight(Target):
    """A single-index Gaussian hierarchical target.

        G(x) = tanh(3 h(x)),   h(x) = r^(-1/2) sum_{i=1..r} a_i P(<w_i, x>),   r = d^e, rounded
        P(z) = He_2(z)/2! + He_3(z)/3! = (z^2 - 1)/2 + (z^3 - 3z)/6

    The directions w_1, ..., w_r are orthonormal and Haar-distributed, and the signs a_i are random.
    Under N(0, 1), h has mean 0 and variance 1/2! + 1/3! = 2/3. Learning the directions takes about
    d^(1+e) samples. Given the directions, learning h takes about r^3 samples. Given h, learning
    tanh takes few samples.

    Source: Dandi, Pesce, Zdeborova and Krzakala, arXiv 2502.13961, SIGHT; the factors 1/k! and the
    random signs are those of the authors' code (github.com/IdePHICS/ComputationalDepth).

    Args:
        inputs: the distribution of x.
        exponent: e, in (0, 1].
        seed: seed of directions and signs, 0 by default.

    Raises:
        ValueError: if the exponent is out of range.
    """

    directions: Tensor
    signs: Tensor

    def __init__(
        self, inputs: InputDistribution, exponent: float = 0.5, seed: int | None = None
    ) -> None:
        super().__init__(inputs)
        if not 0 < exponent <= 1:
            raise ValueError(f"exponent must lie in (0, 1], got {exponent}.")
        seed = 0 if seed is None else seed
        self.exponent = exponent
        r = max(1, round(self.input_dim**exponent))
        rotation = haar_orthogonal(self.input_dim, generator(seed, "directions"))
        bits = torch.randint(0, 2, (r,), generator=generator(seed, "signs"))
        self.register_buffer("directions", rotation[:r])
        self.register_buffer("signs", 2 * bits.double() - 1)
        self.estimate_moments(seed)

    def feature(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Returns h(x)."""
        z = x @ self.directions.T
        return (z**3 / 6 + z**2 / 2 - z / 2 - 0.5) @ self.signs / math.sqrt(len(self.signs))

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Returns tanh(3 h(x))."""
        return (3 * self.feature(x)).tanh()
