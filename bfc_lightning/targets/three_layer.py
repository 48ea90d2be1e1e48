"""Targets of work on three-layer networks: single index, quadratic feature, depth separation."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.inputs import InputDistribution, haar_orthogonal
from bfc_lightning.seeds import generator
from bfc_lightning.targets.base import Target
from bfc_lightning.types import as_integer

LinkName = Literal["relu", "hermite_2", "hermite_3", "tanh"]


def link(name: LinkName, z: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Applies a link function: max(z, 0), (z^2 - 1)/sqrt(2), (z^3 - 3z)/sqrt(6) or tanh(z).

    The Hermite polynomials are normalized to unit variance under z ~ N(0, 1).

    Source: Nichani, Damian and Lee, arXiv 2305.06986.

    Raises:
        ValueError: if the name is unknown.
    """
    if name == "relu":
        return z.clamp(min=0)
    if name == "hermite_2":
        return (z**2 - 1) / math.sqrt(2)
    if name == "hermite_3":
        return (z**3 - 3 * z) / math.sqrt(6)
    if name == "tanh":
        return z.tanh()
    raise ValueError(f"link must be relu, hermite_2, hermite_3 or tanh, got {name!r}.")


class SingleIndex(Target):
    """A function of one direction.

        G(x) = g(<beta, x>),   beta uniform on the unit sphere

    Source: Nichani, Damian and Lee, arXiv 2305.06986, single-index models. They draw x from the
    sphere. The configs here use N(0, 1).

    Args:
        inputs: the distribution of x.
        link: name of g.
        seed: seed of beta, 0 by default.
    """

    direction: Tensor

    def __init__(
        self, inputs: InputDistribution, link: LinkName = "hermite_2", seed: int | None = None
    ) -> None:
        super().__init__(inputs)
        seed = 0 if seed is None else seed
        self.link: LinkName = link
        random = generator(seed, "direction")
        direction = torch.randn(self.input_dim, generator=random, dtype=torch.float64)
        self.register_buffer("direction", direction / direction.norm())
        self.estimate_moments(seed)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Returns g(<beta, x>)."""
        return link(self.link, x @ self.direction)


class QuadraticFeature(Target):
    """A function of one quadratic form.

        G(x) = g(x^T A x),   A symmetric Gaussian with its trace removed, |A|_F^2 = 1/2

    Under N(0, 1), x^T A x has mean 0 and variance 1.

    Source: Nichani, Damian and Lee, arXiv 2305.06986, functions of quadratic features. They draw x
    from the sphere. The configs here use N(0, 1).

    Args:
        inputs: the distribution of x, of dimension at least 2.
        link: name of g.
        seed: seed of A, 0 by default.

    Raises:
        ValueError: if d is below 2. For d = 1, A would be 0.
    """

    form: Tensor

    def __init__(
        self, inputs: InputDistribution, link: LinkName = "relu", seed: int | None = None
    ) -> None:
        super().__init__(inputs)
        as_integer(self.input_dim, "input_dim", least=2)
        seed = 0 if seed is None else seed
        self.link: LinkName = link
        random = generator(seed, "form")
        square = torch.randn(self.input_dim, self.input_dim, generator=random, dtype=torch.float64)
        form = square + square.T
        form = form - form.diagonal().mean() * torch.eye(self.input_dim, dtype=torch.float64)
        self.register_buffer("form", form / (form.norm() * math.sqrt(2)))
        self.estimate_moments(seed)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Returns g(x^T A x)."""
        return link(self.link, ((x @ self.form) * x).sum(dim=1))


class DepthSeparation(Target):
    """A function that three layers can learn efficiently and two layers cannot.

        G(x) = ReLU(q) - E ReLU(q),   q = x^T A x,   A = (2d)^(-1/2) [[0, U], [U^T, 0]]

    U is a Haar-distributed orthogonal matrix of size d/2.

    Source: Nichani, Damian and Lee, arXiv 2305.06986, the depth separation. They draw x from the
    sphere. The configs here use N(0, 1).

    Args:
        inputs: the distribution of x, of even dimension.
        seed: seed of U, 0 by default.

    Raises:
        ValueError: if d is odd.
    """

    block: Tensor
    offset: Tensor

    def __init__(self, inputs: InputDistribution, seed: int | None = None) -> None:
        super().__init__(inputs)
        if self.input_dim % 2:
            raise ValueError(f"input_dim must be even, got {self.input_dim}.")
        seed = 0 if seed is None else seed
        block = haar_orthogonal(self.input_dim // 2, generator(seed, "block"))
        self.register_buffer("block", block * math.sqrt(2 / self.input_dim))
        self.register_buffer("offset", torch.zeros((), dtype=torch.float64))
        self.estimate_moments(seed)
        self.offset.copy_(self.mean)
        self.mean.zero_()

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Returns ReLU(q) - E ReLU(q) with q = 2 (2d)^(-1/2) x_upper^T U x_lower."""
        upper, lower = x.chunk(2, dim=1)
        return ((upper @ self.block) * lower).sum(dim=1).clamp(min=0) - self.offset
