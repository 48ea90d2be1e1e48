"""Arithmetic that stays defined where a sum is zero, a column constant or a matrix singular."""

import torch
from jaxtyping import Float
from torch import Tensor

_ROUNDING = 1000
"""Machine epsilons, relative to the largest, up to which a number counts as zero."""


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient, 0 where the denominator is 0.

    Source: ours.

    Args:
        numerator: any shape.
        denominator: a shape that broadcasts with it.

    Returns:
        numerator / denominator, entry by entry.
    """
    safe = torch.where(denominator == 0, torch.ones_like(denominator), denominator)
    return torch.where(denominator == 0, torch.zeros_like(numerator), numerator / safe)


def inverse_std(
    mean: Float[Tensor, " columns"], variance: Float[Tensor, " columns"]
) -> Float[Tensor, " columns"]:
    """1/std of each column, 0 where the column is constant to rounding.

    Source: ours.

    Args:
        mean: of each column.
        variance: of each column.

    Returns:
        What a centered column is to be multiplied by.
    """
    constant = variance <= (_tolerance(mean) * mean).square()
    return ratio(1 - constant.to(variance), variance.sqrt())


def whitening(covariance: Float[Tensor, "k k"], mean: Float[Tensor, " k"]) -> Float[Tensor, "k k"]:
    """R, so that the columns of y R are uncorrelated for a centered sample y of this covariance.

        D A D = U diag(s) U^T,   R = D U diag(s^(-1/2))

    with D the inverse standard deviations, 0 for constant columns, and s^(-1/2) := 0 where s is 0
    to rounding. R^T A R is the identity up to zeros; R R^T inverts A on its range.

    Source: ours.

    Args:
        covariance: A, with finite entries.
        mean: of each column, by which its rounding is judged.

    Returns:
        R; as many of its columns are 0 as A lacks in rank.
    """
    scale = inverse_std(mean, covariance.diagonal())
    eigenvalues, vectors = torch.linalg.eigh(scale[:, None] * covariance * scale)
    kept = eigenvalues > _tolerance(mean) * eigenvalues[-1]
    inverse_roots = ratio(kept.to(mean), eigenvalues.clamp(min=0).sqrt())
    result: Tensor = scale[:, None] * vectors * inverse_roots
    return result


def row_basis(matrix: Float[Tensor, "k d"]) -> Float[Tensor, "r d"]:
    """An orthonormal basis of the row space, B; B^T B is the projector on it.

    Source: ours.

    Args:
        matrix: of any rank, with finite entries.

    Returns:
        B, r = min(k, d) rows; those beyond the rank are 0.
    """
    _, singular_values, rows = torch.linalg.svd(matrix, full_matrices=False)
    kept = singular_values > _tolerance(matrix) * singular_values[0]
    basis: Tensor = rows * kept.to(matrix)[:, None]
    return basis


def _tolerance(like: Tensor) -> float:
    return _ROUNDING * torch.finfo(like.dtype).eps
