"""Labels: what of the target the learner gets to see, its value or a class."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.inputs import InputDistribution, ProjectedLaw
from bfc_lightning.seeds import generator
from bfc_lightning.targets import Target


class Labels(nn.Module, ABC):
    """How samples of x and a target G become training pairs: `Regression` or `Classification`.

    Attributes:
        inputs: the law of x.
        target_distribution: the law of the target's argument; build the target on this one.
    """

    def __init__(self, inputs: InputDistribution) -> None:
        super().__init__()
        self.inputs = inputs

    @property
    @abstractmethod
    def target_distribution(self) -> InputDistribution:
        """The law under which the target is normalized and measured."""

    @property
    def is_random(self) -> bool:
        """Whether `observe` draws numbers; labels of one's own may say that they do not."""
        return True

    @abstractmethod
    def target_argument(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """What G sees of x; features are measured there.

        Args:
            x: samples of `inputs`.

        Returns:
            Samples of `target_distribution`.
        """

    @abstractmethod
    def level_signals(
        self, target: Target, x: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n one_plus_levels"]:
        """What the learner should output, taken apart: level 0, then the target's levels.

        Args:
            target: G.
            x: samples of `inputs`.

        Returns:
            Columns that sum to the signal; column l is what level l adds.
        """

    @abstractmethod
    def observe(
        self, target: Target, signal: Float[Tensor, " n"], random: torch.Generator
    ) -> Float[Tensor, " n"]:
        """The label y that belongs to a signal."""

    def signal(self, target: Target, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The noise-free quantity behind the label: G(x), or the score whose sign is the class."""
        return self.level_signals(target, x).sum(dim=1)


class Regression(Labels):
    """y = G(x) + noise.

        y = G(x) + rho Var(G)^(1/2) xi,   xi ~ N(0, 1)

    Source: DESIGN of this project, "Labels"; the first theorem of Allen-Zhu and Li is the case
    rho = 0.

    Args:
        inputs: the law of x.
        noise_std: rho, a fraction of G's standard deviation, at least 0.

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
        """The law of x itself."""
        return self.inputs

    @property
    def is_random(self) -> bool:
        """Whether there is noise; a class of one's own that observes otherwise may draw, too."""
        return self.noise_std != 0 or type(self).observe is not Regression.observe

    def target_argument(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The whole of x."""
        return x

    def level_signals(
        self, target: Target, x: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n one_plus_levels"]:
        """0, then the level outputs of G."""
        levels = target.level_outputs(x)
        return torch.cat([torch.zeros_like(levels[:, :1]), levels], dim=1)

    def signal(self, target: Target, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """G(x)."""
        output: Tensor = target(x)
        return output

    def observe(
        self, target: Target, signal: Float[Tensor, " n"], random: torch.Generator
    ) -> Float[Tensor, " n"]:
        """The signal plus noise."""
        if not self.is_random:
            return signal
        noise = torch.randn(
            signal.shape, generator=random, device=signal.device, dtype=signal.dtype
        )
        return signal + self.noise_std * target.variance.sqrt() * noise

    def label_variance(self, target: Target) -> Tensor:
        """Var y = (1 + rho^2) Var G, a scalar."""
        return target.variance * (1 + self.noise_std**2)


class Classification(Labels):
    """A class decided by a linear score and a target that sees the rest of x.

        y = 1[ <w, x - mu> + G(Px) - E G(Px) >= 0 ],   P x = x - Sigma w <w, x - mu>/(w^T Sigma w)

    w has a Haar direction and w^T Sigma w = Var G(Px). For a Gaussian x, the linear score
    <w, x - mu> is independent of Px. For a mixture, the two are uncorrelated but not independent.
    The sum is centered, so each class has probability near 1/2. The share of the examples that
    change class when level l is added is in proportion to alpha_l.

    Source: the slides on hierarchical learning (Li), extension to classification; the general
    Sigma is ours.

    Args:
        inputs: the law of x, of dimension at least 2.
        seed: of w's direction. The command line takes the target's; 0 where nobody gives one.

    Raises:
        ValueError: if d is 1.
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
        """The law of P x."""
        return self.projected

    @property
    def is_random(self) -> bool:
        """No: the score decides; a class of one's own that observes otherwise may draw."""
        return type(self).observe is not Classification.observe

    def target_argument(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """P x."""
        return self.projected.project(x)

    def level_signals(
        self, target: Target, x: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n one_plus_levels"]:
        """<w, x - mu> - E G(Px), then the level outputs of G at P x.

        The constant sits in column 0: only the sum of all levels is centered, not each.
        """
        levels = target.level_outputs(self.target_argument(x))
        length = target.variance.sqrt() / self.spread
        linear = length * ((x - self.inputs.mean) @ self.direction) - target.mean
        return torch.cat([linear[:, None], levels], dim=1)

    def observe(
        self, target: Target, signal: Float[Tensor, " n"], random: torch.Generator
    ) -> Float[Tensor, " n"]:
        """1 where the score is at least 0, else 0."""
        return (signal >= 0).to(signal.dtype)
