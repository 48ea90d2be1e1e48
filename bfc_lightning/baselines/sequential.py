"""Sequential kernels: one polynomial kernel a level, each on what those before have left."""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from torch import Tensor

from bfc_lightning.baselines.base import Baseline, Task
from bfc_lightning.runs.folder import RunError


class KernelStage:
    """Kernel ridge regression with a polynomial kernel, solved in the memory of one Gram matrix.

        K(x, x') = (1 + <x, x'> / d)^(2^squarings),    (K + n ridge) c = r

    Source: ours.

    Args:
        x: samples.
        r: values, centred or not.
        squarings: l, for degree 2^l.
        ridge: of the equation, per sample.

    Raises:
        RunError: if the ridge is so small that the equation has no solution in float64.
    """

    def __init__(
        self, x: Float[Tensor, "n d"], r: Float[Tensor, " n"], *, squarings: int, ridge: float
    ) -> None:
        self._x = x.numpy()
        self._squarings = squarings
        gram = self._kernel(self._x)
        gram[np.diag_indices_from(gram)] += len(x) * ridge
        try:  # transposed: LAPACK works in place on columns
            factor = cho_factor(gram.T, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError as refused:
            raise RunError(f"ridge must be larger, got {ridge}: {refused}.") from refused
        self._weights = cho_solve(factor, r.numpy(), check_finite=False)

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """sum_i c_i K(x, x_i)."""
        return torch.from_numpy(self._kernel(x.numpy()) @ self._weights)

    def _kernel(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        kernel: NDArray[np.float64] = x @ self._x.T
        kernel /= self._x.shape[1]
        kernel += 1
        for _ in range(self._squarings):
            np.square(kernel, out=kernel)
        return kernel


class SequentialKernels(Baseline):
    """Stage l = 1, ..., L fits what the stages before have left, with a kernel of degree 2^l.

        r_1 = y - mean(y),   f_l = kernel ridge of r_l, K(x, x') = (1 + <x, x'>/d)^(2^l)
        r_{l+1} = r_l - f_l(x),   f = mean(y) + sum_l f_l

    The layers of a layered target, one after another, without features: what is fixed stays fixed.

    Source: ours, after the hierarchy of degrees in Allen-Zhu and Li, arXiv 2001.04413.

    Args:
        ridge: of each stage, per sample; one number or one a stage.
        depth: L; the learner's where not given.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, ridge: float | list[float] = 1e-4, depth: int | None = None) -> None:
        ridges = ridge if isinstance(ridge, list) else [ridge]
        if not ridges or min(ridges) <= 0:
            raise ValueError(f"ridge must be positive, got {ridge}.")
        if depth is not None and depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        self.ridge = ridge
        self.depth = depth

    def fit(self, task: Task) -> None:
        """Fits one stage after another.

        Raises:
            RunError: if the ridges are not one a stage.
        """
        x, y = task.train.inputs, task.train.labels
        depth = task.learner.depth if self.depth is None else self.depth
        ridges = self.ridge if isinstance(self.ridge, list) else [self.ridge] * depth
        if len(ridges) != depth:
            raise RunError(
                f"ridge must be one number or one for each of {depth} stages, got {self.ridge}."
            )
        self._mean = y.mean()
        self._stages: list[KernelStage] = []
        residual = y - self._mean
        for stage, ridge in enumerate(ridges, start=1):
            fitted = KernelStage(x, residual, squarings=stage, ridge=ridge)
            residual = residual - fitted(x)
            self._stages.append(fitted)

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f(x)."""
        return self._mean + torch.stack([stage(x) for stage in self._stages]).sum(dim=0)
