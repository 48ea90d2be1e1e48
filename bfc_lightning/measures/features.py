"""Similarity between the layers of the learner and the layers of the target.

Fits use the first half of the rows and are scored on the second half. Non-finite inputs, as from a
diverged learner, give NaN and do not raise.
"""

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.measures.safe_linalg import inverse_std, ratio, row_basis, whitening

MOST_PRODUCTS = 1000
_RIDGE = 1e-6
_BLOCK = 1024  # the layers of this many rows fit in the CPU cache


def probe_residuals(
    learner_features: list[Float[Tensor, "n _m"]], target_features: list[Float[Tensor, "n _k"]]
) -> Float[Tensor, "levels layers"]:
    """`Probe` of every layer of the learner, one column per layer and one row per target level."""
    probe = Probe(target_features)
    return torch.stack([probe.of(layer) for layer in learner_features], dim=1)


def named_probes(layers: list[list[float]]) -> dict[str, float]:
    """Returns residuals as `features/probe_i_j`, of level i in layer j, and `features/residual_l`.

    Args:
        layers: `Probe` of each layer, one number per level.
    """
    named = {}
    for layer, residuals in enumerate(layers, start=1):
        for level, residual in enumerate(residuals, start=1):
            named[f"features/probe_{level}_{layer}"] = residual
            if level == layer:
                named[f"features/residual_{level}"] = residual
    return named


def weight_leakage(
    weight: Float[Tensor, "m d"], target_weight: Float[Tensor, "k d"]
) -> Float[Tensor, ""]:
    """Norm of the first layer outside the target's directions: `features/leakage_weights_1`.

        1 - |V P|_F^2 / |V|_F^2

    P is the orthogonal projector onto the row space of W.

    Args:
        weight: V = V_{1,0}.
        target_weight: W = W_{1,0}, of any rank.

    Returns:
        0 if every row of V lies in the row space of W, 1 if V is 0 or all rows are orthogonal to
        it.
    """
    projected = weight @ row_basis(target_weight).T
    return 1 - ratio(projected.square().sum(), weight.square().sum())


def consumed_leakage(
    first_weight: Float[Tensor, "m1 d"],
    second_weight: Float[Tensor, "m2 m1"],
    readout: Float[Tensor, " m2"],
    target_weight: Float[Tensor, "k d"],
) -> Float[Tensor, ""]:
    """Leakage in the quadratic forms that layer 2 computes: `features/consumed_leakage_1`.

        Q_i = sum_k V_{2,1}[i,k] V_{1,0}[k]^T V_{1,0}[k]
        1 - sum_i |v_{2,i}| |P Q_i P|_F^2 / sum_i |v_{2,i}| |Q_i|_F^2

    P is the orthogonal projector onto the row space of W_{1,0}. The d x d forms Q_i are never
    computed:

        |Q_i|_F^2 = q_i^T (M * M) q_i,   M = V_{1,0} V_{1,0}^T,   q_i row i of V_{2,1}

    For P Q_i P, V_{1,0} P replaces V_{1,0}. The leakage of a perfect learner is certain to be 0
    only if all entries of the readout are positive.

    Source: own definition, for the corrected lower layer in Allen-Zhu and Li, arXiv 2001.04413.

    Args:
        first_weight: V_{1,0}.
        second_weight: V_{2,1}.
        readout: v_2.
        target_weight: W_{1,0}, of any rank.

    Returns:
        0 if all forms are supported on the row space of W_{1,0}, 1 if none has a part on it.
    """
    inside = _form_energies(first_weight @ row_basis(target_weight).T, second_weight)
    everywhere = _form_energies(first_weight, second_weight)
    return 1 - ratio(readout.abs() @ inside, readout.abs() @ everywhere)


def blocks(num_rows: int) -> list[slice]:
    """Returns slices of at most 1,024 rows, those of the first half first."""
    half = num_rows // 2
    starts = [*range(0, half, _BLOCK), *range(half, num_rows, _BLOCK)]
    return [slice(start, stop) for start, stop in pairwise([*starts, num_rows])]


