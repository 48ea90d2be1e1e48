"""Activations: the square, and the Huber function, which continues the square linearly."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@runtime_checkable
class InPlace(Protocol):
    """An activation that can also be evaluated, and its slope applied, without a graph.

    The fast training path takes every activation that has these two methods.
    """

    def evaluate(self, z: Tensor, *, out: Tensor) -> None:
        """Writes sigma(z).

        Args:
            z: any shape.
            out: of the same shape, other memory.
        """

    def pull_back(self, z: Tensor, gradient: Tensor) -> None:
        """Turns a gradient by sigma(z) into the one by z: multiplies it by sigma'(z), in place.

        Args:
            z: any shape.
            gradient: of the same shape; changed.
        """


class Quadratic(nn.Module):
    """sigma(z) = z^2.

    Source: Allen-Zhu and Li, arXiv 2001.04413.
    """

    def forward(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """z^2, entry by entry."""
        return z * z

    def evaluate(self, z: Tensor, *, out: Tensor) -> None:
        """See `InPlace`."""
        torch.mul(z, z, out=out)

    def pull_back(self, z: Tensor, gradient: Tensor) -> None:
        """Times 2 z, in one pass; see `InPlace`."""
        torch.addcmul(z.new_zeros(()), gradient, z, value=2, out=gradient)


class Huber(nn.Module):
    """The square, continued linearly beyond a threshold so that it stays Lipschitz.

        sigma(z) = z^2 for |z| <= B,   B (2|z| - B) beyond

    This is twice the Huber function. Value and slope are continuous at B.

    It is not the truncated activation of Allen-Zhu and Li, arXiv 2001.04413. That one is bounded:
    it is z^2 for |z| <= B', a constant of order B'^2 for |z| >= 2 B', and monotone and smooth in
    between. They use it only inside the network and only during training. `Huber` is unbounded
    and acts wherever the network applies its activation, in training and evaluation.

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

    def evaluate(self, z: Tensor, *, out: Tensor) -> None:
        """See `InPlace`."""
        out.copy_(self(z))

    def pull_back(self, z: Tensor, gradient: Tensor) -> None:
        """Times 2 z, cut off at +-2 B; see `InPlace`."""
        gradient.mul_(z.clamp(-self.threshold, self.threshold)).mul_(2)

    def extra_repr(self) -> str:
        """The threshold, for printing."""
        return f"threshold={self.threshold}"


class _ReLU:
    """max(z, 0), in place."""

    def evaluate(self, z: Tensor, *, out: Tensor) -> None:
        """See `InPlace`."""
        torch.clamp(z, min=0, out=out)

    def pull_back(self, z: Tensor, gradient: Tensor) -> None:
        """Times 1 where z > 0, else 0; see `InPlace`."""
        gradient.masked_fill_(z <= 0, 0)


def in_place(activation: object) -> InPlace | None:
    """The activation's form without a graph.

    Source: ours.

    Args:
        activation: of a layer.

    Returns:
        The activation itself where it has the methods of `InPlace`, that of ReLU, or None. A class
        that changes `forward` has to bring these methods along: inherited ones are another's.
    """
    if type(activation) is nn.ReLU:
        return _ReLU()
    if not isinstance(activation, InPlace):
        return None
    order = [vars(kind) for kind in type(activation).__mro__]
    first = {
        name: next((place for place, own in enumerate(order) if name in own), len(order))
        for name in ("forward", "evaluate", "pull_back")
    }
    inherits = max(first["evaluate"], first["pull_back"]) > first["forward"]
    return None if inherits else activation
