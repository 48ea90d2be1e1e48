"""The spectral method: estimate the few relevant directions, then fit a polynomial in them."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.baselines.base import Baseline, Task, second_moment
from bfc_lightning.baselines.kernel_fit import KernelFit
from bfc_lightning.baselines.kernel_ridge import polynomial_kernel
from bfc_lightning.baselines.polynomials import Polynomial, fit_polynomial
from bfc_lightning.baselines.readout import fit_standardized
from bfc_lightning.measures.functions import monomials, num_monomials
from bfc_lightning.runs.folder import RunError
from bfc_lightning.types import as_integer, check_positive

_MOST_MONOMIALS = 5000


class SpectralMethod(Baseline):
    """A classical rival that uses the levels: eigenvectors, then a polynomial, for each level.

    Inputs are centered and whitened with the mean and covariance of the training samples. Below, x
    is the whitened input, r the residual of the previous levels (y - E y at first), U the
    directions found so far and z = U^T x. Level l = 1, ..., L computes

        M = E[r (x x^T - 1)], off U           the leading k_l eigenvectors (by |eigenvalue|) join U
        p(z) of degree 2^l                    ridge regression of y on the monomials of z
        U <- U + D, p <- p + q                `refinements` times; D and q are given by the ridge
                                              regression y ~ p(z) + q(z) + grad p(z)^T D^T x, with
                                              D orthogonal to U

    "Off U" means restricted to the orthogonal complement of U. For Gaussian inputs, M is the mean
    Hessian of r, and its range lies in the directions that r depends on. A smaller r means less
    noise in M, so weak levels are found after strong ones are removed. The refinement is a
    Gauss-Newton step for y ~ p(U^T x). A degree is halved until it has at most min(5,000, n)
    monomials. If degree 2^L is halved, kernel ridge regression with (1 + <z, z'>/k)^(2^L) fits the
    last residual.

    Source: eigenvectors: Mondelli and Montanari, arXiv 1708.05932, and Chen and Meka, arXiv
    2004.13748, who also alternate polynomial regression with steps in U; level by level: ours.

    Args:
        widths: k_1, ..., k_L, the number of directions that each level adds. By default, there are
            as many levels as the learner has layers, and `gap` chooses the directions of each.
        ridge: the ridge penalty per sample of the polynomials, for standardized monomials.
        kernel_ridge: the ridge penalty per sample of the last kernel.
        refinements: the number of refinement steps per level.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        widths: list[int] | None = None,
        ridge: float = 1e-3,
        kernel_ridge: float = 3e-3,
        refinements: int = 3,
    ) -> None:
        if widths is not None and (not widths or min(widths) < 1):
            raise ValueError(
                f"widths must be a list of at least one positive integer, got {widths}."
            )
        check_positive(ridge=ridge, kernel_ridge=kernel_ridge)
        self.widths = widths
        self.ridge = ridge
        self.kernel_ridge = kernel_ridge
        self.refinements = as_integer(refinements, "refinements", least=0)

    def fit(self, task: Task) -> None:
        """Finds the directions and fits the polynomials.

        Raises:
            RunError: if there are more directions than dimensions, or too few samples.
        """
        x, y = task.train.inputs, task.train.labels
        depth = task.learner.depth
        widths = [None] * depth if self.widths is None else [*self.widths]
        if sum(width or 0 for width in widths) > x.shape[1]:
            raise RunError(f"widths must add up to at most {x.shape[1]}, got {widths}.")
        self._mean, self._whitening = whitening(x)
        white = (x - self._mean) @ self._whitening
        self._directions = white.new_zeros(x.shape[1], 0)
        self._added: list[int] = []
        residual = y - y.mean()
        for level, width in enumerate(widths, start=1):
            self._add_directions(white, residual, width)
            self._fit_level(white, y, level)
            residual = y - self._polynomial(white @ self._directions)
        self._rest: KernelFit | None = None
        if self._polynomial.degree < 2 ** len(widths):
            kernel = partial(polynomial_kernel, degree=2 ** len(widths))
            z = white @ self._directions
            self._rest = KernelFit(kernel, z, residual, ridge=self.kernel_ridge)

    def predict(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """p(z), plus the last kernel if there is one."""
        z = self._variables(x)
        prediction = self._polynomial(z)
        return prediction if self._rest is None else prediction + self._rest(z)

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _m"]]:
        """One layer for each level whose degree was not halved: all monomials up to that degree."""
        z = self._variables(x)
        degrees = [2**level for level in range(1, len(self._added) + 1)]
        kept = [degree for degree in degrees if degree <= self._polynomial.degree]
        return [monomials(z, degree)[:, 1:] for degree in kept]

    def chosen(self) -> dict[str, float]:
        """The number of directions that each level added."""
        return {f"directions_{level}": k for level, k in enumerate(self._added, start=1)}

    def _variables(self, x: Tensor) -> Tensor:
        return (x - self._mean) @ self._whitening @ self._directions

    def _add_directions(self, white: Tensor, residual: Tensor, width: int | None) -> None:
        off = _complement(self._directions)
        values, vectors = torch.linalg.eigh(second_moment(white @ off, residual))
        order = values.abs().argsort(descending=True)
        count = gap(values.abs()[order]) if width is None else width
        self._added.append(count)
        self._directions = torch.cat([self._directions, off @ vectors[:, order[:count]]], dim=1)

    def _fit_level(self, white: Tensor, y: Tensor, level: int) -> None:
        k = self._directions.shape[1]
        degree = 2**level
        while degree > 1 and num_monomials(k, degree) > min(_MOST_MONOMIALS, len(y)):
            degree //= 2
        z = white @ self._directions
        self._polynomial = fit_polynomial(z, y, degree=degree, ridge=self.ridge)
        for _ in range(self.refinements if k < white.shape[1] else 0):
            self._refine(white, y)
        if self.refinements:
            z = white @ self._directions
            self._polynomial = fit_polynomial(z, y, degree=degree, ridge=self.ridge)

    def _refine(self, white: Tensor, y: Tensor) -> None:
        """Takes one joint Gauss-Newton step in U and p."""
        off, degree = _complement(self._directions), self._polynomial.degree

        def columns(rows: Tensor) -> Tensor:
            z = rows @ self._directions
            turns = torch.einsum("na,nb->nab", self._polynomial.gradient(z), rows @ off)
            return torch.cat([monomials(z, degree), turns.flatten(start_dim=1)], dim=1)

        solution = fit_standardized(columns, white, y, ridge=self.ridge)
        k = self._directions.shape[1]
        count = num_monomials(k, degree)
        self._polynomial = Polynomial(degree, solution[:count])
        turned = self._directions + off @ solution[count:].reshape(k, -1).T
        left, _, right = torch.linalg.svd(turned, full_matrices=False)
        self._directions = left @ right  # the nearest orthonormal frame, so p stays valid


def whitening(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """The mean m and C^(-1/2) of the samples, so that (x - m) C^(-1/2) has covariance 1.

    Raises:
        RunError: if there are at most d samples.
    """
    if len(x) <= x.shape[1]:
        raise RunError(f"data.num_train_samples must be above {x.shape[1]}, got {len(x)}.")
    values, vectors = torch.linalg.eigh(torch.cov(x.T).reshape(x.shape[1], x.shape[1]))
    return x.mean(dim=0), (vectors / values.sqrt()) @ vectors.T


def gap(values: Float[Tensor, " d"]) -> int:
    """The number of values before the largest ratio of neighbors within the first quarter.

    Args:
        values: positive values in decreasing order.
    """
    first = values[: max(2, len(values) // 4 + 1)]
    return len(first) if len(first) < 2 else int((first[:-1] / first[1:]).argmax()) + 1


def _complement(directions: Float[Tensor, "d k"]) -> Float[Tensor, "d rest"]:
    """An orthonormal basis of the orthogonal complement of orthonormal directions."""
    complete: Tensor = torch.linalg.qr(directions, mode="complete")[0]
    return complete[:, directions.shape[1] :]
