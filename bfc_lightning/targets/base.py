"""What a target is: a real function G of x, its moments, and, where it has them, its layers."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.inputs import InputDistribution
from bfc_lightning.seeds import generator

MOMENT_SAMPLES = 2**17
MOMENT_CHUNK = 2**13


class Target(nn.Module, ABC):
    """A function G: R^d -> R, known together with the law of its argument.

    Subclass it for a target of your own: take the law as the argument `inputs`, write `forward`,
    and call `estimate_moments` at the end of `__init__`. All tensors are float64 buffers made on
    the CPU; `target.to(device, dtype)` decides where and in which precision G is computed.

    Attributes:
        inputs: the law under which G is studied.
        mean: E G, a scalar tensor.
        variance: Var G, a scalar tensor.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, inputs: InputDistribution) -> None:
        super().__init__()
        self.inputs = inputs
        unknown = torch.full((), torch.nan, dtype=torch.float64)
        self.register_buffer("mean", unknown.clone())
        self.register_buffer("variance", unknown.clone())

    @property
    def input_dim(self) -> int:
        """The dimension d of x."""
        return self.inputs.input_dim

    @property
    def depth(self) -> int:
        """L, the number of layers that a learner needs to represent G; 2 unless known."""
        return 2

    @property
    def level_scales(self) -> tuple[float, ...]:
        """alpha_1, ..., alpha_L; one level of weight 1 unless known."""
        return (1.0,)

    @property
    def has_positive_signs(self) -> bool:
        """Whether every feature enters G with a positive sign, so that a positive readout fits."""
        return False

    @abstractmethod
    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """G(x) for every row of x."""

    def level_outputs(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n levels"]:
        """What each level adds to G(x): columns that sum to G. One column unless known."""
        output: Tensor = self(x)
        return output[:, None]

    def estimate_moments(self, seed: int) -> None:
        """Sets `mean` and `variance` to the moments of G over 2^17 samples of its law.

        Args:
            seed: the target's own; the samples come from its name `moments`.
        """
        random = generator(seed, "moments")
        chunks = range(MOMENT_SAMPLES // MOMENT_CHUNK)
        drawn = [self(self.inputs.sample(MOMENT_CHUNK, random)) for _ in chunks]
        self.set_moments(torch.cat(drawn))

    def require_moments(self) -> None:
        """Refuses a target whose moments nobody has set.

        Raises:
            ValueError: if mean or variance are unknown.
        """
        if (self.mean + self.variance).isnan():
            raise ValueError(
                "the target's variance must be known, got NaN: call estimate_moments at the end of "
                "its __init__."
            )

    def set_moments(self, values: Float[Tensor, "*shape"]) -> None:
        """Sets `mean` and `variance` to those of a sample of G.

        Args:
            values: G(x) over samples of the law.

        Raises:
            ValueError: if G is not one number a sample, constant or not finite.
        """
        if values.ndim != 1:
            raise ValueError(
                "the target's forward must return one number a sample, shape (n,), "
                f"got shape {tuple(values.shape)}."
            )
        variance = values.var(correction=0)
        if not 0 < float(variance) < float("inf"):
            raise ValueError(
                f"the target must have a positive, finite variance, got {float(variance)}."
            )
        self.mean.copy_(values.mean())
        self.variance.copy_(variance)


class LayeredTarget(Target):
    """A target whose layers can be looked at: measures of features need one.

    Subclasses give, beside `forward`, the two lists below, one tensor a layer.
    """

    @abstractmethod
    def preactivations(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """S_1(x), ..., S_L(x): each layer before the square, shapes (n, k_l)."""

    @abstractmethod
    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """G_1(x), ..., G_L(x): each layer after the square, shapes (n, k_l)."""
