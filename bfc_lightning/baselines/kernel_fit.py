"""Kernel ridge regression with any kernel, in the memory of one Gram matrix."""

from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.baselines.base import Baseline, Task
from bfc_lightning.runs.folder import RunError
from bfc_lightning.types import check_positive

Kernel = Callable[[Tensor, Tensor], Tensor]
"""A function of points (n, d) and (m, d) that returns K, of shape (n, m)."""

_TILE = 512
"""Rows and columns of a tile. At 2 MB, it stays in the cache during a kernel's recursion."""


class KernelFit:
    """f(x) = sum_i c_i K(x, x_i) with (K + n ridge) c = r.

    The kernel is evaluated one tile at a time, on and above the diagonal only. The Cholesky
    factorization overwrites the Gram matrix, so 20,000 samples need little more than 3.2 GB.

    Args:
        kernel: K.
        x: the samples, float64.
        r: the values, centered or not.
        ridge: the ridge penalty per sample.

    Raises:
        RunError: if K + n ridge is not positive definite in float64.
    """

    def __init__(
        self, kernel: Kernel, x: Float[Tensor, "n d"], r: Float[Tensor, "n *k"], *, ridge: float
    ) -> None:
        self._kernel, self._x = kernel, x
        gram = _upper_gram(kernel, x)
        gram.diagonal().add_(len(x) * ridge)
        lower = gram.mT  # LAPACK works in place on column-major matrices
        info = torch.empty((), dtype=torch.int32)
        torch.linalg.cholesky_ex(lower, out=(lower, info))
        if int(info) != 0:
            raise RunError(
                f"ridge must be larger, got {ridge}: the kernel matrix is not positive definite in "
                "float64."
            )
        half = torch.linalg.solve_triangular(lower, r.reshape(len(r), -1), upper=False)
        weights = torch.linalg.solve_triangular(gram, half, upper=True)
        self._weights: Tensor = weights.reshape(r.shape)

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n *k"]:
        """f(x)."""
        samples, weights = torch.split(self._x, _TILE), torch.split(self._weights, _TILE)
        blocks = list(zip(samples, weights, strict=True))
        return torch.cat([
            torch.stack([self._kernel(rows, z) @ c for z, c in blocks]).sum(0)
            for rows in torch.split(x, _TILE)
        ])


def _upper_gram(kernel: Kernel, x: Tensor) -> Tensor:
    """K(x, x). Entries below the tiles on the diagonal are undefined."""
    gram = x.new_empty(len(x), len(x))
    for top in range(0, len(x), _TILE):
        rows = slice(top, top + _TILE)
        for left in range(top, len(x), _TILE):
            columns = slice(left, left + _TILE)
            gram[rows, columns] = kernel(x[rows], x[columns])
    return gram


class KernelMethod(Baseline):
    """f(x) = mean(y) + sum_i c_i K(x, x_i) with (K + n ridge) c = y - mean(y).

    Args:
        ridge: the ridge penalty per sample, positive.
    """

    def __init__(self, ridge: float = 1e-4) -> None:
        check_positive(ridge=ridge)
        self.ridge = ridge

    @abstractmethod
    def kernel_of(self, task: Task) -> Kernel:
        """The kernel K of a task."""

    def fit(self, task: Task) -> None:
        """Solves for the coefficients c."""
        x, y = task.train.inputs, task.train.labels
        self._mean = y.mean(dim=0)
        self._fit = KernelFit(self.kernel_of(task), x, y - self._mean, ridge=self.ridge)

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n *k"]:
        """f(x)."""
        return self._mean + self._fit(x)
