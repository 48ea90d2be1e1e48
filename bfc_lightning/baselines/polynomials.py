"""Polynomials in a few variables, fitted by ridge regression on their monomials."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.func import grad

from bfc_lightning.baselines.base import in_chunks
from bfc_lightning.baselines.readout import fit_standardized
from bfc_lightning.measures.functions import monomials


@dataclass(frozen=True)
class Polynomial:
    """p(z) = sum_i c_i phi_i(z) over all monomials phi_i up to a degree.

    Args:
        degree: the highest degree.
        coefficients: c_i, in the order of `monomials`.
    """

    degree: int
    coefficients: Float[Tensor, " count"]

    def __call__(self, z: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """p(z), one block of rows at a time."""
        return in_chunks(self._value, z)

    def gradient(self, z: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """The gradient of p at every row, computed for all rows at once."""
        gradients: Tensor = grad(lambda rows: self._value(rows).sum())(z)
        return gradients

    def _value(self, z: Tensor) -> Tensor:
        return monomials(z, self.degree) @ self.coefficients


def fit_polynomial(
    z: Float[Tensor, "n k"], y: Float[Tensor, " n"], *, degree: int, ridge: float
) -> Polynomial:
    """Ridge regression of y on all monomials of z up to a degree, see `fit_standardized`."""
    return Polynomial(
        degree, fit_standardized(lambda rows: monomials(rows, degree), z, y, ridge=ridge)
    )
