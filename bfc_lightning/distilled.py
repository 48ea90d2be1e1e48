"""The learner that the theorem of backward feature correction analyzes: wide W, narrow K, fixed R.

Source: Allen-Zhu and Li, arXiv 2001.04413.
"""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.distilled_settings import Distilled
from bfc_lightning.learners import Learner
from bfc_lightning.seeds import generator
from bfc_lightning.types import as_integer

_EVALUATED_ROWS = 2048


def truncated_square(z: Float[Tensor, "*shape"], bound: float) -> Float[Tensor, "*shape"]:
    """A bounded square that is exact for small arguments, monotone in |z| and twice differentiable.

        z^2                                        if |z| <= B
        B^2 (1 + 2t + t^2 - 10 t^3/3 + 3 t^4/2)    if B < |z| < 2B,  t = |z|/B - 1
        13 B^2 / 6                                 if |z| >= 2B

    Its derivative in between is 2 B (1 - t)^2 (1 + 3t).

    Args:
        z: pre-activations.
        bound: B, positive.
    """
    t = (z.abs() / bound - 1).clamp(0, 1)
    blend = 1 + t * (2 + t * (1 + t * (-10 / 3 + t * (3 / 2))))
    return torch.where(z.abs() <= bound, z.square(), bound**2 * blend)


def initial_distill(
    cross_gram: Float[Tensor, "rest last"], kappa: float
) -> tuple[Float[Tensor, "k rest"], Float[Tensor, "k last"]]:
    """InitialDistill: the narrow weights whose cross Gram matrix is that of the wide weights.

        K_<^T K_last = U S V,   K_< = S^(1/2) U^T,   K_last = S^(1/2) V

    Source: Allen-Zhu and Li, arXiv 2001.04413, Algorithm 1.

    K_< and K_last have k rows, the number of singular values of at least 1/(10 kappa^2).

    Args:
        cross_gram: W_{l<}^T W_{l,l-1}. For l = 2, which reads one layer, W_{2,1}^T W_{2,1}.
        kappa: bound of the singular values of the target's weights and their inverses.
    """
    left, values, right = torch.linalg.svd(cross_gram, full_matrices=False)
    rank = int((values >= 1 / (10 * kappa**2)).sum())
    root = values[:rank, None].sqrt()
    return root * left[:, :rank].T, root * right[:rank]


class DistilledLayer(nn.Module):
    """W_l, K_l and R_l of one layer.

    Args:
        sources: J_l, increasing; the last one is l - 1.
        fan_ins: number of columns of the block of each source.
        width: m, rows of W_l.
        narrow_width: the largest k_l, rows of K_l.

    Attributes:
        wide: W_l, all blocks side by side, shape (m, q).
        narrow: K_l, shape (k_l, q). Rows beyond the rank that was found are 0 and stay 0, since R_l
            does not read them.
        mixing: R_l, shape (k_l (k_l + 1)/2, k_l). Columns beyond the rank are set to 0.
    """

    mixing: Tensor

    def __init__(
        self, sources: Sequence[int], fan_ins: Sequence[int], *, width: int, narrow_width: int
    ) -> None:
        super().__init__()
        self.sources = tuple(sources)
        self.fan_ins = tuple(fan_ins)
        self.wide = nn.Parameter(torch.zeros(width, sum(fan_ins)))
        self.narrow = nn.Parameter(torch.zeros(narrow_width, sum(fan_ins)))
        self.register_buffer("mixing", torch.zeros(num_products(narrow_width), narrow_width))

    def initialize(self, noise: float, random: torch.Generator) -> None:
        """Draws W_l ~ N(0, noise^2), as W_l = 0 is a saddle, and R_l ~ N(0, 1/k_l^2). K_l is 0."""
        with torch.no_grad():
            wide = torch.randn(self.wide.shape, generator=random, dtype=torch.float64)
            mixing = torch.randn(self.mixing.shape, generator=random, dtype=torch.float64)
            self.wide.copy_(noise * wide)
            self.mixing.copy_(mixing / len(self.narrow))

    def cross_gram(self) -> Float[Tensor, "rest last"]:
        """W_{l<}^T W_{l,l-1}, or W_{l,l-1}^T W_{l,l-1} if there is one source. In float64."""
        wide, last = self.wide.detach().double().cpu(), self.fan_ins[-1]
        rest = wide if len(self.fan_ins) == 1 else wide[:, :-last]
        return rest.T @ wide[:, -last:]

    def distill(self, kappa: float) -> int:
        """Sets K_l by `initial_distill` and restricts R_l to the rank k that was found.

        Returns:
            k, at most the number of rows of K_l. R_l keeps k columns, scaled to N(0, 1/k^2).
        """
        rest, last = initial_distill(self.cross_gram(), kappa)
        rank, most = min(len(last), len(self.narrow)), len(self.narrow)
        narrow = last if len(self.fan_ins) == 1 else torch.cat([rest, last], dim=1)
        with torch.no_grad():
            self.narrow.zero_()
            self.narrow[:rank].copy_(narrow[:rank])
            self.mixing[:, rank:].zero_()
            self.mixing.mul_(most / max(rank, 1))
        return rank

    def forward(self, below: Float[Tensor, "n q"]) -> tuple[Tensor, Tensor]:
        """Sum(F_l), shape (n,), and S_l, shape (n, k_l)."""
        wide = nn.functional.linear(below, self.wide)
        return wide.square().sum(dim=1), nn.functional.linear(below, self.narrow)


