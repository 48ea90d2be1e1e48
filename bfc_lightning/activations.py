"""Activations: the square, and the Huber function, which extends the square linearly."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn


@runtime_checkable
class InPlace(Protocol):
    """An activation with forward and backward passes that do not use autograd.

    The fast training path supports every activation that has these two methods.
    """

    def evaluate(self, z: Tensor, *, out: Tensor) -> None:
        """Writes sigma(z) to `out`.

        Args:
            z: pre-activations, of any shape.
            out: output of the same shape. It must not share memory with `z`.
        """

    def pull_back(self, z: Tensor, gradient: Tensor) -> None:
        """Multiplies the gradient with respect to sigma(z) by sigma'(z), in place.

        Args:
            z: pre-activations, of any shape.
            gradient: gradient of the same shape, modified in place.
        """


class Quadratic(nn.Module):
    """sigma(z) = z^2.

    Source: Allen-Zhu and Li, arXiv 2001.04413.
    """

    def forward(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns z^2, elementwise."""
        return z * z

    def evaluate(self, z: Tensor, *, out: Tensor) -> None:
        """See `InPlace`."""
        torch.mul(z, z, out=out)

    def pull_back(self, z: Tensor, gradient: Tensor) -> None:
        """Multiplies the gradient by 2 z in one pass; see `InPlace`."""
        torch.addcmul(z.new_zeros(()), gradient, z, value=2, out=gradient)


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
        if threshold <= 0:
            raise ValueError(f"threshold must be positive, got {threshold}.")
        self.threshold = threshold

    def forward(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Returns sigma(z), elementwise."""
        inner = z.abs().clamp(max=self.threshold)
        return inner * (2 * torch.maximum(z.abs(), inner) - inner)

    def evaluate(self, z: Tensor, *, out: Tensor) -> None:
        """See `InPlace`."""
        out.copy_(self(z))

    def pull_back(self, z: Tensor, gradient: Tensor) -> None:
        """Multiplies the gradient by 2 z, clamped to [-2 B, 2 B]; see `InPlace`."""
        gradient.mul_(z.clamp(-self.threshold, self.threshold)).mul_(2)

    def extra_repr(self) -> str:
        """Returns the threshold for `repr`."""
        return f"threshold={self.threshold}"


class _ReLU:
    """max(z, 0) without autograd."""

    def evaluate(self, z: Tensor, *, out: Tensor) -> None:
        """See `InPlace`."""
        torch.clamp(z, min=0, out=out)

    def pull_back(self, z: Tensor, gradient: Tensor) -> None:
        """Sets the gradient to 0 for z <= 0; see `InPlace`."""
        gradient.masked_fill_(z <= 0, 0)


def in_place(activation: object) -> InPlace | None:
    """Returns the form of an activation that does not use autograd.

    Args:
        activation: activation of a layer.

    Returns:
        The activation itself if it has the methods of `InPlace`, an equivalent object for
        `nn.ReLU`, or None. A subclass that overrides `forward` must override both methods as well.
        Otherwise, the result is None, because inherited methods would not match its `forward`.
    """
    if type(activation) is nn.ReLU:
        return _ReLU()
    if not isinstance(activation, InPlace):
        return None
    classes = [vars(kind) for kind in type(activation).__mro__]
    first = {
        name: next((i for i, members in enumerate(classes) if name in members), len(classes))
        for name in ("forward", "evaluate", "pull_back")
    }
    inherits = max(first["evaluate"], first["pull_back"]) > first["forward"]
    return None if inherits else activation
