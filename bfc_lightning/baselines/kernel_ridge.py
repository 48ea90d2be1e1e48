"""Kernel ridge regression with fixed kernels, by scikit-learn."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from sklearn.kernel_ridge import KernelRidge as Ridge
from threadpoolctl import threadpool_limits
from torch import Tensor

from bfc_lightning.baselines.base import Baseline, Task

KernelName = Literal["polynomial", "rbf"]

_ROWS = 64  # at a time: their part of the kernel stays in the cache


class KernelRidge(Baseline):
    """Kernel ridge regression, f(x) = mean(y) + sum_i c_i K(x, x_i).

        (K + n ridge) c = y - mean(y)
        polynomial   K(x, x') = (1 + <x, x'> / d)^degree
        rbf          K(x, x') = exp(-|x - x'|^2 / (2 d bandwidth^2))

    Source: scikit-learn's KernelRidge; the scalings by d are ours.

    Args:
        kernel: `polynomial` or `rbf`.
        ridge: of the equation above, per sample.
        degree: of the polynomial.
        bandwidth: of the RBF kernel; 1 is about the distance of two samples over sqrt(2).

    Raises:
        ValueError: if the kernel is unknown or a number is out of range.
    """

    def __init__(
        self,
        kernel: KernelName = "rbf",
        ridge: float = 1e-6,
        degree: int = 2,
        bandwidth: float = 1.0,
    ) -> None:
        if kernel not in ("polynomial", "rbf"):
            raise ValueError(f"kernel must be polynomial or rbf, got {kernel!r}.")
        for name, value in (("ridge", ridge), ("degree", degree), ("bandwidth", bandwidth)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        self.kernel = kernel
        self.ridge = ridge
        self.degree = degree
        self.bandwidth = bandwidth

    def fit(self, task: Task) -> None:
        """Solves the equation."""
        x, y = task.train.inputs, task.train.labels
        d = x.shape[1]
        shapes = {
            "polynomial": {"gamma": 1 / d, "coef0": 1, "degree": self.degree},
            "rbf": {"gamma": 1 / (2 * d * self.bandwidth**2)},
        }
        self._mean = y.mean()
        ridge = Ridge(alpha=len(y) * self.ridge, kernel=self.kernel, **shapes[self.kernel])
        with threadpool_limits(limits=1, user_api="blas"):  # more crash OpenBLAS at 20,000 samples
            self._ridge = ridge.fit(x.numpy(), (y - self._mean).numpy())

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f(x)."""
        blocks = [self._ridge.predict(rows.numpy()) for rows in torch.split(x, _ROWS)]
        return self._mean + torch.from_numpy(np.concatenate(blocks))
