"""Kernel ridge regression with tangent kernels of infinitely wide networks and of the learner."""

from abc import abstractmethod
from functools import partial

from jaxtyping import Float
from torch import Tensor

from bfc_lightning.baselines.base import Baseline, Task
from bfc_lightning.baselines.kernel_fit import Kernel, KernelFit
from bfc_lightning.kernels import (
    has_positive_readout,
    learner_ntk,
    quadratic_chain_ntk,
    readout_scales,
    relu_chain_ntk,
)
from bfc_lightning.measures import empirical_ntk
from bfc_lightning.runs.folder import RunError


class TangentKernel(Baseline):
    """f(x) = mean(y) + sum_i c_i K(x, x_i) with (K + n ridge) c = y - mean(y), K a tangent kernel.

    At ridge 0, this is the limit of gradient flow on the squared loss for networks whose gradients
    do not change during training.

    Source: Jacot, Gabriel and Hongler, arXiv 1806.07572, section 5.

    Args:
        ridge: the ridge penalty per sample.

    Raises:
        ValueError: if the ridge is not positive.
    """

    def __init__(self, ridge: float = 1e-4) -> None:
        if not ridge > 0:
            raise ValueError(f"ridge must be positive, got {ridge}.")
        self.ridge = ridge

    @abstractmethod
    def kernel(self, task: Task) -> Kernel:
        """The kernel K of a task.

        Args:
            task: the task, with its learner.

        Returns:
            K, a function of two sets of points.
        """

    def fit(self, task: Task) -> None:
        """Solves for the coefficients c."""
        x, y = task.train.inputs, task.train.labels
        self._mean = y.mean()
        self._fit = KernelFit(self.kernel(task), x, y - self._mean, ridge=self.ridge)

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f(x)."""
        return self._mean + self._fit(x)


class LearnerNTK(TangentKernel):
    """The tangent kernel of the infinitely wide learner: see `kernels.learner_ntk`.

    Source: derived here, following Jacot, Gabriel and Hongler, arXiv 1806.07572.
    """

    def kernel(self, task: Task) -> Kernel:
        """Theta_f with the depth and scales of the learner.

        Raises:
            RunError: if the formula does not cover the activation or the signs of the learner.
        """
        try:
            scales = readout_scales(task.learner)
        except ValueError as error:
            raise RunError(str(error)) from error
        return partial(
            learner_ntk,
            scales=scales,
            train_readout=task.learner.train_readout,
            linear_readout=task.learner.linear is not None,
            positive_readout=has_positive_readout(task.learner),
        )


class EmpiricalNTK(TangentKernel):
    """The tangent kernel of the learner at its initialization: see `measures.empirical_ntk`.

    Unlike `LearnerNTK`, it weights layers by their widths, since the learner trains V itself.

    Source: Jacot, Gabriel and Hongler, arXiv 1806.07572, section 4.
    """

    def kernel(self, task: Task) -> Kernel:
        """K of the learner at its initialization."""
        return partial(empirical_ntk, task.learner)


class _ChainNTK(TangentKernel):
    def __init__(
        self, ridge: float = 1e-4, depth: int | None = None, bias_std: float = 1.0
    ) -> None:
        super().__init__(ridge)
        if depth is not None and depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        if not bias_std >= 0:
            raise ValueError(f"bias_std must not be negative, got {bias_std}.")
        self.depth = depth
        self.bias_std = bias_std

    def depth_for(self, task: Task) -> int:
        """L; the depth of the learner by default."""
        return task.learner.depth if self.depth is None else self.depth


class QuadraticChainNTK(_ChainNTK):
    """The tangent kernel of an infinitely wide chain of squares: `kernels.quadratic_chain_ntk`.

    Source: Jacot, Gabriel and Hongler, arXiv 1806.07572.

    Args:
        ridge: the ridge penalty per sample.
        depth: L, the number of hidden layers; the depth of the learner by default.
        bias_std: s; at 0 the kernel is homogeneous of degree 2^L.

    Raises:
        ValueError: if a number is out of range.
    """

    def kernel(self, task: Task) -> Kernel:
        """Theta_{L+1}."""
        return partial(quadratic_chain_ntk, depth=self.depth_for(task), bias_std=self.bias_std)


class ReLUChainNTK(_ChainNTK):
    """The tangent kernel of an infinitely wide chain of ReLU layers: `kernels.relu_chain_ntk`.

    Source: Jacot, Gabriel and Hongler, arXiv 1806.07572.

    Args:
        ridge: the ridge penalty per sample.
        depth: L, the number of hidden layers; the depth of the learner by default.
        bias_std: s.

    Raises:
        ValueError: if a number is out of range.
    """

    def kernel(self, task: Task) -> Kernel:
        """Theta_{L+1}."""
        return partial(relu_chain_ntk, depth=self.depth_for(task), bias_std=self.bias_std)
