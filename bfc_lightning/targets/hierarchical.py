"""The hierarchical target: a DenseNet of squares, a polynomial of degree 2^L."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.inputs import InputDistribution
from bfc_lightning.seeds import generator
from bfc_lightning.targets.base import MOMENT_CHUNK, MOMENT_SAMPLES, LayeredTarget
from bfc_lightning.targets.specification import (
    Weights,
    draw_weights,
    read_weights,
    resolve_scales,
    resolve_signs,
    resolve_sources,
    resolve_widths,
)


class HierarchicalTarget(LayeredTarget):
    """A target whose levels compose simple features into complex features.

        G_0 = x
        S_l = sum_{j in J_l} W_{l,j} G_j
        G_l = S_l^2
        G(x) = sum_l alpha_l w_l^T G_l(x)

    With `normalize`, S_l is divided by sqrt(|J_l|), each feature in G_l is replaced by
    (S_l^2 - mean)/std, and the output of level l is divided by sqrt(k_l). The standard deviation of
    level l is then about alpha_l. Means and standard deviations are estimated once, on 2^17 samples
    of x. Without normalization, the values explode at depths of 3 and above.

    Source: the target network of Allen-Zhu and Li, arXiv 2001.04413, with these differences:

    - Their level 1 is fixed: G_1 = x^2 - E x^2 elementwise, with d features and no weights.
      Their output sums levels 2..L, with alpha_2 = 1. Here, level 1 has k_1 features with weights,
      S_1 = W_{1,0} x, and the output sums levels 1..L. Level l has degree 2^l in both.
    - Their layer l never reads layer l - 2, and for l >= 3 it reads at least one layer besides
      l - 1. Here, layer l reads all lower layers by default; `sources: skip` leaves out l - 2.
    - In their theorem, all signs are +1. A remark allows -1 for half of the features. Here, signs
      are random by default.
    - They only normalize by subtracting E x^2 in level 1.

    `PaperTarget` is their class without these differences.

    Args:
        inputs: the distribution of x, of dimension d = k_0.
        widths: k_1 >= ... >= k_L, at most d; or `roots` for max(2, round(d^(1/2^l))).
        level_scales: alpha: a ratio r for r^(l-1), a list of L numbers, or `roots` for
            alpha_{l+1} = alpha_l d^(-1/2^l). The information gap grows as alpha_{l+1}/alpha_l
            decreases.
        depth: L, required only with `widths: roots`.
        sources: J_l for every layer, as lists of layer numbers that contain l - 1; or `skip` for
            all lower layers except l - 2. All lower layers by default.
        singular_values: [s_min, s_max], the range of the singular values of every W_{l,j}. The
            singular vectors are Haar-distributed.
        signs: w: `random`, `positive` (all +1), or lists of +1 and -1.
        normalize: whether levels are normalized as described above.
        weights: W_{l,j}, given as `weights[l-1][i]` for the i-th source of layer l.
        seed: seed of weights, signs and moments, 0 by default. The command line derives it from
            the seed of the run.

    Raises:
        ValueError: if an argument is out of range.
    """

    input_weight: Tensor

    def __init__(
        self,
        inputs: InputDistribution,
        widths: list[int] | Literal["roots"],
        level_scales: float | list[float] | Literal["roots"] = 0.5,
        depth: int | None = None,
        sources: list[list[int]] | Literal["skip"] | None = None,
        singular_values: tuple[float, float] = (1.0, 1.0),
        signs: Literal["random", "positive"] | list[list[int]] = "random",
        normalize: bool = True,
        weights: Weights | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(inputs)
        seed = 0 if seed is None else seed
        self.widths = resolve_widths(widths, input_dim=self.input_dim, depth=depth)
        self.depth = len(self.widths)
        self.sources = resolve_sources(sources, depth=self.depth)
        scales = resolve_scales(level_scales, input_dim=self.input_dim, depth=self.depth)
        self.level_scales = tuple(scales)
        self.normalize = normalize
        full = [self.input_dim, *self.widths]
        drawn = (
            draw_weights(full, self.sources, singular_values=singular_values, seed=seed)
            if weights is None
            else read_weights(weights, full, self.sources)
        )
        self._register_weights(drawn)
        rows = resolve_signs(signs, widths=self.widths, seed=seed)
        self.has_positive_signs = all(bool((row == 1).all()) for row in rows)
        for level, (row, scale) in enumerate(zip(rows, scales, strict=True), start=1):
            gain = scale / math.sqrt(len(row)) if normalize else scale
            self.register_buffer(f"signs_{level}", row)
            self.register_buffer(f"readout_{level}", gain * row)
        self._fix_moments(seed)

    def weight(self, level: int, source: int) -> Float[Tensor, "k_level k_source"]:
        """Returns W_{l,j}, shape (k_l, k_j). It is zero if layer l does not read layer j."""
        if source == 0:
            return torch.split(self.input_weight, self.widths)[level - 1]
        blocks = torch.split(self._level("weight", level), self.widths[: level - 1], dim=1)
        return blocks[source - 1]

    def square_weights(self, level: int) -> Float[Tensor, " k_level"]:
        """Returns the coefficient of each S_l^2 in G, shape (k_l,)."""
        return self._level("readout", level) / self._level("std", level)

    def preactivations(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """Returns S_1..S_L, shapes (n, k_l)."""
        return [rows.T for rows in self._layers(self._project(x))[0]]

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """Returns G_1..G_L, shapes (n, k_l)."""
        return [rows.T for rows in self._layers(self._project(x))[1]]

    def level_outputs(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n levels"]:
        """Returns alpha_l w_l^T G_l (divided by sqrt(k_l) if normalized), one column per level."""
        return self._read_out(self._layers(self._project(x))[1]).T

    def _level(self, name: str, level: int) -> Tensor:
        return self.get_buffer(f"{name}_{level}")

    def _register_weights(self, weights: dict[tuple[int, int], Tensor]) -> None:
        """Registers one matrix for all products with x, and one per layer for lower features."""
        full = [self.input_dim, *self.widths]

        def block(level: int, source: int) -> Tensor:
            empty = torch.zeros(full[level], full[source], dtype=torch.float64)
            return weights.get((level, source), empty)

        levels = range(1, self.depth + 1)
        self.register_buffer("input_weight", torch.cat([block(level, 0) for level in levels]))
        for level in levels:
            below = [block(level, source) for source in range(1, level)]
            empty = torch.zeros(full[level], 0, dtype=torch.float64)
            self.register_buffer(f"weight_{level}", torch.cat([empty, *below], dim=1))
            self.register_buffer(f"mean_{level}", torch.zeros(full[level], dtype=torch.float64))
            self.register_buffer(f"std_{level}", torch.ones(full[level], dtype=torch.float64))

    def _project(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "all_k n"]:
        """The products W_{l,0} x of all layers in rows: narrow layers are faster so."""
        return (x @ self.input_weight.T).T.contiguous()

    def _layers(
        self, projections: Float[Tensor, "all_k n"], upto: int | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """S_1..S_upto and G_1..G_upto in rows, shapes (k_l, n), given the products with x."""
        preactivations: list[Tensor] = []
        features: list[Tensor] = []
        from_inputs = torch.split(projections, self.widths)
        for level in range(1, (self.depth if upto is None else upto) + 1):
            summed = from_inputs[level - 1]
            if features:
                summed = torch.addmm(summed, self._level("weight", level), torch.cat(features))
            if self.normalize:
                summed = summed / math.sqrt(len(self.sources[level - 1]))
            preactivations.append(summed)
            mean, std = (self._level(name, level).unsqueeze(1) for name in ("mean", "std"))
            features.append((summed**2 - mean) / std)
        return preactivations, features

    def _fix_moments(self, seed: int) -> None:
        """Normalizes the layers in order, then estimates the moments of G."""
        random = generator(seed, "moments")
        chunks = [
            self._project(self.inputs.sample(MOMENT_CHUNK, random))
            for _ in range(MOMENT_SAMPLES // MOMENT_CHUNK)
        ]
        projections = torch.cat(chunks, dim=1)
        if self.normalize:
            for level in range(1, self.depth + 1):
                squares = self._layers(projections, upto=level)[1][-1]
                self._level("mean", level).copy_(squares.mean(dim=1))
                self._level("std", level).copy_(squares.std(dim=1, correction=0))
        self.set_moments(self._read_out(self._layers(projections)[1]).sum(dim=0))

    def _read_out(self, features: list[Tensor]) -> Tensor:
        """The contribution of each level to G, one row per level."""
        numbered = enumerate(features, start=1)
        return torch.stack([self._level("readout", level) @ rows for level, rows in numbered])
