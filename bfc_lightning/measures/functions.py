"""Functions: what each layer adds to the learner's output, against what each level adds to G."""

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor

MOST_POLYNOMIALS = 2500
_ROWS_PER_POLYNOMIAL = 2
_FEWEST_ROWS = 4096
_CHUNK = 256  # rows whose monomials stay in the cache
_RIDGE = 1e-10


def function_error(learned: Float[Tensor, " n"], wanted: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """How far what layer l adds to f is from what level l adds to G: `levels/function_error_l`.

        Var(c_l - o_l) / Var(o_l),   c_l = a_l m_l^(-1/2) v_l^T F_l,   o_l the output of level l

    The split of f into layers is not unique: a higher layer can carry any function of a lower one,
    since (c + s)^2 - (c - s)^2 = 4 c s, and a lower layer can carry polynomials up to its degree. A
    network whose error is 0 may therefore have large function errors, where its layers make up for
    each other.

    Args:
        learned: c_l at the points.
        wanted: o_l at the same points, not constant.

    Returns:
        0 where they agree up to a constant; 1 where c_l is constant.
    """
    return (learned - wanted).var(correction=0) / wanted.var(correction=0)


@dataclass
class Polynomials:
    """The projection of functions off all polynomials of degree <= q, by least squares.

    Level l is compared at q = 2^(l-1), the degree that the layers below l reach: what is left no
    lower layer can carry. Nothing is removed for higher layers, which can carry everything.

    The fit is over the monomials of the standardized coordinates, with a ridge of 1e-10 for
    each point, for those that are dependent. It is made and scored on the same points, two for
    each monomial or more, for both functions that are compared; the degrees of freedom that it
    takes cancel in the ratio.

    Attributes:
        inputs: the points, standardized.
        degree: q.
        factors: for each degree above 1, which monomial of the degree below is multiplied by which
            coordinate.
        cholesky: of the matrix of the monomials' products, summed over the points.
    """

    inputs: Float[Tensor, "n d"]
    degree: int
    factors: list[tuple[Tensor, Tensor]]
    cholesky: Float[Tensor, "p p"]

    @classmethod
    def on(cls, inputs: Float[Tensor, "n d"], *, degree: int) -> "Polynomials | None":
        """The projection on a sample of the inputs.

        Args:
            inputs: x, float64.
            degree: q, at least 1.

        Returns:
            The projection; None where there are more than 2,500 monomials, of which 2^14 points say
            too little.
        """
        count = math.comb(inputs.shape[1] + degree, degree)
        if count > MOST_POLYNOMIALS:
            return None
        inputs = inputs[: max(_FEWEST_ROWS, _ROWS_PER_POLYNOMIAL * count)]
        spread = inputs.std(dim=0, correction=0).clamp(min=torch.finfo(inputs.dtype).tiny)
        standardized = (inputs - inputs.mean(dim=0)) / spread
        factors = _factors(inputs.shape[1], degree, inputs.device)
        gram = inputs.new_zeros(count, count)
        for rows in torch.split(standardized, _CHUNK):
            monomials = _monomials(rows, factors)
            gram.addmm_(monomials, monomials.T)
        gram.diagonal().add_(_RIDGE * len(standardized))
        return cls(standardized, degree, factors, torch.linalg.cholesky(gram))

    def function_error(
        self, learned: Float[Tensor, " n"], wanted: Float[Tensor, " n"]
    ) -> Float[Tensor, ""]:
        """`function_error` of what is left of both: `levels/function_error_projected_l`.

            |P (c_l - o_l)|^2 / |P o_l|^2,   P the projection off polynomials of degree <= q

        Args:
            learned: c_l at the points of the sample.
            wanted: o_l at the same points; no polynomial of degree <= q.

        Returns:
            0 where c_l and o_l differ by a polynomial of degree <= q.
        """
        count = len(self.inputs)
        values = torch.stack([learned[:count] - wanted[:count], wanted[:count]], dim=1)
        rest = self._left_over(values - values.mean(dim=0))
        error: Tensor = rest[0] / rest[1]
        return error

    def _left_over(self, values: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
        """|P h|^2, summed over the points, for each column h."""
        chunks = zip(torch.split(self.inputs, _CHUNK), torch.split(values, _CHUNK), strict=True)
        covariance = values.new_zeros(len(self.cholesky), values.shape[1])
        for rows, own in chunks:
            covariance.addmm_(_monomials(rows, self.factors), own)
        explained = torch.linalg.solve_triangular(self.cholesky, covariance, upper=False)
        rest: Tensor = values.square().sum(dim=0) - explained.square().sum(dim=0)
        return rest


def _monomials(
    rows: Float[Tensor, "n d"], factors: list[tuple[Tensor, Tensor]]
) -> Float[Tensor, "p n"]:
    """All monomials up to the degree of the last factors, one in each row."""
    columns = rows.T.contiguous()
    degrees = [rows.new_ones(1, len(rows)), columns]
    for lower, coordinate in factors:
        degrees.append(degrees[-1][lower].mul_(columns[coordinate]))
    return torch.cat(degrees)


def _factors(input_dim: int, degree: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """How the monomials of each degree above 1 are made of those of the degree below."""
    factors = []
    below: dict[tuple[int, ...], int] = {(number,): number for number in range(input_dim)}
    for size in range(2, degree + 1):
        chosen = list(combinations_with_replacement(range(input_dim), size))
        lower = torch.tensor([below[each[:-1]] for each in chosen], device=device)
        coordinate = torch.tensor([each[-1] for each in chosen], device=device)
        factors.append((lower, coordinate))
        below = {each: number for number, each in enumerate(chosen)}
    return factors
