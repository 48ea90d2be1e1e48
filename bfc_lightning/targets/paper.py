"""The target of the theorem: a fixed first level, and no layer that reads the second one below."""

from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.inputs import InputDistribution
from bfc_lightning.seeds import generator
from bfc_lightning.targets.base import LayeredTarget
from bfc_lightning.targets.specification import (
    Weights,
    draw_weights,
    read_weights,
    resolve_paper_sources,
    resolve_scales,
    resolve_widths,
    theorem_scales,
    theorem_widths,
)


class PaperTarget(LayeredTarget):
    """The class of targets of the theorem on hierarchical learning.

        G_0 = x,   G_1 = x^2 - E x^2   (elementwise)
        S_l = sum_{j in J_l} W_{l,j} G_j,   G_l = S_l^2,   l = 2..L
        G(x) = sum_{l=2..L} alpha_l w_l^T G_l(x)

    J_l is a subset of {0, ..., l-3} and {l-1}. It contains l - 1 and, for l >= 3, at least one more
    layer. Level l has degree 2^l. Level 1 has d features, no weights, and weight alpha_1 = 0 in G.
    Its pre-activation is S_1 = x. Nothing else is normalized.

    Theorem 1 requires constants C > C_1 >= 2, signs w = 1, widths k_l <= d^(1/C^(l + C_1)), gaps
    alpha_{l+1}/alpha_l <= d^(-1/C^l) with alpha_2 = 1, kappa <= 2^(C_1^L), and that J_l contains
    none of 2, ..., l - C_1. With the presets `theorem`, widths (rounded down) and gaps meet these
    bounds with equality. All widths are then 1, unless d >= 2^(C^(2 + C_1)), which is above 2^16.

    Source: Allen-Zhu and Li, arXiv 2001.04413, the target network and Theorem 1.

    Args:
        inputs: the distribution of x, of dimension d.
        widths: k_2 >= ... >= k_L, at most d; or `theorem`.
        level_scales: alpha_2, ..., alpha_L: a ratio r for r^(l-2), a list of L - 1 positive
            numbers, or `theorem`.
        depth: L, at least 2, required only with `widths: theorem`.
        sources: J_2, ..., J_L, as lists of layer numbers; `skip` for all lower layers except l - 2;
            or `theorem` for `skip` without the layers 2, ..., l - C_1.
        constants: [C, C_1] of the presets `theorem`.
        kappa: at least 1. The singular values of every W_{l,j} are uniform in [1/kappa, kappa]. The
            singular vectors are Haar-distributed.
        signs: w: `positive` (all +1), or `balanced`: -1 for the last floor(k_l / 2) features of
            each level. The paper allows this in a remark.
        weights: W_{l,j}, given as `weights[l-2][i]` for the i-th source of layer l.
        seed: seed of weights and moments, 0 by default. The command line derives it from the seed
            of the run.

    Raises:
        ValueError: if an argument is out of range.
    """

    square_mean: Tensor
    _exempt: ClassVar[tuple[int, ...]] = ()

    def __init__(
        self,
        inputs: InputDistribution,
        widths: list[int] | Literal["theorem"],
        level_scales: float | list[float] | Literal["theorem"] = 0.1,
        depth: int | None = None,
        sources: list[list[int]] | Literal["skip", "theorem"] = "skip",
        constants: tuple[float, float] = (3.0, 2.0),
        kappa: float = 1.0,
        signs: Literal["positive", "balanced"] = "positive",
        weights: Weights | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(inputs)
        seed = 0 if seed is None else seed
        if not constants[0] > constants[1] >= 2:
            wrong = list(constants)
            raise ValueError(f"constants must be [C, C_1] with C > C_1 >= 2, got {wrong}.")
        if not 1 <= kappa < float("inf"):
            raise ValueError(f"kappa must be at least 1 and finite, got {kappa}.")
        if signs not in ("positive", "balanced"):
            raise ValueError(f"signs must be 'positive' or 'balanced', got {signs!r}.")
        self.kappa = kappa
        self.widths = resolve_widths(
            widths,
            input_dim=self.input_dim,
            depth=depth,
            lowest=2,
            preset="theorem",
            of_depth=partial(theorem_widths, constants=constants),
        )
        self.depth = len(self.widths) + 1
        self.sources = resolve_paper_sources(
            sources, depth=self.depth, constants=constants, exempt=self._exempt
        )
        if level_scales == "theorem":
            level_scales = theorem_scales(self.input_dim, self.depth, constants=constants)
        scales = resolve_scales(level_scales, input_dim=self.input_dim, depth=len(self.widths))
        self.level_scales = (0.0, *scales)
        self.has_positive_signs = signs == "positive" or max(self.widths) == 1
        drawn = (
            self._draw_weights(kappa, seed)
            if weights is None
            else read_weights([[], *weights], *self._shape())
        )
        for (level, source), matrix in drawn.items():
            self.register_buffer(f"weight_{level}_{source}", matrix)
        for level, (scale, width) in enumerate(zip(scales, self.widths, strict=True), start=2):
            readout = torch.full((width,), scale, dtype=torch.float64)
            if signs == "balanced":
                readout[(width + 1) // 2 :] *= -1
            self.register_buffer(f"readout_{level}", readout)
        self.register_buffer("square_mean", inputs.covariance.diagonal() + inputs.mean**2)
        self.estimate_moments(seed)

    def weight(self, level: int, source: int) -> Float[Tensor, "k_level k_source"]:
        """Returns W_{l,j}, shape (k_l, k_j), for l >= 2 and j in J_l."""
        return self.get_buffer(f"weight_{level}_{source}")

    def preactivations(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """Returns S_1 = x and S_2..S_L, shapes (n, k_l), with k_1 = d."""
        return self._layers(x)[0]

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """Returns G_1..G_L, shapes (n, k_l), with k_1 = d."""
        return self._layers(x)[1]

    def level_outputs(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n levels"]:
        """Returns a column of zeros for level 1, and alpha_l w_l^T G_l for each l >= 2."""
        numbered = enumerate(self.features(x)[1:], start=2)
        columns = [feature @ self.get_buffer(f"readout_{level}") for level, feature in numbered]
        return torch.stack([torch.zeros_like(columns[0]), *columns], dim=1)

    def _shape(self) -> tuple[list[int], list[list[int]]]:
        """k_0..k_L and J_1..J_L, with no sources of level 1."""
        return [self.input_dim, self.input_dim, *self.widths], [[], *self.sources]

    def _draw_weights(self, kappa: float, seed: int) -> dict[tuple[int, int], Tensor]:
        """W_{l,j} for j in J_l, by (l, j)."""
        return draw_weights(*self._shape(), singular_values=(1 / kappa, kappa), seed=seed)

    def _layers(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """S_1..S_L and G_1..G_L."""
        known, preactivations = [x, x**2 - self.square_mean], [x]
        for level, read in enumerate(self.sources, start=2):
            terms = [known[source] @ self.weight(level, source).T for source in read]
            preactivations.append(torch.stack(terms).sum(dim=0))
            known.append(preactivations[-1] ** 2)
        return preactivations, known[1:]


class HardForKernels(PaperTarget):
    """A target that no kernel method learns from few samples.

        k_l = 1,   W_{l,0} and W_{l,1} uniform on the vectors with p = 2^(L-1) entries p^(-1/2)
        and d - p zeros,   W_{l,j} = 1 for j >= 2

    J_2 = {1}. For l >= 3, J_l is that of `sources: skip` with layer 1. Layer 3 therefore reads
    layer 1, which the definition of `PaperTarget` excludes.

    The theorem: for L <= log log d / 100, x ~ N(0, 1) and at most (d choose p)/1000 samples, the
    error of any kernel method is at least of order alpha_L^2 log^(-2^(L+2)) d for 99% of these
    targets. At dimensions that can be run, the target only illustrates the theorem.

    Source: Allen-Zhu and Li, arXiv 2001.04413, the lower bound for kernels.

    Args:
        inputs: the distribution of x, of dimension at least 2^(L-1).
        depth: L, at least 2.
        level_scales: alpha_2, ..., alpha_L: a ratio or a list of L - 1 positive numbers.
        seed: seed of the vectors and moments, 0 by default.

    Raises:
        ValueError: if an argument is out of range.
    """

    _exempt = (1,)

    def __init__(
        self,
        inputs: InputDistribution,
        depth: int = 3,
        level_scales: float | list[float] = 0.1,
        seed: int | None = None,
    ) -> None:
        super().__init__(inputs, [1] * (depth - 1), level_scales, depth, seed=seed)

    def _draw_weights(self, kappa: float, seed: int) -> dict[tuple[int, int], Tensor]:
        num_nonzero = 2 ** (self.depth - 1)
        if self.input_dim < num_nonzero:
            raise ValueError(
                f"input_dim must be at least 2^(depth - 1) = {num_nonzero}, got {self.input_dim}."
            )

        def row(level: int, source: int) -> Tensor:
            if source >= 2:
                return torch.ones(1, 1, dtype=torch.float64)
            random = generator(seed, "weights", level, source)
            vector = torch.zeros(1, self.input_dim, dtype=torch.float64)
            chosen = torch.randperm(self.input_dim, generator=random)[:num_nonzero]
            vector[0, chosen] = num_nonzero**-0.5
            return vector

        reads = enumerate(self.sources, start=2)
        return {(level, source): row(level, source) for level, read in reads for source in read}


class HardForTwoLayers(PaperTarget):
    """A target that no two-layer polynomial network of moderate size approximates.

        k_2 = d,   W_{2,1} = I,   k_l = 1 for l >= 3
        W_{l,0} = W_{l,1} = W_{l,2} = (d^(-1/2), ..., d^(-1/2)),   W_{l,j} = 1 for j >= 3

    J_2 = {1}. For l >= 3, J_l is that of `sources: skip` with layers 1 and 2. Layer 3 therefore
    reads layer 1, and layer 4 reads layer 2, which the definition of `PaperTarget` excludes.

    The theorem: the error of two-layer networks on (x, x^2) with at most d^(2^o(L)) neurons of
    degree 2^(L-1) is at least alpha_L^2 / 2^(2^O(L)).

    Source: Allen-Zhu and Li, arXiv 2001.04413, the lower bound for two-layer polynomial networks.

    Args:
        inputs: the distribution of x.
        depth: L, at least 2.
        level_scales: alpha_2, ..., alpha_L: a ratio or a list of L - 1 positive numbers.
        seed: seed of the moments, 0 by default.

    Raises:
        ValueError: if an argument is out of range.
    """

    _exempt = (1, 2)

    def __init__(
        self,
        inputs: InputDistribution,
        depth: int = 3,
        level_scales: float | list[float] = 0.1,
        seed: int | None = None,
    ) -> None:
        widths = [inputs.input_dim] + [1] * (depth - 2)
        super().__init__(inputs, widths, level_scales, depth, seed=seed)

    def _draw_weights(self, kappa: float, seed: int) -> dict[tuple[int, int], Tensor]:
        def row(source: int) -> Tensor:
            width = self.input_dim if source <= 2 else 1
            return torch.full((1, width), width**-0.5, dtype=torch.float64)

        identity = torch.eye(self.input_dim, dtype=torch.float64)
        reads = enumerate(self.sources[1:], start=3)
        rows = {(level, source): row(source) for level, read in reads for source in read}
        return {(2, 1): identity, **rows}
