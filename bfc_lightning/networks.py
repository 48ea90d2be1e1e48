"""The learner: an over-parameterized DenseNet that reads out every layer."""

import copy
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.activations import Quadratic, in_place
from bfc_lightning.products import affine, affine_by_onednn, gains_by_onednn
from bfc_lightning.seeds import generator

Activation = Callable[..., Any]
Cut = Literal["none", "features", "readout"]

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

    def initialize(self, *, scale: float, positive_readout: bool, random: torch.Generator) -> None:
        """V_{l,0} ~ s N(0, 1/d), V_{l,j} ~ s N(0, 0.3^2/m_j), b = 0, v half +1 and half -1.

        An odd neuron gets +1.

        Args:
            scale: s.
            positive_readout: v all +1 instead.
            random: a CPU generator.
        """
        with torch.no_grad():
            for source, fan_in in enumerate(self.fan_ins):
                std = (1.0 if source == 0 else FEATURE_STD) / math.sqrt(fan_in)
                drawn = torch.randn(self.width, fan_in, generator=random, dtype=torch.float64)
                self.block(source).copy_(scale * std * drawn)
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

    The learner of Allen-Zhu and Li, arXiv 2001.04413, differs: its layers read their inputs
    through narrow distilled copies K of the wide weights W and fixed random maps R, three
    regularizers tie K to W, its inner activation is a bounded truncation of the square, the first
    layer is fixed, layer l does not read layer l-2, and readouts are +1. Here every layer reads all
    lower ones through trainable weights, and initialization and readouts are as stated below.

    Args:
        input_dim: d.
        widths: m_1, ..., m_L, one number for each layer. Depth 1 is the two-layer baseline.
        level_scales: alpha of the target, by which each layer's readout is scaled (a_l); beyond its
            end the last one again.
        activation: sigma; each layer gets a copy.
        positive_readout: v is initialized to +1 everywhere; otherwise half +1 and half -1.
        train_readout: v is trained; otherwise it keeps its initial value.
        linear_readout: <u, x> is part of f, initialized to u = 0; classification needs it.
        init_scale: s, by which the initial hidden weights V are multiplied.
        seed: of the initialization.

    Attributes:
        active_depth: only layers 1, ..., active_depth are part of f; all of them at first. It is no
            parameter, and training schemes set it.
        cut: which gradients are cut, for controls; set by training schemes, and only autograd
            carries it out. `features`: none passes through V_{l,j}, j >= 1, to lower layers.
            `readout`: none passes through v_l, l < active_depth, to the weights of layer l; v_l
            itself still has one.
        init_scale: s.
        is_linearized: whether f is a first-order expansion, whose features do not move.

    Raises:
        ValueError: if a size is below 1, there is no layer, the scale is not positive, or the
            activation changes the shape.
    """

    is_linearized = False

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
        init_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < init_scale < math.inf:
            raise ValueError(f"init_scale must be positive and finite, got {init_scale}.")
        if input_dim < 1:
            raise ValueError(f"input_dim must be at least 1, got {input_dim}.")
        if not widths or min(widths) < 1:
            raise ValueError(
                f"width must be at least 1 in each of at least one layer, got {list(widths)}."
            )
        self.input_dim = input_dim
        self.active_depth = len(widths)
        self.cut: Cut = "none"
        self.init_scale = init_scale
        self.positive_readout = positive_readout
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
                scale=init_scale,
                positive_readout=positive_readout,
                random=generator(seed, "layer", level),
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
            read = [own.detach() for own in features] if self.cut == "features" else features
            preactivations.append(layer.preactivation(torch.cat([x, *read], dim=1)))
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
        for own in self.layer_outputs(features):
            output = output + own
        return output

    def layer_outputs(self, features: list[Float[Tensor, "n _m"]]) -> list[Float[Tensor, " n"]]:
        """What each active layer adds to f: a_l m_l^(-1/2) v_l^T F_l(x)."""
        if self.cut == "readout":
            features = [*(own.detach() for own in features[:-1]), features[-1]]
        layers = zip(self.scales[: len(features)], self.active_layers(), features, strict=True)
        return [scale * (feature @ layer.readout) for scale, layer, feature in layers]

    def rescaled(self, init_scale: float) -> "DenseNet":
        """A copy of an untrained network, as if it had been initialized at another scale.

        Args:
            init_scale: s.

        Returns:
            A network with the same random draws.
        """
        copied = copy.deepcopy(self)
        with torch.no_grad():
            for layer in copied.dense_layers():
                layer.weight.mul_(init_scale / self.init_scale)
        copied.init_scale = init_scale
        return copied

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
