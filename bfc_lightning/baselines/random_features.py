"""Random features: a fixed random layer with a readout by ridge regression."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.baselines.base import Baseline, Task
from bfc_lightning.baselines.readout import fit_readout
from bfc_lightning.seeds import generator
from bfc_lightning.types import as_integer, check_positive

ActivationName = Literal["relu", "quadratic"]
_ACTIVATIONS = {"relu": torch.relu, "quadratic": torch.square}


class RandomFeatures(Baseline):
    """f(x) = mean(y) + m^(-1/2) <w, phi(x)>, phi_i(x) = sigma(d^(-1/2) <v_i, x> + b_i).

        v_ij, b_i ~ N(0, 1), fixed
        w = argmin_w |m^(-1/2) Phi w - (y - mean(y))|^2 + n ridge |w|^2

    This is kernel ridge regression with K(x, x') = <phi(x), phi(x')> / m.

    Source: Rahimi and Recht, "Random features for large-scale kernel machines", 2007.

    Args:
        width: m.
        activation: sigma, `relu` or `quadratic`. `quadratic` spans only polynomials of degree 2.
        ridge: the ridge penalty per sample, positive.

    Raises:
        ValueError: if the activation is unknown or a number is out of range.
    """

    fits_vectors = True

    def __init__(
        self, width: int = 4096, activation: ActivationName = "relu", ridge: float = 1e-6
    ) -> None:
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be relu or quadratic, got {activation!r}.")
        check_positive(ridge=ridge)
        self.width = as_integer(width, "width", least=1)
        self.activation = activation
        self.ridge = ridge

    def fit(self, task: Task) -> None:
        """Draws the layer and fits the readout."""
        x, y = task.train.inputs, task.train.labels
        random = generator(task.seed, "random features")
        size = (x.shape[1] + 1, self.width)
        self._layer = torch.randn(size, generator=random, dtype=torch.float64)
        self._mean = y.mean(dim=0)
        self._weights = fit_readout(self._phi, x, y - self._mean, ridge=self.ridge)

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n *k"]:
        """f(x)."""
        return self._mean + self._phi(x) @ self._weights

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _m"]]:
        """A single layer: m^(-1/2) phi(x)."""
        return [self._phi(x)]

    def _phi(self, x: Tensor) -> Tensor:
        preactivation = x @ self._layer[:-1] / math.sqrt(x.shape[1]) + self._layer[-1]
        return _ACTIVATIONS[self.activation](preactivation) / math.sqrt(self.width)
