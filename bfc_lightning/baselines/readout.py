"""A linear readout of features, fitted by ridge regression one block of rows at a time."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK = 2048


def fit_readout(
    features: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n d"],
    y: Float[Tensor, " n"],
    *,
    ridge: float,
) -> Float[Tensor, " m"]:
    """argmin_w |Phi w - y|^2 + n ridge |w|^2.

    Args:
        features: Phi, a function from (n, d) to (n, m).
        x: the samples.
        y: the values, centered or not.
        ridge: the ridge penalty per sample, positive.

    Returns:
        w.
    """
    blocks = zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True)
    parts = ((features(rows), values) for rows, values in blocks)
    phi, values = next(parts)
    gram, moment = phi.T @ phi, phi.T @ values
    for phi, values in parts:
        gram.addmm_(phi.T, phi)
        moment.addmv_(phi.T, values)
    gram.diagonal().add_(len(y) * ridge)
    weights: Tensor = torch.cholesky_solve(moment[:, None], torch.linalg.cholesky(gram))
    return weights[:, 0]
