"""Recursive feature machines: kernels that learn relevant input directions, by xrfm."""

import importlib

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.baselines.base import Baseline, Task
from bfc_lightning.measures.functions import monomials
from bfc_lightning.runs.folder import RunError
from bfc_lightning.types import as_integer, check_positive

_UNSEEN = 0.01  # share of the trace of M in the eigenvectors that features omit


class RecursiveFeatureMachine(Baseline):
    """Kernel regression in a metric learned from its own gradients.

        f = kernel ridge regression with K(x, x') = exp(-(|x - x'|_M / bandwidth)^exponent)
        M <- E[grad f grad f^T] / its largest entry;    |v|_M^2 = v^T M v,    M = 1 initially

    The two steps alternate `iterations` times. The M with the lowest holdout error is kept, and
    the iteration stops if the error is 10 % above the lowest one: a trial evaluates the holdout
    more than once. Float32 halves the time; a ridge below about 1e-8 is lost in rounding.

    Source: Radhakrishnan, Beaglehole, Pandit and Belkin, "Mechanism for feature learning in neural
    networks and backpropagation-free machine learning models", Science 383 (2024). Implemented by
    xrfm, without its trees, which split large sets of samples.

    Args:
        bandwidth: the bandwidth of the kernel, in the units of x.
        exponent: a number in (0, 2]: 1 gives the Laplace kernel, 2 the Gaussian kernel.
        ridge: the ridge penalty per sample in (K + n ridge) c = y - mean(y).
        iterations: the number of updates of M.

    Raises:
        ValueError: if a number is out of range.
        RunError: if xrfm is not installed.
    """

    def __init__(
        self,
        bandwidth: float = 10.0,
        exponent: float = 2.0,
        ridge: float = 1e-7,
        iterations: int = 3,
    ) -> None:
        check_positive(bandwidth=bandwidth, ridge=ridge)
        if not 0 < exponent <= 2:
            raise ValueError(f"exponent must lie in (0, 2], got {exponent}.")
        self.bandwidth = bandwidth
        self.exponent = exponent
        self.ridge = ridge
        self.iterations = as_integer(iterations, "iterations", least=1)
        try:
            self._package = importlib.import_module("xrfm.rfm_src")
        except ModuleNotFoundError as missing:
            raise RunError(
                "xrfm must be installed for RecursiveFeatureMachine. "
                "Install it with: pip install 'bfc_lightning[rfm]'."
            ) from missing

    def fit(self, task: Task) -> None:
        """Alternates between fitting f and updating M."""
        self._mean = task.train.labels.mean()
        self._machine = self._package.RFM(
            "l2",
            bandwidth=self.bandwidth,
            exponent=self.exponent,
            solver="cholesky",
            device="cpu",
            verbose=False,
        )
        train, holdout = (
            (part.inputs.float(), (part.labels - self._mean)[:, None].float())
            for part in (task.train, task.holdout)
        )
        reg = len(train[0]) * self.ridge
        self._machine.fit(train, holdout, iters=self.iterations, reg=reg, verbose=False)

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f(x)."""
        values: Tensor = self._machine.predict(x.float())
        return self._mean + values[:, 0].double()

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _m"]]:
        """A single layer: coordinates of x along leading eigenvectors of M, squares and products.

        The eigenvectors hold 99% of the trace of M. There are no features if M is still 1.
        """
        if self._machine.M is None:
            return []
        values, vectors = torch.linalg.eigh(self._machine.M.double())
        missing = values.cumsum(dim=0) / values.sum()
        return [monomials(x @ vectors[:, missing > _UNSEEN], 2)[:, 1:]]

    def chosen(self) -> dict[str, float]:
        """The iteration whose M was kept."""
        return {"iterations": self._machine.best_iter}