class LayerMeasure(ABC):
    """A measure of one layer of the learner, which reads blocks of rows, the first half first.

    `__init__` computes what depends only on the target. Each shallow copy measures another layer.
    The learner may have a lower precision than the target.

    Args:
        wanted: the rows of the target.
    """

    def __init__(self, wanted: Float[Tensor, "n k"]) -> None:
        self.count, self.half = len(wanted), len(wanted) // 2
        self._shift = self._total = self._squares = self._cross = self._rest = wanted.new_zeros(())

    def read(self, rows: Float[Tensor, "b m"], at: slice) -> None:
        """Adds a block of the layer, the rows with the numbers `at`, to all sums.

        The mean of the first block is subtracted from all rows, so that the sums do not cancel.
        """
        if at.start == 0:
            self._shift = rows.mean(dim=0)
        self._add(rows - self._shift, at)

    def of(self, layer: Float[Tensor, "n m"]) -> Tensor:
        """Returns the measure of a whole layer."""
        measure = copy.copy(self)
        for at in blocks(len(layer)):
            measure.read(layer[at], at)
        return measure.result()

    @abstractmethod
    def result(self) -> Tensor:
        """Returns the measure of the layer that has been read."""

    @abstractmethod
    def _add(self, rows: Float[Tensor, "b m"], at: slice) -> None:
        """Adds rows to the sums."""


class Probe(LayerMeasure):
    """Residuals of linear probes of the target's levels in a layer: `features/residual_l`.

        residual_i = mean over a of sum_x (G_{i,a} - fit_{i,a})^2 / sum_x (G_{i,a} - mean)^2

    This is 1 - R^2 on the second half of the rows, with the mean of the second half. The fit of G_i
    on F is a ridge regression with intercept on the first half. The columns of F are standardized
    and constant columns are dropped. The penalty is 1e-6 times the number of fitted rows. All
    levels share one Cholesky factor.

    A residual is 0 if the layer determines the level linearly and about 1 if it carries no linear
    information about it. It is NaN if the fit fails numerically, as it can in float32 with
    dependent columns.

    Source: own definition, for "features" in Allen-Zhu and Li, arXiv 2001.04413.

    Args:
        target_features: G_1, G_2, ..., at least one level.
    """

    def __init__(self, target_features: list[Float[Tensor, "n _k"]]) -> None:
        wanted = torch.cat(target_features, dim=1)
        super().__init__(wanted)
        self._sizes = [level.shape[1] for level in target_features]
        centered = wanted - wanted[: self.half].mean(dim=0)
        self._wanted = torch.cat([torch.ones_like(wanted[:, :1]), centered], dim=1)
        scored = wanted[self.half :]
        self._spread = (scored - scored.mean(dim=0)).square().sum(dim=0)

    def _add(self, rows: Tensor, at: slice) -> None:
        rows, wanted = rows.to(self._wanted), self._wanted[at]
        if at.start < self.half:
            self._cross = self._cross + wanted.T @ rows
            self._squares = self._squares + rows.T @ rows
        else:
            slope, offset = self._solution
            rest = (wanted[:, 1:] + offset).T - slope.T @ rows.T
            self._rest = self._rest + rest.square().sum(dim=1)

    def result(self) -> Float[Tensor, " levels"]:
        """Returns residual_1, residual_2, ..."""
        residuals = torch.split(ratio(self._rest, self._spread), self._sizes)
        return torch.stack([level.mean() for level in residuals])

    @cached_property
    def _solution(self) -> tuple[Float[Tensor, "m k"], Float[Tensor, " k"]]:
        """The slope of the ridge regression, and its value at the mean of the first half."""
        mean = self._cross[0] / self.half
        gram = self._squares - self.half * torch.outer(mean, mean)
        scale = inverse_std(self._shift + mean, gram.diagonal().clamp(min=0) / self.half)
        penalty = torch.full_like(mean, _RIDGE * self.half).diag()
        factor, failed = torch.linalg.cholesky_ex(scale[:, None] * gram * scale + penalty)
        factor = torch.where(failed == 0, factor, torch.nan)
        slope = scale[:, None] * torch.cholesky_solve((self._cross[1:] * scale).T, factor)
        return slope, mean @ slope


