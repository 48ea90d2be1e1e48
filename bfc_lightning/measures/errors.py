"""Errors of a prediction with respect to the noise-free target."""

from jaxtyping import Float
from torch import Tensor


def normalized_mse(
    prediction: Float[Tensor, "n *k"], signal: Float[Tensor, "n *k"], variance: float | Tensor
) -> Float[Tensor, ""]:
    """E (f - G)^2 / Var G, averaged over entries: 0 if perfect, 1 for the best constant.

    Args:
        prediction: f(x).
        signal: G(x), without noise.
        variance: Var G, a scalar.
    """
    return (prediction - signal).square().mean() / variance


def classification_error(
    prediction: Float[Tensor, " n"], signal: Float[Tensor, " n"]
) -> Float[Tensor, ""]:
    """P(1[f >= 0] != 1[score >= 0]).

    Args:
        prediction: f(x). Its sign is the predicted class.
        signal: the score. Its sign is the class.
    """
    return ((prediction >= 0) != (signal >= 0)).to(prediction.dtype).mean()
