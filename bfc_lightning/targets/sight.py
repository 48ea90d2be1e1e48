"""SIGHT: a function of one combination of many features, each of one direction."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.inputs import InputLaw, haar_orthogonal
from bfc_lightning.seeds import generator
from bfc_lightning.targets.base import LayeredTarget


class Sight(LayeredTarget):
    """A single-index Gaussian hierarchical target.

        h(x) = a . P(W x) / sqrt(r),   G(x) = g(h(x)),   r = round(d^e)
        g(z) = tanh(3z),   P(z) = He_2(z)/2! + He_3(z)/3!, entry by entry

    with orthonormal rows in W (r by d, Haar) and random signs a. He_2 = z^2 - 1 and He_3 = z^3 - 3z
    are the probabilists' polynomials. Under N(0, 1) the features P(W x) are independent, and h has
    mean 0 and variance 1/2! + 1/3! = 2/3.

    Its two layers, for measures of features: W x, then P(W x); h, then G.

    Source: Dandi, Pesce, Zdeborova and Krzakala, arXiv 2502.13961; the factors 1/k! and the signs
    are those of the authors' code (IdePHICS/ComputationalDepth).

    Args:
        inputs: the law of x.
        exponent: e, so that there are about d^e features; in (0, 1].
        seed: of W and a; 0 where nobody gives one.

    Raises:
        ValueError: if the exponent is out of range.
    """

    directions: Tensor
    signs: Tensor

    def __init__(self, inputs: InputLaw, exponent: float = 0.5, seed: int | None = None) -> None:
        super().__init__(inputs)
        if not 0 < exponent <= 1:
            raise ValueError(f"exponent must lie in (0, 1], got {exponent}.")
        seed = 0 if seed is None else seed
        self.exponent = exponent
        num_features = round(self.input_dim**exponent)
        rows = haar_orthogonal(self.input_dim, generator(seed, "directions"))[:num_features]
        self.register_buffer("directions", rows)
        coins = torch.randint(0, 2, (num_features,), generator=generator(seed, "signs"))
        self.register_buffer("signs", 2 * coins.double() - 1)
        self.estimate_moments(seed)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """g(h(x))."""
        return (3 * self._combined(self._first(x @ self.directions.T))).tanh()

    def preactivations(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """W x, and h(x) as one column."""
        first = x @ self.directions.T
        return [first, self._combined(self._first(first))[:, None]]

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """P(W x), and G(x) as one column."""
        first, second = self.preactivations(x)
        return [self._first(first), (3 * second).tanh()]

    def _first(self, z: Tensor) -> Tensor:
        return (z**2 - 1) / 2 + (z**3 - 3 * z) / 6

    def _combined(self, features: Tensor) -> Tensor:
        return features @ self.signs / math.sqrt(len(self.signs))
