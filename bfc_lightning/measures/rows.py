"""The sums over rows that `measures.features` needs of a layer, from one pass over its rows."""

import copy
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.measures.safe_linalg import inverse_std, ratio, whitening

_RIDGE = 1e-6
_BLOCK = 2048  # the layers of this many rows fit in the CPU cache


def blocks(num_rows: int) -> list[slice]:
    """Blocks of at most 2,048 rows of the first half, then of the second half.

    Args:
        num_rows: the number of rows of both halves.

    Returns:
        The numbers of the rows of each block.
    """
    half = num_rows // 2
    starts = [*range(0, half, _BLOCK), *range(half, num_rows, _BLOCK)]
    return [slice(start, stop) for start, stop in pairwise([*starts, num_rows])]


def read(measures: Sequence["LayerMeasure"], rows: Float[Tensor, "b m"], at: slice) -> None:
    """Lets measures of the same layer read a block.

    Args:
        measures: the measures.
        rows: the rows of the layer, in any precision.
        at: the numbers of the rows, one of `blocks`, in order.
    """
    if not measures:
        return
    for measure in measures:
        measure.shift = rows.mean(dim=0) if at.start == 0 else measure.shift
    centered = rows - measures[0].shift
    for measure in measures:
        measure.read(centered, at)


class LayerMeasure:
    """A measure of one layer of the learner, which reads blocks of rows, the first half first.

    `__init__` computes what depends only on the target. Each shallow copy measures another layer.
    The learner may have a lower precision than the target.

    Args:
        wanted: rows of the target.

    Attributes:
        shift: s, the mean of the first block of the learner. It makes all sums well-conditioned.
    """

    def __init__(self, wanted: Float[Tensor, "n k"]) -> None:
        self.half = len(wanted) // 2
        self.count = len(wanted)
        self.shift = self._total = self._squares = self._cross = self._rest = wanted.new_zeros(())

    def read(self, rows: Float[Tensor, "b m"], at: slice) -> None:
        """Reads rows y - s of the learner, whose numbers are `at`."""
        raise NotImplementedError

    def result(self) -> Tensor:
        """Returns the measure of the layer that has been read."""
        raise NotImplementedError

    def of(self, layer: Float[Tensor, "n m"]) -> Tensor:
        """Returns the measure of a layer of which all rows are given."""
        measure = copy.copy(self)
        for at in blocks(len(layer)):
            read([measure], layer[at], at)
        return measure.result()


class Probe(LayerMeasure):
    """`probe_residuals` of one layer, one number per level."""

    def __init__(self, target_features: list[Float[Tensor, "n _k"]]) -> None:
        wanted = torch.cat(target_features, dim=1)
        super().__init__(wanted)
        self._sizes = [level.shape[1] for level in target_features]
        self._wanted = wanted - wanted[: self.half].mean(dim=0)
        scored = wanted[self.half :]
        self._spread = (scored - scored.mean(dim=0)).square().sum(dim=0)

    def read(self, rows: Tensor, at: slice) -> None:
        """See `LayerMeasure`."""
        rows, wanted = rows.to(self._wanted), self._wanted[at]
        if at.start < self.half:
            self._total = self._total + rows.sum(dim=0)
            self._cross = self._cross + wanted.T @ rows
            self._squares = self._squares + rows.T @ rows
        else:
            slope, offset = self._solution
            rest = (wanted + offset).T - slope.T @ rows.T
            self._rest = self._rest + rest.square().sum(dim=1)

    def result(self) -> Float[Tensor, " levels"]:
        """See `LayerMeasure`."""
        residuals = torch.split(ratio(self._rest, self._spread), self._sizes)
        return torch.stack([level.mean() for level in residuals])

    @cached_property
    def _solution(self) -> tuple[Float[Tensor, "m k"], Float[Tensor, " k"]]:
        """The slope of the ridge regression, and its value at the mean of the first half."""
        mean = self._total / self.half
        gram = self._squares - mean[:, None] * self._total
        scale = inverse_std(self.shift + mean, gram.diagonal().clamp(min=0) / self.half)
        penalty = torch.full_like(mean, _RIDGE * self.half).diag()
        factor, failed = torch.linalg.cholesky_ex(scale[:, None] * gram * scale + penalty)
        factor = torch.where(failed == 0, factor, torch.nan)
        slope = scale[:, None] * torch.cholesky_solve((self._cross * scale).T, factor)
        return slope, mean @ slope


class Leakage(LayerMeasure):
    """`feature_leakage` of one layer."""

    def __init__(self, wanted: Float[Tensor, "n k"]) -> None:
        super().__init__(wanted)
        mean = wanted[: self.half].mean(dim=0)
        self._wanted = wanted - mean
        fitted, scored = self._wanted[: self.half], wanted[self.half :]
        self._root = whitening(fitted.T @ fitted / self.half, mean)
        scored = scored - scored.mean(dim=0)
        self._scored = scored.T @ scored

    def read(self, rows: Tensor, at: slice) -> None:
        """See `LayerMeasure`."""
        rows = rows.to(self._wanted)
        if at.start < self.half:
            self._cross = self._cross + self._wanted[at].T @ rows
        else:
            self._total = self._total + rows.sum(dim=0)
            self._squares = self._squares + rows.square().sum()

    def result(self) -> Float[Tensor, ""]:
        """See `LayerMeasure`."""
        coefficients = self._root @ (self._root.T @ self._cross) / self.half
        explained = (coefficients * (self._scored @ coefficients)).sum()
        total = self._squares - self._total.square().sum() / (self.count - self.half)
        return 1 - ratio(explained, total)


class Richness(LayerMeasure):
    """`richness` of one layer. Blocks are summed in the precision of the learner."""

    def __init__(self, preactivations: Float[Tensor, "n k"]) -> None:
        super().__init__(preactivations)
        columns = range(preactivations.shape[1])
        pairs = [preactivations[:, a : a + 1] * preactivations[:, a:] for a in columns]
        products = torch.cat(pairs, dim=1)
        mean = products.mean(dim=0)
        products = products - mean
        self._forms = products @ whitening(products.T @ products / self.count, mean)

    def read(self, rows: Tensor, at: slice) -> None:
        """See `LayerMeasure`."""
        self._total = self._total + rows.sum(dim=0).to(self._forms)
        self._squares = self._squares + rows.square().sum(dim=0).to(self._forms)
        self._cross = self._cross + (self._forms[at].to(rows).T @ rows).to(self._forms)

    def result(self) -> Float[Tensor, ""]:
        """See `LayerMeasure`."""
        mean = self._total / self.count
        variance = (self._squares / self.count - mean.square()).clamp(min=0)
        coefficients = self._cross * inverse_std(self.shift + mean, variance) / self.count
        squared = coefficients @ coefficients.T
        return ratio(squared.trace().square(), squared.square().sum())
