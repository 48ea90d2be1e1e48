"""Linear readouts, fitted by ridge regression one block of rows at a time."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK = 2048


def fit_readout(
    features: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n *k"],
    *,
    ridge: float,
) -> Float[Tensor, "m *k"]:
    """argmin_w |Phi w - y|^2 + n ridge |w|^2.

    Args:
        features: Phi, a function from (n, d) to (n, m).
        x: the samples.
        y: the values, centered or not.
        ridge: the ridge penalty per sample, positive.
    """
    gram, moment = _normal_equations(features, x, y)
    gram.diagonal().add_(len(y) * ridge)
    columns = moment.reshape(len(moment), -1)
    weights: Tensor = torch.cholesky_solve(columns, torch.linalg.cholesky(gram))
    return weights.reshape(moment.shape)


def fit_standardized(
    columns: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n d"],
    y: Float[Tensor, " n"],
    *,
    ridge: float,
) -> Float[Tensor, " p"]:
    """argmin_w |Phi w - y|^2 + n ridge sum_{i > 0} Var(phi_i) w_i^2.

    Args:
        columns: Phi, a function from (n, d) to (n, p). Its first column is 1.
        x: the samples.
        y: the values.
        ridge: the ridge penalty per sample, at least 0.
    """
    gram, moment = _normal_equations(columns, x, y)
    n = len(y)
    variances = gram.diagonal() / n - (gram[0] / n).square()
    scales = variances.clamp(min=1e-300).sqrt()
    scales[0] = 1.0
    standard = gram / scales / scales[:, None]
    standard.diagonal()[1:].add_(n * ridge)
    solution: Tensor = torch.linalg.solve(standard, moment / scales)
    return solution / scales


def _normal_equations(
    columns: Callable[[Tensor], Tensor], x: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Phi^T Phi and Phi^T y."""
    blocks = zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True)
    parts = ((columns(rows), values) for rows, values in blocks)
    phi, values = next(parts)
    gram, moment = phi.T @ phi, phi.T @ values
    for phi, values in parts:
        gram.addmm_(phi.T, phi)
        moment += phi.T @ values
    return gram, moment
