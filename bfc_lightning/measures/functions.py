"""Comparison of the contribution of each layer to f with that of each level to G."""

import math
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor

MOST_POLYNOMIALS = 2500
_ROWS_PER_POLYNOMIAL = 2
_FEWEST_ROWS = 4096
_CHUNK = 256  # this many rows of monomials, and columns of their products, fit in the CPU cache
_RIDGE = 1e-10
_ROUNDING = 1e-9


def function_error(learned: Float[Tensor, " n"], wanted: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Distance between the contributions of layer l and level l: `levels/function_error_l`.

        Var(c_l - o_l) / Var(o_l),   c_l = a_l m_l^(-1/2) v_l^T F_l,   o_l the output of level l

    The decomposition of f into layers is not unique. A higher layer can represent any function of a
    lower layer, since (c + s)^2 - (c - s)^2 = 4 c s, and a lower layer can represent polynomials up
    to its degree. A network with error 0 can therefore have large function errors that cancel.

    The error is 0 if they agree up to a constant, and 1 if c_l is constant.

    Args:
        learned: c_l at the points.
        wanted: o_l at the same points, not constant.
    """
    return (learned - wanted).var(correction=0) / wanted.var(correction=0)


@dataclass
class Polynomials:
    """The projection of functions onto the complement of all polynomials of degree <= q.

    Level l is compared with q = 2^(l-1), the degree that quadratic layers below l can represent.
    They cannot represent the remainder. Higher layers can represent any function, so nothing is
    removed for them.

    The projection is a least-squares fit on the monomials of the standardized coordinates. A ridge
    of 1e-10 per point handles dependent monomials. The fit and the score use the same points, at
    least two per monomial, for both functions. The degrees of freedom of the fit cancel in the
    ratio.

    Each monomial is a product of two monomials of half the degree. The inner products of a function
    with all monomials are therefore entries of a small matrix.

    Attributes:
        left: the monomials of the standardized points up to degree q - q // 2.
        right: those up to degree q // 2.
        factors: for each monomial up to degree q, the column of `left` and that of `right` whose
            product it is.
        cholesky: the Cholesky factor of the Gram matrix of the monomials, summed over the points.
    """

    left: Float[Tensor, "n p_left"]
    right: Float[Tensor, "n p_right"]
    factors: tuple[Tensor, Tensor]
    cholesky: Float[Tensor, "p p"]

    @classmethod
    def on(cls, inputs: Float[Tensor, "n d"], *, degree: int) -> "Polynomials | None":
        """The projection on a sample of inputs x in float64, with q = `degree`, at least 1.

        None if there are more than 2,500 monomials, too many for 2^14 points.
        """
        count = num_monomials(inputs.shape[1], degree)
        if count > MOST_POLYNOMIALS:
            return None
        inputs = inputs[: max(_FEWEST_ROWS, _ROWS_PER_POLYNOMIAL * count)]
        spread = inputs.std(dim=0, correction=0).clamp(min=torch.finfo(inputs.dtype).tiny)
        standardized = (inputs - inputs.mean(dim=0)) / spread
        gram = inputs.new_zeros(count, count)
        for rows in torch.split(standardized, _CHUNK):
            products = monomials(rows, degree)
            for first in range(0, count, _CHUNK):  # the lower triangle, which `cholesky` reads
                columns = slice(first, first + _CHUNK)
                gram[first:, columns].addmm_(products[:, first:].T, products[:, columns])
        gram.diagonal().add_(_RIDGE * len(standardized))
        left, right = (monomials(standardized, half) for half in _halves(degree))
        factors = _factors(inputs.shape[1], degree)
        return cls(left, right, factors, torch.linalg.cholesky(gram))

    def function_error(
        self, learned: Float[Tensor, " n"], wanted: Float[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """`function_error` of the projected functions: `levels/function_error_projected_l`.

            |P (c_l - o_l)|^2 / |P o_l|^2,   P the projection off polynomials of degree <= q

        It is 0 if c_l and o_l differ by a polynomial of degree <= q, and NaN if o_l is one.
        """
        count = len(self.left)
        values = torch.stack([learned[:count] - wanted[:count], wanted[:count]], dim=1)
        rest = self._left_over(values - values.mean(dim=0))
        is_polynomial = rest[1] <= _ROUNDING * wanted[:count].square().sum()
        error: Tensor = torch.where(is_polynomial, torch.nan, rest[0] / rest[1])
        return error

    def _left_over(self, values: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
        """|P h|^2, summed over the points, for each column h."""
        products = [self.left.T @ (column[:, None] * self.right) for column in values.T]
        covariance = torch.stack([each[self.factors] for each in products], dim=1)
        explained = torch.linalg.solve_triangular(self.cholesky, covariance, upper=False)
        rest: Tensor = values.square().sum(dim=0) - explained.square().sum(dim=0)
        return rest


def num_monomials(num_variables: int, degree: int) -> int:
    """The number of `monomials` of k variables, (k + degree)! / (k! degree!)."""
    return math.comb(num_variables + degree, degree)


def monomials(z: Float[Tensor, "n k"], degree: int) -> Float[Tensor, "n p"]:
    """All monomials 1, z_1, ..., z_k, z_1 z_1, z_1 z_2, ... up to a degree, as columns."""
    if degree < 2:
        return torch.cat([z.new_ones(len(z), 1), z][: degree + 1], dim=1)
    left, right = (monomials(z, half).T.contiguous() for half in _halves(degree))
    first, second = _factors(z.shape[1], degree)
    return (left[first] * right[second]).T


def _halves(degree: int) -> tuple[int, int]:
    return degree - degree // 2, degree // 2


@cache
def _factors(num_variables: int, degree: int) -> tuple[Tensor, Tensor]:
    """For each of the `monomials`, the numbers of its factors of half the degree."""
    variables = range(num_variables)
    sizes = range(degree + 1)
    every = [each for size in sizes for each in combinations_with_replacement(variables, size)]
    numbers = {each: number for number, each in enumerate(every)}
    half = _halves(degree)[0]
    left = torch.tensor([numbers[each[:half]] for each in every])
    return left, torch.tensor([numbers[each[half:]] for each in every])
