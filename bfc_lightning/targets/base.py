"""Base classes of targets: a function G of x with its moments and, optionally, its layers."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.inputs import InputDistribution
from bfc_lightning.seeds import generator

MOMENT_SAMPLES = 2**17
MOMENT_CHUNK = 2**13


class Target(nn.Module, ABC):
    """A function G from R^d to R or R^k, with the distribution of its argument.

    To define your own target, accept the distribution as the argument `inputs`, implement
    `forward`, and call `estimate_moments` at the end of `__init__`. All tensors are float64 buffers
    on the CPU. `target.to(device, dtype)` sets the device and the dtype in which G is computed.

    Attributes:
        inputs: the distribution of x.
        output_shape: () if G(x) is a number, or (k,). A class attribute.
        depth: L, the number of layers that a learner needs to represent G.
        level_scales: alpha_1, ..., alpha_L.
        has_positive_signs: whether every feature has a positive sign in G, so that a positive
            readout suffices.
        mean: E G, of this shape.
        variance: Var G, a scalar tensor. If G(x) is a vector, the mean of Var G_i over its entries.
    """

    output_shape: tuple[int, ...] = ()
    depth: int = 2
    level_scales: tuple[float, ...] = (1.0,)
    has_positive_signs: bool = False
    mean: Tensor
    variance: Tensor

    def __init__(self, inputs: InputDistribution) -> None:
        super().__init__()
        self.inputs = inputs
        unknown = torch.full((), torch.nan, dtype=torch.float64)
        self.register_buffer("mean", unknown.repeat(self.output_shape))
        self.register_buffer("variance", unknown.clone())

    @property
    def input_dim(self) -> int:
        """The dimension d of x."""
        return self.inputs.input_dim

    @abstractmethod
    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n *k"]:
        """Returns G(x) for every row of x."""

    def level_outputs(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n levels *k"]:
        """Returns the contribution of each level to G(x) as columns. One column by default."""
        output: Tensor = self(x)
        return output[:, None]

    def estimate_moments(self, seed: int) -> None:
        """Sets `mean` and `variance` to the moments of G over 2^17 samples of x.

        The seed of the samples is derived from the given seed of the target.
        """
        random = generator(seed, "moments")
        chunks = range(MOMENT_SAMPLES // MOMENT_CHUNK)
        drawn = [self(self.inputs.sample(MOMENT_CHUNK, random)) for _ in chunks]
        self.set_moments(torch.cat(drawn))

    def require_moments(self) -> None:
        """Checks that the moments are set.

        Raises:
            ValueError: if `mean` or `variance` is not set.
        """
        if (self.mean + self.variance).isnan().any():
            raise ValueError(
                "the target's variance must be known, got NaN: call estimate_moments at the end of "
                "its __init__."
            )

    def set_moments(self, values: Float[Tensor, "n *k"]) -> None:
        """Sets `mean` and `variance` to the moments of a sample of G.

        Raises:
            ValueError: if G returns another shape, is constant or is not finite.
        """
        if values.ndim == 0 or values.shape[1:] != self.output_shape:
            raise ValueError(
                "the target's forward must return one number a sample, shape (n,), or a vector of "
                f"its output_shape {self.output_shape}, got shape {tuple(values.shape)}."
            )
        variance = values.var(dim=0, correction=0).mean()
        if not 0 < float(variance) < float("inf"):
            raise ValueError(
                f"the target must have a positive, finite variance, got {float(variance)}."
            )
        self.mean.copy_(values.mean(dim=0))
        self.variance.copy_(variance)


class LayeredTarget(Target):
    """A target that exposes its layers, as measures of features require.

    Subclasses implement `level_outputs`, or `forward`, and the two methods below.
    """

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Returns G(x), the sum of `level_outputs`."""
        return self.level_outputs(x).sum(dim=1)

    @abstractmethod
    def preactivations(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """Returns S_1(x), ..., S_L(x), each layer before the square, shapes (n, k_l)."""

    @abstractmethod
    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """Returns G_1(x), ..., G_L(x), each layer after the square, shapes (n, k_l)."""
