"""Labels: the value of the target for regression, or a class for classification."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.inputs import InputDistribution, ProjectedLaw
from bfc_lightning.seeds import generator
from bfc_lightning.targets import Target


class Labels(nn.Module, ABC):
    """Computes labels from samples of x and a target G.

    Attributes:
        inputs: the distribution of x.
        target_distribution: the distribution of the argument of G. Pass it to the target.
    """

    def __init__(self, inputs: InputDistribution) -> None:
        super().__init__()
        self.inputs = inputs

    @property
    @abstractmethod
    def target_distribution(self) -> InputDistribution:
        """The distribution under which the target is normalized and measured."""

    @property
    def is_random(self) -> bool:
        """Whether `observe` draws random numbers. Subclasses may override it with False."""
        return True

    @abstractmethod
    def target_argument(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Computes the argument of G, distributed by `target_distribution`, from x."""

    @abstractmethod
    def level_signals(
        self, target: Target, x: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n one_plus_levels *k"]:
        """Splits the signal into columns: level 0, and the contribution of each level of G."""

    @abstractmethod
    def observe(
        self, target: Target, signal: Float[Tensor, "n *k"], random: torch.Generator
    ) -> Float[Tensor, "n *k"]:
        """Returns the labels y for a signal."""

    def signal(self, target: Target, x: Float[Tensor, "n d"]) -> Float[Tensor, "n *k"]:
        """Returns the labels without noise or threshold: G(x), or the score of the class."""
        return self.level_signals(target, x).sum(dim=1)


class Regression(Labels):
    """y = G(x) + noise.

        y = G(x) + rho Var(G)^(1/2) xi,   xi ~ N(0, 1)

    The first theorem of Allen-Zhu and Li, arXiv 2001.04413, is the case rho = 0.

    Args:
        inputs: the distribution of x.
        noise_std: rho, the noise as a fraction of the standard deviation of G, at least 0.

    Raises:
        ValueError: if `noise_std` is negative.
    """

    def __init__(self, inputs: InputDistribution, noise_std: float = 0.0) -> None:
        super().__init__(inputs)
        if noise_std < 0:
            raise ValueError(f"noise_std must be at least 0, got {noise_std}.")
        self.noise_std = noise_std

    @property
    def target_distribution(self) -> InputDistribution:
        """The distribution of x."""
        return self.inputs

    @property
    def is_random(self) -> bool:
        """Whether there is noise. Also true for subclasses that override `observe`."""
        return self.noise_std != 0 or type(self).observe is not Regression.observe

    def target_argument(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Returns x."""
        return x

    def level_signals(
        self, target: Target, x: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n one_plus_levels *k"]:
        """Returns a column of zeros and the level outputs of G."""
        levels = target.level_outputs(x)
        return torch.cat([torch.zeros_like(levels[:, :1]), levels], dim=1)

    def signal(self, target: Target, x: Float[Tensor, "n d"]) -> Float[Tensor, "n *k"]:
        """Returns G(x)."""
        output: Tensor = target(x)
        return output

    def observe(
        self, target: Target, signal: Float[Tensor, "n *k"], random: torch.Generator
    ) -> Float[Tensor, "n *k"]:
        """Returns the signal plus noise."""
        if not self.is_random:
            return signal
        noise = torch.randn(
            signal.shape, generator=random, device=signal.device, dtype=signal.dtype
        )
        return signal + self.noise_std * target.variance.sqrt() * noise

    def label_variance(self, target: Target) -> Tensor:
        """Returns Var y = (1 + rho^2) Var G, a scalar."""
        return target.variance * (1 + self.noise_std**2)


class Classification(Labels):
    """Two classes separated by the sign of a linear score plus a target.

        y = 1[ <w, x - mu> + G(Px) - E G(Px) >= 0 ],   P x = x - Sigma w <w, x - mu>/(w^T Sigma w)

    The direction of w is uniform, and w^T Sigma w = Var G(Px). For Gaussian x, the linear score
    <w, x - mu> is independent of Px. For other inputs, the two are only uncorrelated.
    The sum is centered, so each class has a probability near 1/2. The fraction of examples that
    change class when level l is added is proportional to alpha_l.

    Source: the slides on hierarchical learning (Li), extension to classification, generalized here
    to any Sigma.

    Args:
        inputs: the distribution of x, of dimension at least 2.
        seed: seed of the direction of w, 0 by default. The command line uses the target's seed.

    Raises:
        ValueError: if d is below 2.
    """

    direction: Tensor
    spread: Tensor

    def __init__(self, inputs: InputDistribution, seed: int | None = None) -> None:
        super().__init__(inputs)
        if inputs.input_dim < 2:
            raise ValueError(
                f"input_dim must be at least 2 for classification, got {inputs.input_dim}."
            )
        random = generator(0 if seed is None else seed, "classification")
        direction = torch.randn(inputs.input_dim, generator=random, dtype=torch.float64)
        direction = direction / direction.norm()
        self.projected = ProjectedLaw(inputs, direction)
        self.register_buffer("direction", direction)
        self.register_buffer("spread", (direction @ inputs.covariance @ direction).sqrt())

    @property
    def target_distribution(self) -> InputDistribution:
        """The distribution of P x."""
        return self.projected

    @property
    def is_random(self) -> bool:
        """False, except for subclasses that override `observe`."""
        return type(self).observe is not Classification.observe

    def target_argument(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Returns P x."""
        return self.projected.project(x)

    def level_signals(
        self, target: Target, x: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n one_plus_levels"]:
        """Returns <w, x - mu> - E G(Px) in column 0, and the level outputs of G at P x.

        Only the sum of all levels is centered. The constant is part of column 0.
        """
        levels = target.level_outputs(self.target_argument(x))
        length = target.variance.sqrt() / self.spread
        linear = length * ((x - self.inputs.mean) @ self.direction) - target.mean
        return torch.cat([linear[:, None], levels], dim=1)

    def observe(
        self, target: Target, signal: Float[Tensor, " n"], random: torch.Generator
    ) -> Float[Tensor, " n"]:
        """Returns 1 if the score is at least 0, and 0 otherwise."""
        return (signal >= 0).to(signal.dtype)
