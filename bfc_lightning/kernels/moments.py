"""What an activation does to a covariance: moments of two correlated Gaussians."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_PARALLEL = 1e-14


class Covariance(NamedTuple):
    """K at pairs of points, and at each point with itself.

    Attributes:
        cross: K(x, x').
        left: K(x, x).
        right: K(x', x').
    """

    cross: Float[Tensor, "n m"]
    left: Float[Tensor, "n 1"]
    right: Float[Tensor, "1 m"]

    def plus(self, factor: float, other: "Covariance") -> "Covariance":
        """K + factor K'."""
        return Covariance(*(a + factor * b for a, b in zip(self, other, strict=True)))

    def shifted(self, constant: float) -> "Covariance":
        """K + constant."""
        return Covariance(*(part + constant for part in self))


class Sides(NamedTuple):
    """A number at each point of either set.

    Attributes:
        left: at x.
        right: at x'.
    """

    left: Float[Tensor, "n 1"]
    right: Float[Tensor, "1 m"]


def linear_covariance(
    x: Float[Tensor, "n d"], other: Float[Tensor, "m d"], variance: float = 1.0
) -> Covariance:
    """The covariance variance <x, x'> / d of a linear function with random weights.

    Source: Lee et al., arXiv 1711.00165, section 2.2.

    Args:
        x: points.
        other: points.
        variance: d times that of a weight.

    Returns:
        It at all pairs.
    """
    factor = variance / x.shape[1]
    left, right = (factor * points.square().sum(dim=1) for points in (x, other))
    return Covariance(factor * (x @ other.T), left[:, None], right[None])


def squared(before: Covariance) -> Covariance:
    """E z^2 z'^2 for centered Gaussians z, z' with covariance q.

        E z^2 z'^2 = 2 q(x,x')^2 + q(x,x) q(x',x')

    which is 3 q(x,x)^2 on the diagonal. With it, E (2z)(2z') = 4 q(x,x').

    Source: Isserlis' theorem: the three pairings of (z, z, z', z').

    Args:
        before: q.

    Returns:
        The covariance (uncentered) of the squares.
    """
    cross, left, right = before
    return Covariance(2 * cross.square() + left * right, 3 * left.square(), 3 * right.square())


def cubic_products(before: Covariance, linear: float, cubic: Sides) -> Float[Tensor, "n m"]:
    """E D(z) D'(z') for centered Gaussians with covariance q and D(z) = 2 (a z + c z^3).

        E z z'^3 = 3 q(x,x') q(x',x')
        E z^3 z'^3 = 9 q(x,x) q(x',x') q(x,x') + 6 q(x,x')^3

    Source: Isserlis' theorem.

    Args:
        before: q.
        linear: a.
        cubic: c, at x and at x'.

    Returns:
        The mean at all pairs.
    """
    cross, left, right = before
    mixed = 3 * linear * (cubic.left * left + cubic.right * right)
    cubes = cubic.left * cubic.right * (9 * left * right + 6 * cross.square())
    return 4 * cross * (linear**2 + mixed + cubes)


def rectified(before: Covariance) -> tuple[Covariance, Float[Tensor, "n m"]]:
    """2 E relu(z) relu(z') and 2 E relu'(z) relu'(z') for centered Gaussians with covariance q.

        t = arccos(q(x,x') / (q(x,x) q(x',x'))^(1/2))
        2 E relu(z) relu(z')   = (q(x,x) q(x',x'))^(1/2) (sin t + (pi - t) cos t) / pi
        2 E relu'(z) relu'(z') = (pi - t) / pi

    The first is q(x,x) on the diagonal. An angle's cosine tells it to about 1e-8 only where it is
    near 0 or pi, and the slopes are as wrong as the angle; cosines within 1e-14 of 1 or -1 are
    therefore taken as 1 or -1, so that a point and itself have angle 0 whatever the rounding.

    Source: Cho and Saul, "Kernel methods for deep learning" (2009), arc-cosine kernels of order 1
    and 0.

    Args:
        before: q.

    Returns:
        The covariance after the activation, and the product of slopes.
    """
    cross, left, right = before
    norm = left.sqrt() * right.sqrt()
    cosine = cross / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    cosine = torch.where(cosine.abs() > 1 - _PARALLEL, cosine.sign(), cosine)
    angle = torch.arccos(cosine)
    sine = ((1 - cosine) * (1 + cosine)).sqrt()
    slopes = 1 - angle / math.pi
    return Covariance(norm * (sine / math.pi + slopes * cosine), left, right), slopes
