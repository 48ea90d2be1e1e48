"""Kernel ridge regression with fixed kernels."""

from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from bfc_lightning.baselines.base import Baseline, Task
from bfc_lightning.baselines.kernel_fit import Kernel, KernelFit

KernelName = Literal["polynomial", "rbf"]


class KernelRidge(Baseline):
    """Kernel ridge regression, f(x) = mean(y) + sum_i c_i K(x, x_i).

        (K + n ridge) c = y - mean(y)
        polynomial   K(x, x') = (1 + <x, x'> / d)^degree
        rbf          K(x, x') = exp(-|x - x'|^2 / (2 d bandwidth^2))

    Args:
        kernel: `polynomial` or `rbf`.
        ridge: the ridge penalty per sample, positive.
        degree: the degree of the polynomial kernel.
        bandwidth: the bandwidth of the RBF kernel in units of sqrt(d). In these units, two
            standard Gaussian samples are about sqrt(2) apart.

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
        """Solves for the coefficients c."""
        x, y = task.train.inputs, task.train.labels
        kernels: dict[KernelName, Kernel] = {
            "polynomial": partial(_polynomial, degree=self.degree),
            "rbf": partial(_rbf, bandwidth=self.bandwidth),
        }
        self._mean = y.mean()
        self._fit = KernelFit(kernels[self.kernel], x, y - self._mean, ridge=self.ridge)

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f(x)."""
        return self._mean + self._fit(x)


def _polynomial(x: Tensor, other: Tensor, *, degree: int) -> Tensor:
    return (x @ other.T).div_(x.shape[1]).add_(1).pow_(degree)


def _rbf(x: Tensor, other: Tensor, *, bandwidth: float) -> Tensor:
    squares = x.square().sum(dim=1, keepdim=True) + other.square().sum(dim=1)
    squares.addmm_(x, other.T, alpha=-2).clamp_(min=0)  # rounding can make a distance negative
    return squares.div_(-2 * x.shape[1] * bandwidth**2).exp_()
