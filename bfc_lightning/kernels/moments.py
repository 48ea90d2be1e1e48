"""Moments of two correlated Gaussians after an activation."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_PARALLEL = 1e-14


class Covariance(NamedTuple):
    """A kernel K at all pairs of points, and at each point paired with itself.

    Attributes:
        cross: K(x, x').
        left: K(x, x).
        right: K(x', x').
    """

    cross: Float[Tensor, "n m"]
    left: Float[Tensor, "n 1"]
    right: Float[Tensor, "1 m"]

    def plus(self, factor: float, other: "Covariance") -> "Covariance":
        """Returns K + factor K'."""
        return Covariance(*(a + factor * b for a, b in zip(self, other, strict=True)))

    def shifted(self, constant: float) -> "Covariance":
        """Returns K + constant."""
        return Covariance(*(part + constant for part in self))


def linear_covariance(
    x: Float[Tensor, "n d"], other: Float[Tensor, "m d"], variance: float = 1.0
) -> Covariance:
    """Covariance `variance` <x, x'> / d of a linear function with random weights.

    Source: Lee et al., arXiv 1711.00165, section 2.2.

    Args:
        x: points.
        other: points x'.
        variance: d times the variance of a weight.
    """
    factor = variance / x.shape[1]
    left, right = (factor * points.square().sum(dim=1) for points in (x, other))
    return Covariance(factor * (x @ other.T), left[:, None], right[None])


def squared(before: Covariance) -> Covariance:
    """E z^2 z'^2 for centered Gaussians z, z' with covariance q.

        E z^2 z'^2 = 2 q(x,x')^2 + q(x,x) q(x',x')

    On the diagonal, this is 3 q(x,x)^2. The product of derivatives is E (2z)(2z') = 4 q(x,x').

    Source: Isserlis' theorem: the three pairings of (z, z, z', z').

    Args:
        before: q.
    """
    cross, left, right = before
    return Covariance(2 * cross.square() + left * right, 3 * left.square(), 3 * right.square())


def cubic_products(
    before: Covariance, linear: float, cubic: Sequence[Float[Tensor, "_ _"]]
) -> Float[Tensor, "n m"]:
    """E D(z) D'(z') for centered Gaussians with covariance q and D(z) = 2 (a z + c z^3).

        E z z'^3 = 3 q(x,x') q(x',x')
        E z^3 z'^3 = 9 q(x,x) q(x',x') q(x,x') + 6 q(x,x')^3

    Source: Isserlis' theorem.

    Args:
        before: q.
        linear: a.
        cubic: c at x, shape (n, 1), and at x', shape (1, m).
    """
    (cross, left, right), (c, other_c) = before, cubic
    mixed = 3 * linear * (c * left + other_c * right)
    cubes = c * other_c * (9 * left * right + 6 * cross.square())
    return 4 * cross * (linear**2 + mixed + cubes)


def rectified(before: Covariance) -> tuple[Covariance, Float[Tensor, "n m"]]:
    """2 E relu(z) relu(z') and 2 E relu'(z) relu'(z') for centered Gaussians with covariance q.

        t = arccos(q(x,x') / (q(x,x) q(x',x'))^(1/2))
        2 E relu(z) relu(z')   = ((q(x,x) q(x',x'))^(1/2) sin t + (pi - t) q(x,x')) / pi
        2 E relu'(z) relu'(z') = (pi - t) / pi

    The first is q(x,x) on the diagonal. Near t = 0 and t = pi, the angle is only as accurate as the
    square root of the rounding error of its cosine. Cosines within 1e-14 of 1 or -1 are therefore
    set to 1 or -1, so that every point has angle 0 with itself. The derivative of arccos is
    infinite there. The derivatives of t and sin t are set to 0, the mean over opposite directions.

    Source: Cho and Saul, "Kernel methods for deep learning" (2009), arc-cosine kernels of order 1
    and 0.

    Args:
        before: q.

    Returns:
        The covariance after the activation, and the product of the derivatives.
    """
    cross, left, right = before
    norm = _root(left) * _root(right)
    cosine = cross / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    is_parallel = cosine.abs() >= 1 - _PARALLEL  # `>=` because 1 - 1e-14 is 1 in float32
    oblique = cosine.masked_fill(is_parallel, 0)
    angle = torch.where(is_parallel, (1 - cosine.sign()) * (math.pi / 2), torch.arccos(oblique))
    sine = _root(((1 - oblique) * (1 + oblique)).masked_fill(is_parallel, 0))
    derivatives = 1 - angle / math.pi
    return Covariance(norm * sine / math.pi + derivatives * cross, left, right), derivatives


def _root(x: Tensor) -> Tensor:
    """The square root, with derivative 0 at 0."""
    is_zero = x == 0
    return x.masked_fill(is_zero, 1).sqrt().masked_fill(is_zero, 0)