class Leakage(LayerMeasure):
    """Variance of a layer outside the target's directions: `features/leakage_l`.

        1 - sum_i Var(fit_i) / sum_i Var(Z_i)

    The fit is the least-squares regression of Z on S, with intercept, on the first half of the
    rows. Both variances are computed on the second half. The leakage is 0 if Z_l is linear in S_l,
    and 1 if it is constant or independent of S_l.

    Args:
        wanted: S_l of the target. Its columns may be constant or linearly dependent.
    """

    def __init__(self, wanted: Float[Tensor, "n k"]) -> None:
        super().__init__(wanted)
        mean = wanted[: self.half].mean(dim=0)
        self._wanted = wanted - mean
        fitted, scored = self._wanted[: self.half], wanted[self.half :]
        self._root = whitening(fitted.T @ fitted / self.half, mean)
        scored = scored - scored.mean(dim=0)
        self._scored = scored.T @ scored

    def _add(self, rows: Tensor, at: slice) -> None:
        rows = rows.to(self._wanted)
        if at.start < self.half:
            self._cross = self._cross + self._wanted[at].T @ rows
        else:
            self._total = self._total + rows.sum(dim=0)
            self._squares = self._squares + rows.flatten().dot(rows.flatten())

    def result(self) -> Float[Tensor, ""]:
        """Returns the leakage."""
        coefficients = self._root @ (self._root.T @ self._cross) / self.half
        explained = (coefficients * (self._scored @ coefficients)).sum()
        total = self._squares - self._total.square().sum() / (self.count - self.half)
        return 1 - ratio(explained, total)


class Richness(LayerMeasure):
    """Number of independent quadratic forms of the target in a layer: `features/richness_l`.

        (sum_i s_i^2)^2 / sum_i s_i^4

    This is the participation ratio of the singular values s of C. C holds the least-squares
    coefficients of the standardized F_l on the k(k+1)/2 products S_a S_b, a <= b, centered and
    whitened. All rows are used. Blocks are summed in the precision of the learner.

    The richness is 1 if all neurons depend on the same form, at most k(k+1)/2, and 0 if the
    products explain nothing. It is NaN if there are more than 1,000 products.

    Source: own definition, for "rich representation" on the slides of Allen-Zhu and Li.

    Args:
        preactivations: S_l of the target.
    """

    def __init__(self, preactivations: Float[Tensor, "n k"]) -> None:
        super().__init__(preactivations)
        columns = range(preactivations.shape[1])
        if len(columns) * (len(columns) + 1) // 2 > MOST_PRODUCTS:
            self._forms = preactivations.new_full((self.count, 1), torch.nan)
            return
        pairs = [preactivations[:, a : a + 1] * preactivations[:, a:] for a in columns]
        products = torch.cat(pairs, dim=1)
        mean = products.mean(dim=0)
        products = products - mean
        self._forms = products @ whitening(products.T @ products / self.count, mean)

    def _add(self, rows: Tensor, at: slice) -> None:
        self._total = self._total + rows.sum(dim=0).to(self._forms)
        self._squares = self._squares + rows.square().sum(dim=0).to(self._forms)
        self._cross = self._cross + (self._forms[at].to(rows).T @ rows).to(self._forms)

    def result(self) -> Float[Tensor, ""]:
        """Returns the richness."""
        mean = self._total / self.count
        variance = (self._squares / self.count - mean.square()).clamp(min=0)
        coefficients = self._cross * inverse_std(self._shift + mean, variance) / self.count
        squared = coefficients @ coefficients.T
        return ratio(squared.trace().square(), squared.square().sum())


def _form_energies(
    vectors: Float[Tensor, "m r"], coefficients: Float[Tensor, "forms m"]
) -> Float[Tensor, " forms"]:
    """|sum_k q_k u_k u_k^T|_F^2 for each row q of `coefficients`, u_k the rows of `vectors`."""
    squared = (vectors @ vectors.T).square()
    return (coefficients @ squared * coefficients).sum(dim=1)
