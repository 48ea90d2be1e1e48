"""Sequential kernels: one polynomial kernel per level, fitted to the previous residual."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.baselines.base import Baseline, Task
from bfc_lightning.baselines.kernel_fit import KernelFit
from bfc_lightning.baselines.kernel_ridge import polynomial_kernel
from bfc_lightning.runs.folder import RunError


class SequentialKernels(Baseline):
    """Stage l = 1, ..., L fits the residual of the previous stages with a kernel of degree 2^l.

        r_1 = y - mean(y),   f_l = kernel ridge of r_l, K(x, x') = (1 + <x, x'>/d)^(2^l)
        r_{l+1} = r_l - f_l(x),   f = mean(y) + sum_l f_l

    It fits a layered target level by level, without features. Earlier stages are never revised.

    Source: own construction, after the hierarchy of degrees in Allen-Zhu and Li, arXiv 2001.04413.

    Args:
        ridge: the ridge penalty per sample; one number, or one per stage.
        depth: L; the depth of the learner by default.

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
            RunError: if the number of ridges differs from the number of stages.
        """
        x, y = task.train.inputs, task.train.labels
        depth = task.learner.depth if self.depth is None else self.depth
        ridges = self.ridge if isinstance(self.ridge, list) else [self.ridge] * depth
        if len(ridges) != depth:
            raise RunError(
                f"ridge must be one number or one for each of {depth} stages, got {self.ridge}."
            )
        self._mean = y.mean()
        self._stages: list[KernelFit] = []
        residual = y - self._mean
        for stage, ridge in enumerate(ridges, start=1):
            kernel = partial(polynomial_kernel, degree=2**stage)
            self._stages.append(KernelFit(kernel, x, residual, ridge=ridge))
            residual = residual - self._stages[-1](x)

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f(x)."""
        return self._mean + torch.stack([stage(x) for stage in self._stages]).sum(dim=0)
