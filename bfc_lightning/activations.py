"""Activations: the square, and the square that turns linear where it gets large."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Quadratic(nn.Module):
    """sigma(z) = z^2.

    Source: Allen-Zhu and Li, arXiv 2001.04413.
    """

    def forward(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """z^2, entry by entry."""
        return z * z


class TruncatedQuadratic(nn.Module):
    """The square, continued linearly past a threshold so that it stays Lipschitz.

        sigma(z) = z^2 for |z| <= B,   B (2|z| - B) beyond

    Value and slope are continuous at B.

    Source: the truncated activation of Allen-Zhu and Li, arXiv 2001.04413; this form is ours.

    Args:
        threshold: B, positive.

    Raises:
        ValueError: if the threshold is not positive.
    """

    def __init__(self, threshold: float = 4.0) -> None:
        super().__init__()
        if threshold <= 0:
            raise ValueError(f"threshold must be positive, got {threshold}.")
        self.threshold = threshold

    def forward(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """sigma(z), entry by entry."""
        inner = z.abs().clamp(max=self.threshold)
        return inner * (2 * torch.maximum(z.abs(), inner) - inner)

    def extra_repr(self) -> str:
        """The threshold, for printing."""
        return f"threshold={self.threshold}"
