"""Kernel ridge regression with fixed kernels."""

from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from bfc_lightning.baselines.base import Task
from bfc_lightning.baselines.kernel_fit import Kernel, KernelMethod
from bfc_lightning.types import check_positive

KernelName = Literal["polynomial", "rbf"]


def polynomial_kernel(
    x: Float[Tensor, "n d"], other: Float[Tensor, "m d"], *, degree: int
) -> Float[Tensor, "n m"]:
    """K(x, x') = (1 + <x, x'> / d)^degree."""
    values = (x @ other.T).div_(x.shape[1]).add_(1)
    while degree % 2 == 0:  # squares take a third of the time of other powers
        values.square_()
        degree //= 2
    return values if degree == 1 else values.pow_(degree)


class KernelRidge(KernelMethod):
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

    fits_vectors = True

    def __init__(
        self,
        kernel: KernelName = "rbf",
        ridge: float = 1e-6,
        degree: int = 2,
        bandwidth: float = 1.0,
    ) -> None:
        super().__init__(ridge)
        if kernel not in ("polynomial", "rbf"):
            raise ValueError(f"kernel must be polynomial or rbf, got {kernel!r}.")
        check_positive(degree=degree, bandwidth=bandwidth)
        self.kernel = kernel
        self.degree = degree
        self.bandwidth = bandwidth

    def kernel_of(self, task: Task) -> Kernel:
        """K, the same for all tasks."""
        if self.kernel == "polynomial":
            return partial(polynomial_kernel, degree=self.degree)
        return partial(_rbf, bandwidth=self.bandwidth)


def _rbf(x: Tensor, other: Tensor, *, bandwidth: float) -> Tensor:
    squares = x.square().sum(dim=1, keepdim=True) + other.square().sum(dim=1)
    squares.addmm_(x, other.T, alpha=-2).clamp_(min=0)  # rounding can make a distance negative
    return squares.div_(-2 * x.shape[1] * bandwidth**2).exp_()
