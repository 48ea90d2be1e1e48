"""Targets of the three-layer line: single index, quadratic feature, depth separation."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.inputs import InputDistribution, haar_orthogonal
from bfc_lightning.seeds import generator
from bfc_lightning.targets.base import Target

LinkName = Literal["relu", "hermite_2", "hermite_3", "tanh"]


def link(name: LinkName, z: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """g(z) by name: max(z, 0), (z^2 - 1)/sqrt(2), (z^3 - 3z)/sqrt(6), tanh(z).

    The Hermite polynomials are normalized to unit variance under z ~ N(0, 1).

    Source: Nichani, Damian and Lee, arXiv 2305.06986.

    Args:
        name: which g.
        z: where.

    Returns:
        g(z), entry by entry.

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
    sphere; we use whatever `inputs` is, N(0, 1) in our configs.

    Args:
        inputs: the law of x.
        link: g, by name.
        seed: of beta; 0 where nobody gives one.
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
        """g(<beta, x>)."""
        return link(self.link, x @ self.direction)


class QuadraticFeature(Target):
    """A function of one quadratic form.

        G(x) = g(x^T A x),   A symmetric Gaussian without its trace, |A|_F^2 = 1/2

    so that x^T A x has mean 0 and variance 1 under N(0, 1).

    Source: Nichani, Damian and Lee, arXiv 2305.06986, functions of quadratic features. They draw x
    from the sphere; we use whatever `inputs` is, N(0, 1) in our configs.

    Args:
        inputs: the law of x, of dimension at least 2.
        link: g, by name.
        seed: of A; 0 where nobody gives one.

    Raises:
        ValueError: if d is below 2, where A without its trace would be 0.
    """

    form: Tensor

    def __init__(
        self, inputs: InputDistribution, link: LinkName = "relu", seed: int | None = None
    ) -> None:
        super().__init__(inputs)
        if self.input_dim < 2:
            raise ValueError(f"input_dim must be at least 2, got {self.input_dim}.")
        seed = 0 if seed is None else seed
        self.link: LinkName = link
        random = generator(seed, "form")
        square = torch.randn(self.input_dim, self.input_dim, generator=random, dtype=torch.float64)
        form = square + square.T
        form = form - form.diagonal().mean() * torch.eye(self.input_dim, dtype=torch.float64)
        self.register_buffer("form", form / (form.norm() * math.sqrt(2)))
        self.estimate_moments(seed)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """g(x^T A x)."""
        return link(self.link, ((x @ self.form) * x).sum(dim=1))


class DepthSeparation(Target):
    """A function that three layers learn and two do not.

        G(x) = ReLU(q) - E ReLU(q),   q = x^T A x,   A = (2d)^(-1/2) [[0, U], [U^T, 0]]

    with U orthogonal, Haar, d/2 by d/2.

    Source: Nichani, Damian and Lee, arXiv 2305.06986, the depth separation. They draw x from the
    sphere; we use whatever `inputs` is, N(0, 1) in our configs.

    Args:
        inputs: the law of x, of even dimension.
        seed: of U; 0 where nobody gives one.

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
        """ReLU(q) - E ReLU(q), where q = 2 (2d)^(-1/2) x_upper^T U x_lower."""
        upper, lower = x.chunk(2, dim=1)
        return ((upper @ self.block) * lower).sum(dim=1).clamp(min=0) - self.offset
