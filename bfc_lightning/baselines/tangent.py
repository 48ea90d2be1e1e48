"""Kernel ridge regression with tangent kernels of infinitely wide networks and of the learner.

At ridge 0, it is the limit of gradient flow on the squared loss for networks whose gradients do not
change during training.

Source: Jacot, Gabriel and Hongler, arXiv 1806.07572, sections 4 and 5.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from bfc_lightning.baselines.base import Task
from bfc_lightning.baselines.kernel_fit import Kernel, KernelMethod
from bfc_lightning.kernels.chains import quadratic_chain_ntk, relu_chain_ntk
from bfc_lightning.kernels.learner import has_positive_readout, learner_ntk, readout_scales
from bfc_lightning.measures.ntk import empirical_ntk
from bfc_lightning.runs.folder import RunError
from bfc_lightning.types import as_integer


class LearnerNTK(KernelMethod):
    """The tangent kernel of the infinitely wide learner: see `kernels.learner_ntk`."""

    def kernel_of(self, task: Task) -> Kernel:
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


class EmpiricalNTK(KernelMethod):
    """The tangent kernel of the learner at its initialization: see `measures.ntk.empirical_ntk`.

    Unlike `LearnerNTK`, it weights layers by their widths, since the learner trains V itself.
    """

    def kernel_of(self, task: Task) -> Kernel:
        """K of the learner at its initialization, over the parameters that it trains."""
        return partial(empirical_ntk, task.learner, has_readout=task.learner.train_readout)


class _ChainNTK(KernelMethod):
    fits_vectors = True
    _ntk: Callable[..., Tensor]

    def __init__(
        self, ridge: float = 1e-4, depth: int | None = None, bias_std: float = 1.0
    ) -> None:
        super().__init__(ridge)
        if not bias_std >= 0:
            raise ValueError(f"bias_std must not be negative, got {bias_std}.")
        self.depth = None if depth is None else as_integer(depth, "depth", least=1)
        self.bias_std = bias_std

    def kernel_of(self, task: Task) -> Kernel:
        """Theta_{L+1}."""
        depth = task.learner.depth if self.depth is None else self.depth
        return partial(self._ntk, depth=depth, bias_std=self.bias_std)


class QuadraticChainNTK(_ChainNTK):
    """The tangent kernel of an infinitely wide chain of squares: `kernels.quadratic_chain_ntk`.

    Args:
        ridge: the ridge penalty per sample, positive.
        depth: L, the number of hidden layers; the depth of the learner by default.
        bias_std: s, at least 0. At 0, the kernel is homogeneous of degree 2^L.
    """

    _ntk = staticmethod(quadratic_chain_ntk)


class ReLUChainNTK(_ChainNTK):
    """The tangent kernel of an infinitely wide chain of ReLU layers: `kernels.relu_chain_ntk`.

    Args:
        ridge: the ridge penalty per sample, positive.
        depth: L, the number of hidden layers; the depth of the learner by default.
        bias_std: s, at least 0.
    """

    _ntk = staticmethod(relu_chain_ntk)
