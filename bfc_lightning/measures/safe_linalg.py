"""Linear algebra that is defined for zero sums, constant columns and singular matrices."""

import torch
from jaxtyping import Float
from torch import Tensor

_ROUNDING = 1000
"""Relative tolerance in machine epsilons. Smaller numbers count as zero."""


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, elementwise with broadcasting, or 0 if the denominator is 0."""
    safe = torch.where(denominator == 0, torch.ones_like(denominator), denominator)
    return torch.where(denominator == 0, torch.zeros_like(numerator), numerator / safe)


def inverse_std(
    mean: Float[Tensor, " columns"], variance: Float[Tensor, " columns"]
) -> Float[Tensor, " columns"]:
    """1/std of each column, or 0 if the column is constant up to rounding."""
    constant = variance <= (_tolerance(mean) * mean).square()
    return ratio(1 - constant.to(variance), variance.sqrt())


def whitening(covariance: Float[Tensor, "k k"], mean: Float[Tensor, " k"]) -> Float[Tensor, "k k"]:
    """R such that the columns of y R are uncorrelated for a centered sample y with covariance A.

        D A D = U diag(s) U^T,   R = D U diag(s^(-1/2))

    D holds the inverse standard deviations, 0 for constant columns. s^(-1/2) is 0 if s is 0 up to
    rounding. R^T A R is diagonal with entries 1 and 0. R R^T inverts A on its range. The number of
    zero columns of R is the rank deficiency of A.

    Args:
        covariance: A, with finite entries.
        mean: mean of each column, which sets the rounding tolerance.
    """
    scale = inverse_std(mean, covariance.diagonal())
    eigenvalues, vectors = torch.linalg.eigh(scale[:, None] * covariance * scale)
    kept = eigenvalues > _tolerance(mean) * eigenvalues[-1]
    inverse_roots = ratio(kept.to(mean), eigenvalues.clamp(min=0).sqrt())
    result: Tensor = scale[:, None] * vectors * inverse_roots
    return result


def row_basis(matrix: Float[Tensor, "k d"]) -> Float[Tensor, "r d"]:
    """B, an orthonormal basis of the row space. B^T B is the projector onto it.

    It has r = min(k, d) rows. Those beyond the rank are 0.
    """
    _, singular_values, rows = torch.linalg.svd(matrix, full_matrices=False)
    kept = singular_values > _tolerance(matrix) * singular_values[0]
    basis: Tensor = rows * kept.to(matrix)[:, None]
    return basis


def _tolerance(like: Tensor) -> float:
    return _ROUNDING * torch.finfo(like.dtype).eps
