"""Activations: the square, and the Huber function, which extends the square linearly."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.types import check_positive


class Quadratic(nn.Module):
    """sigma(z) = z^2.

    Source: Allen-Zhu and Li, arXiv 2001.04413.
    """

    def forward(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns z^2, elementwise."""
        return z * z


class Huber(nn.Module):
    """The square, extended linearly beyond a threshold, so that it is Lipschitz continuous.

        sigma(z) = z^2 for |z| <= B,   B (2|z| - B) otherwise

    This is twice the Huber function. The value and the derivative are continuous at B.

    It differs from the truncated activation of Allen-Zhu and Li, arXiv 2001.04413. Theirs is
    bounded: it is z^2 for |z| <= B', a constant of order B'^2 for |z| >= 2 B', and monotone and
    smooth in between. They use it only inside the network and only during training. `Huber` is
    unbounded, and the network uses it in training and evaluation.

    Args:
        threshold: B, positive.

    Raises:
        ValueError: if the threshold is not positive.
    """

    def __init__(self, threshold: float = 4.0) -> None:
        super().__init__()
        check_positive(threshold=threshold)
        self.threshold = threshold

    def forward(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns sigma(z), elementwise."""
        inner = z.abs().clamp(max=self.threshold)
        return inner * (2 * torch.maximum(z.abs(), inner) - inner)

    def extra_repr(self) -> str:
        """Returns the threshold for `repr`."""
        return f"threshold={self.threshold}"


def activation_vjp(
    sigma: Callable[[Tensor], Tensor], z: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Callable[[Tensor], Tensor]]:
    """sigma(z), and the map g -> g sigma'(z) from the gradient in sigma(z) to that in z.

    Args:
        sigma: activation without parameters.
        z: pre-activations.
    """
    if type(sigma) is Quadratic:  # eagerly, a fraction of the time of `torch.func.vjp`
        return z * z, lambda grad: torch.addcmul(z.new_zeros(()), grad, z, value=2)
    # a copy, since activations may work in place
    value, vjp = torch.func.vjp(lambda copy: sigma(copy.clone()), z)[:2]
    return value, lambda grad: vjp(grad)[0]
