"""Polynomials in a few variables, fitted by ridge regression on their monomials."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad

from bfc_lightning.measures import monomials

_CHUNK = 2048


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
        return torch.cat([self._value(rows) for rows in torch.split(z, _CHUNK)])

    def gradient(self, z: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """The gradient of p at every row, computed for all rows at once."""
        gradients: Tensor = grad(lambda rows: self._value(rows).sum())(z)
        return gradients

    def _value(self, z: Tensor) -> Tensor:
        return monomials(z, self.degree) @ self.coefficients


def fit_polynomial(
    z: Float[Tensor, "n k"], y: Float[Tensor, " n"], *, degree: int, ridge: float
) -> Polynomial:
    """Ridge regression on all standardized monomials. The constant is not penalized.

        min_c |y - sum_i c_i phi_i(z)|^2 + n ridge sum_{i > 0} Var(phi_i) c_i^2

    Args:
        z: the variables.
        y: the values.
        degree: the highest degree.
        ridge: the ridge penalty per sample.

    Returns:
        The polynomial.
    """
    normal = NormalEquations()
    for rows, values in zip(torch.split(z, _CHUNK), torch.split(y, _CHUNK), strict=True):
        normal.add(monomials(rows, degree), values)
    return Polynomial(degree, normal.solve(ridge))


class NormalEquations:
    """The normal equations of a ridge regression, accumulated one block of rows at a time.

    The first column must be constant 1.
    """

    def __init__(self) -> None:
        self._products: Tensor | None = None

    def add(self, columns: Float[Tensor, "n p"], y: Float[Tensor, " n"]) -> None:
        """Adds samples.

        Args:
            columns: the columns of the regression.
            y: the values.
        """
        both = torch.cat([columns, y[:, None]], dim=1)
        if self._products is None:
            self._products = both.new_zeros(both.shape[1], both.shape[1])
        self._products.addmm_(both.T, both)

    def solve(self, ridge: float) -> Float[Tensor, " p"]:
        """Solves for the coefficients. The penalty of a column is n ridge times its variance.

        Args:
            ridge: the ridge penalty per sample, at least 0.

        Returns:
            One coefficient per column.
        """
        assert self._products is not None
        gram, moment = self._products[:-1, :-1], self._products[:-1, -1]
        n = gram[0, 0]
        variances = gram.diagonal() / n - (gram[0] / n).square()
        scales = variances.clamp(min=1e-300).sqrt()
        scales[0] = 1.0
        standard = gram / scales / scales[:, None]
        standard.diagonal()[1:].add_(n * ridge)
        solution: Tensor = torch.linalg.solve(standard, moment / scales)
        return solution / scales