class DistilledNet(Learner):
    """The learner with distillation.

        S_0 = x,   S_1 = x^2 - E x^2
        S_l = sum_{j in J_l, j>=2} K_{l,j} s(R_j S_j) + sum_{j in J_l, j<=1} K_{l,j} S_j
        F_l = ( the same with W in place of K )^2                         l = 2, ..., L
        F(x) = sum_l alpha_l Sum(F_l)

    W_l is wide and easy to train. K_l is its narrow distillate, which higher layers read. R_l is
    fixed and random. s is `truncated_square` if the module is in training mode, and the square in
    evaluation mode. `features`, `evaluate` and `layer_outputs` always use the square.

    Source: Allen-Zhu and Li, arXiv 2001.04413, the learner network and the training objective, with
    these differences. They start at W = 0 and add noise in every step; here, W starts with noise.
    Their R_l has k (k + 1)/2 rows for the k that is found; here, it has those of the largest k.
    With few rows, the map from S to R S squared can be so ill-conditioned that W_{l+1} is not
    learned.

    Args:
        second_moment: E x^2, shape (d,).
        sources: J_2, ..., J_L, each increasing with l - 1 as its last entry.
        level_scales: alpha_2, ..., alpha_L.
        width: m, rows of every W_l.
        settings: all other settings.
        variance: Var(y), by which the training objective is divided.
        seed: seed of W and R.

    Attributes:
        active_depth: layers 2, ..., active_depth are part of F. Set by training schemes.
        distilled_depth: K_2, ..., K_{distilled_depth} are trained and tied to W by the regularizer.
            Set by training schemes.
        cut: see `Learner`. `features` blocks gradients through S_j to lower layers. `readout`
            blocks gradients through alpha_l Sum(F_l), l < active_depth.
        coefficients: lambda_3 to lambda_6 as rows, divided by Var(y).
        decay_factor: factor of all lambda_6. Set by training schemes.

    Raises:
        ValueError: if a number is out of range.
    """

    is_distilled: ClassVar[bool] = True
    second_moment: Tensor
    coefficients: Tensor
    decay_factor: Tensor

    def __init__(
        self,
        second_moment: Float[Tensor, " d"],
        sources: Sequence[Sequence[int]],
        *,
        level_scales: Sequence[float],
        width: int,
        settings: Distilled,
        variance: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        width = as_integer(width, "width", least=1)
        self.input_dim = len(second_moment)
        self.scales = tuple(level_scales)
        self.settings = settings
        self.seed = seed
        self.layers = nn.ModuleList()
        sizes = [self.input_dim, self.input_dim]
        for read, rows in zip(sources, settings.narrow_widths(len(sources) + 1), strict=True):
            fan_ins = [sizes[source] for source in read]
            self.layers.append(DistilledLayer(read, fan_ins, width=width, narrow_width=rows))
            sizes.append(num_products(rows))
        self.active_depth = self.distilled_depth = self.depth
        table = settings.coefficients(
            input_dim=self.input_dim, sources=sources, scales=level_scales
        )
        dtype = torch.get_default_dtype()
        self.register_buffer("second_moment", second_moment.to(dtype))
        self.register_buffer("coefficients", (table / variance).to(dtype))
        self.register_buffer("decay_factor", torch.ones((), dtype=dtype))
        for level, layer in self.each_layer():
            layer.initialize(settings.noise, generator(seed, "layer", level))

    @property
    def depth(self) -> int:
        """L. Layer 1 has no weights."""
        return len(self.layers) + 1

    @property
    def is_penalized(self) -> bool:
        """True."""
        return True

    def each_layer(self) -> list[tuple[int, DistilledLayer]]:
        """Layers 2, ..., L with their numbers."""
        layers = [layer for layer in self.layers if isinstance(layer, DistilledLayer)]
        return list(enumerate(layers, start=2))

    def neuron_weights(self) -> dict[int, Float[Tensor, "m fan_in"]]:
        """W_l by number of the layer."""
        return {level: layer.wide for level, layer in self.each_layer()}

    def train_layers(self, levels: Collection[int]) -> None:
        """Enables gradients for W_l, and K_l up to `distilled_depth`, of the given layers only."""
        for level, layer in self.each_layer():
            layer.wide.requires_grad_(level in levels)
            layer.narrow.requires_grad_(level in levels and level <= self.distilled_depth)

    def distill(self, level: int) -> None:
        """Starts K_l from W_l in layer `level`."""
        if not dict(self.each_layer())[level].distill(self.settings.kappa or 1.0):
            warnings.warn(
                f"K_{level} has no rows: no singular value of W_{level} reaches 1/(10 kappa^2). "
                "Train W longer, with more noise, or with another model.distillation.kappa.",
                stacklevel=1,
            )

    def add_noise(self, random: torch.Generator, std: float) -> None:
        """Adds Gaussian noise of standard deviation `std` to the active W_l."""
        with torch.no_grad():
            for _, layer in self.each_layer()[: self.active_depth - 1]:
                noise = torch.randn(layer.wide.shape, generator=random, dtype=torch.float64)
                layer.wide.add_(std * noise.to(layer.wide))

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _k"]]:
        """S_2, ..., S_{active_depth}, without truncation."""
        return self._activate(x, torch.square)[1]

    def layer_outputs(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, " n"]]:
        """alpha_l Sum(F_l), l = 2, ..., active_depth, without truncation."""
        return self._activate(x, torch.square)[0]

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """F(x), with the truncation in training mode only."""
        truncated = partial(truncated_square, bound=self.settings.truncation)
        outputs = self._activate(x, truncated if self.training else torch.square)[0]
        if self.cut == "readout":
            outputs = [*(each.detach() for each in outputs[:-1]), outputs[-1]]
        return torch.stack(outputs).sum(dim=0)

    @torch.no_grad()
    def evaluate(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """F(x) without truncation, in parts that fit in the cache."""
        parts = torch.split(x, _EVALUATED_ROWS)
        return torch.cat([torch.stack(self.layer_outputs(part)).sum(dim=0) for part in parts])

    def weight_penalty(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The regularizer of the layers that train.

            D_l = K_l^T K_l - W_l^T W_l
            sum_l  lambda_3 |D_l[last, <]|^2 + lambda_4 |D_l[last, last]|^2 + lambda_5 |D_l|^2
                 + lambda_6 (|K_l|^2 + |W_l|^2)

        The first three terms begin when K_l starts to train. The unit is Var(y).
        """
        cross, last, whole, decay = parameters["coefficients"].unbind()
        penalty = torch.zeros_like(parameters["decay_factor"])
        for number, (level, layer) in enumerate(self.each_layer()[: self.active_depth - 1]):
            wide, narrow = (parameters[f"layers.{number}.{name}"] for name in ("wide", "narrow"))
            norms = wide.square().sum() + narrow.square().sum()
            penalty = penalty + parameters["decay_factor"] * decay[number] * norms
            if level <= self.distilled_depth:
                rows = (narrow.mT @ narrow - wide.mT @ wide).square()
                start = sum(layer.fan_ins[:-1])
                penalty = penalty + cross[number] * rows[start:, :start].sum()
                penalty = penalty + last[number] * rows[start:, start:].sum()
                penalty = penalty + whole[number] * rows.sum()
        return penalty

    def penalty_grad(
        self, parameters: Mapping[str, Tensor], trained: Collection[str]
    ) -> dict[str, Tensor]:
        """See `Learner.penalty_grad`. Computed by `torch.func`."""

        def penalty(own: dict[str, Tensor]) -> Tensor:
            return self.weight_penalty({**parameters, **own})

        own = {name: parameters[name] for name in trained}
        gradients: dict[str, Tensor] = torch.func.grad(penalty)(own)
        return gradients

    def _activate(
        self, x: Tensor, square: Callable[[Tensor], Tensor]
    ) -> tuple[list[Float[Tensor, " n"]], list[Float[Tensor, "n _k"]]]:
        """alpha_l Sum(F_l), and S_l, of the active layers."""
        known, outputs, narrow = [x, x.square() - self.second_moment], [], []
        for level, layer in self.each_layer()[: self.active_depth - 1]:
            total, own = layer(torch.cat([known[source] for source in layer.sources], dim=1))
            outputs.append(self.scales[level - 2] * total)
            narrow.append(own)
            read = own.detach() if self.cut == "features" else own
            known.append(square(read @ layer.mixing.mT))
        return outputs, narrow


def num_products(width: int) -> int:
    """Returns k (k + 1)/2, the number of products of k features."""
    return width * (width + 1) // 2
