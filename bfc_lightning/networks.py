"""The learner: an over-parameterised DenseNet that reads out every layer."""

import copy
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.activations import Quadratic, in_place
from bfc_lightning.products import affine, affine_by_onednn, gains_by_onednn
from bfc_lightning.seeds import generator

Activation = Callable[..., Any]

_EVALUATED_ROWS = 2048
FEATURE_STD = 0.3


def expand_scales(level_scales: Sequence[float], depth: int) -> list[float]:
    """a_1..a_depth: the target's alpha_l, the last one again beyond its depth.

    Source: ours.

    Args:
        level_scales: alpha_1, ..., alpha_L, at least one.
        depth: how many to return.

    Returns:
        One scale a layer.
    """
    return [level_scales[min(level, len(level_scales) - 1)] for level in range(depth)]


class DenseLayer(nn.Module):
    """One layer of the learner: Z = V [F_0, ..., F_{l-1}] + b, F = sigma(Z).

    Args:
        fan_ins: m_0 = d, m_1, ..., m_{l-1}: the widths of the layers that it reads.
        width: m_l.
        activation: sigma.

    Attributes:
        weight: all V_{l,j} side by side, shape (m_l, m_0 + ... + m_{l-1}).
        bias: b_l, shape (m_l,).
        readout: v_l, shape (m_l,).
    """

    def __init__(self, fan_ins: Sequence[int], width: int, activation: Activation) -> None:
        super().__init__()
        self.fan_ins = tuple(fan_ins)
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(width, sum(fan_ins)))
        self.bias = nn.Parameter(torch.zeros(width))
        self.readout = nn.Parameter(torch.ones(width))

    @property
    def width(self) -> int:
        """m_l."""
        return self.bias.numel()

    def block(self, source: int) -> Float[Tensor, "m_l m_source"]:
        """V_{l,j}, a view into `weight`."""
        return torch.split(self.weight, list(self.fan_ins), dim=1)[source]

    def preactivation(self, below: Float[Tensor, "n fan_in"]) -> Float[Tensor, "n m_l"]:
        """Z_l from F_0, ..., F_{l-1} side by side."""
        return nn.functional.linear(below, self.weight, self.bias)

    def initialize(self, *, positive_readout: bool, random: torch.Generator) -> None:
        """V_{l,0} ~ N(0, 1/d), V_{l,j} ~ N(0, 0.3^2/m_j), b = 0, v half +1 and half -1.

        An odd neuron gets +1.

        Args:
            positive_readout: v all +1 instead.
            random: a CPU generator.
        """
        with torch.no_grad():
            for source, fan_in in enumerate(self.fan_ins):
                std = (1.0 if source == 0 else FEATURE_STD) / math.sqrt(fan_in)
                drawn = torch.randn(self.width, fan_in, generator=random, dtype=torch.float64)
                self.block(source).copy_(std * drawn)
            self.bias.zero_()
            self.readout.fill_(1.0)
            if not positive_readout:
                self.readout[(self.width + 1) // 2 :] = -1.0


def _check_activation(sigma: Activation) -> None:
    """Tries the activation on two samples of four neurons.

    Raises:
        ValueError: if it does not keep the shape.
    """
    try:
        shape = tuple(sigma(torch.zeros(2, 4)).shape)
    except (TypeError, RuntimeError, AttributeError) as refused:
        raise ValueError(f"activation must map tensors to tensors, got {refused}.") from refused
    if shape != (2, 4):
        raise ValueError(f"activation must keep the shape (2, 4), got {shape}.")


class DenseNet(nn.Module):
    """The learner.

        F_0 = x
        Z_l = sum_{j<l} V_{l,j} F_j + b_l
        F_l = sigma(Z_l)                                        in R^{m_l}
        f(x) = c + <u, x> + sum_l a_l m_l^(-1/2) v_l^T F_l(x)

    Source: Allen-Zhu and Li, arXiv 2001.04413, learner network; start and scales are ours.

    Args:
        input_dim: d.
        widths: m_1, ..., m_L; one number a layer. Depth 1 is the two-layer baseline.
        level_scales: alpha of the target, by which each layer's readout is scaled (a_l); beyond its
            end the last one again.
        activation: sigma; each layer gets a copy.
        positive_readout: v starts at +1 everywhere, for targets with positive signs.
        train_readout: v is trained from its start; otherwise it stays there.
        linear_readout: <u, x> is part of f, from u = 0; classification needs it.
        seed: of the start.

    Attributes:
        active_depth: only layers 1, ..., active_depth are part of f; all of them at first. It is no
            parameter, and training schemes set it.

    Raises:
        ValueError: if a size is below 1, there is no layer, or the activation changes the shape.
    """

    def __init__(
        self,
        input_dim: int,
        widths: Sequence[int],
        *,
        level_scales: Sequence[float] = (1.0,),
        activation: Activation | None = None,
        positive_readout: bool = False,
        train_readout: bool = True,
        linear_readout: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if input_dim < 1:
            raise ValueError(f"input_dim must be at least 1, got {input_dim}.")
        if not widths or min(widths) < 1:
            raise ValueError(
                f"width must be at least 1 in each of at least one layer, got {list(widths)}."
            )
        self.input_dim = input_dim
        self.active_depth = len(widths)
        self.train_readout = train_readout
        self.scales = tuple(
            scale / math.sqrt(width)
            for scale, width in zip(expand_scales(level_scales, len(widths)), widths, strict=True)
        )
        sizes = [input_dim, *widths]
        sigma = Quadratic() if activation is None else activation
        _check_activation(sigma)
        self.layers = nn.ModuleList(
            DenseLayer(sizes[:level], sizes[level], copy.deepcopy(sigma))
            for level in range(1, len(sizes))
        )
        self.constant = nn.Parameter(torch.zeros(()))
        self.linear = nn.Parameter(torch.zeros(input_dim)) if linear_readout else None
        for level, layer in enumerate(self.dense_layers(), start=1):
            layer.initialize(
                positive_readout=positive_readout, random=generator(seed, "layer", level)
            )
        self.train_layers(range(1, self.depth + 1))

    @property
    def depth(self) -> int:
        """L, the number of hidden layers."""
        return len(self.layers)

    def dense_layers(self) -> list[DenseLayer]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, DenseLayer)]

    def active_layers(self) -> list[DenseLayer]:
        """Those that are part of f."""
        return self.dense_layers()[: self.active_depth]

    def train_layers(self, levels: Collection[int]) -> None:
        """Lets gradients reach these layers, counted from 1, and no others; c and u always train.

        Args:
            levels: whose weights, biases and, where trainable, readouts are to be trained.
        """
        for level, layer in enumerate(self.dense_layers(), start=1):
            layer.requires_grad_(level in levels)
            layer.readout.requires_grad_(level in levels and self.train_readout)

    def activate(
        self, x: Float[Tensor, "n d"]
    ) -> tuple[list[Float[Tensor, "n _m"]], list[Float[Tensor, "n _m"]]]:
        """Z_l and F_l of the active layers, shapes (n, m_l)."""
        preactivations: list[Tensor] = []
        features: list[Tensor] = []
        for layer in self.active_layers():
            preactivations.append(layer.preactivation(torch.cat([x, *features], dim=1)))
            features.append(layer.activation(preactivations[-1]))
        return preactivations, features

    def preactivations(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _m"]]:
        """Z_l of the active layers, shapes (n, m_l)."""
        return self.activate(x)[0]

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _m"]]:
        """F_l of the active layers, shapes (n, m_l)."""
        return self.activate(x)[1]

    def read_out(
        self, x: Float[Tensor, "n d"], features: list[Float[Tensor, "n _m"]]
    ) -> Float[Tensor, " n"]:
        """The output f = c + <u, x> + sum_l a_l m_l^(-1/2) v_l^T F_l from features."""
        output = self.constant.expand(x.shape[0])
        if self.linear is not None:
            output = output + x @ self.linear
        scales = self.scales[: len(features)]
        for scale, layer, feature in zip(scales, self.active_layers(), features, strict=True):
            output = output + scale * (feature @ layer.readout)
        return output

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f(x)."""
        return self.read_out(x, self.features(x))

    @torch.no_grad()
    def evaluate(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f(x) to rounding, without a graph, in less time and memory than `forward`.

        All features of some rows lie side by side in one buffer, so that nothing is put together
        for the next layer.
        """
        layers = self.active_layers()
        readout = torch.cat([
            scale * layer.readout for scale, layer in zip(self.scales, layers, strict=False)
        ])
        size = min(len(x), _EVALUATED_ROWS)
        buffer = x.new_empty(size, self.input_dim + len(readout))
        spaces = [x.new_empty(size, layer.width) for layer in layers]
        output = x.new_empty(len(x))
        for rows, part in zip(torch.split(x, size), torch.split(output, size), strict=True):
            here, stop = buffer[: len(rows)], self.input_dim
            here[:, :stop] = rows
            for layer, space in zip(layers, spaces, strict=True):
                z = space[: len(rows)]
                is_large = gains_by_onednn(layer.weight, len(z))
                multiply = affine_by_onednn if is_large else affine
                multiply(layer.bias, here[:, :stop], layer.weight, out=z)
                features = here[:, stop : stop + layer.width]
                activation = in_place(layer.activation)
                if activation is None:
                    features.copy_(layer.activation(z))
                else:
                    activation.evaluate(z, out=features)
                stop += layer.width
            torch.addmv(self.constant, here[:, self.input_dim :], readout, out=part)
            if self.linear is not None:
                part += rows @ self.linear
        return output
