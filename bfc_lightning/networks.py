"""The learner: an over-parameterized DenseNet whose output reads every layer."""

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.activations import Quadratic, activation_vjp
from bfc_lightning.gradients import (
    VJP,
    Cut,
    EvaluatedLayer,
    vjp_by_autodiff,
    weight_gradients,
)
from bfc_lightning.learners import Learner
from bfc_lightning.matmul import Product, matmul
from bfc_lightning.seeds import generator
from bfc_lightning.types import as_integer

Activation = Callable[..., Any]

_EVALUATED_ROWS = 2048
FEATURE_STD = 0.3


def expand_scales(level_scales: Sequence[float], depth: int) -> list[float]:
    """Returns a_1..a_depth: the target's alpha_l, with the last one repeated beyond its depth.

    A level without weight in the target gets the first positive scale, so that the output of the
    learner reads every layer.

    Args:
        level_scales: alpha_1, ..., alpha_L, at least one of them positive.
        depth: number of layers of the learner.
    """
    first = next(scale for scale in level_scales if scale)
    scales = [scale or first for scale in level_scales]
    return [scales[min(level, len(scales) - 1)] for level in range(depth)]


class DenseLayer(nn.Module):
    """One layer of the learner: Z = V [F_0, ..., F_{l-1}] + b, F = sigma(Z).

    Args:
        fan_ins: m_0 = d, m_1, ..., m_{l-1}, the widths of the lower layers.
        width: m_l.
        activation: sigma.

    Attributes:
        weight: all V_{l,j}, concatenated to shape (m_l, m_0 + ... + m_{l-1}).
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
        """Returns V_{l,j}, a view of `weight`."""
        return torch.split(self.weight, list(self.fan_ins), dim=1)[source]

    def preactivation(self, below: Float[Tensor, "n fan_in"]) -> Float[Tensor, "n m_l"]:
        """Returns Z_l, given the concatenation of F_0, ..., F_{l-1}."""
        if torch.is_grad_enabled():
            return nn.functional.linear(below, self.weight, self.bias)
        return matmul(below, self.weight.mT, self.bias)

    def initialize(self, *, scale: float, positive_readout: bool, random: torch.Generator) -> None:
        """Draws V_{l,0} ~ s N(0, 1/d) and V_{l,j} ~ s N(0, 0.3^2/m_j). b is 0, and v is 1.

        Args:
            scale: s.
            positive_readout: whether all of v stays 1. Otherwise, the last floor(m_l / 2) entries
                are set to -1.
            random: a CPU generator.
        """
        with torch.no_grad():
            for source, fan_in in enumerate(self.fan_ins):
                std = (1.0 if source == 0 else FEATURE_STD) / math.sqrt(fan_in)
                drawn = torch.randn(self.width, fan_in, generator=random, dtype=torch.float64)
                self.block(source).copy_(scale * std * drawn)
            if not positive_readout:
                self.readout[(self.width + 1) // 2 :] = -1.0


def _check_activation(sigma: Activation, width: int) -> None:
    """Applies a copy of the activation to a tensor of this width.

    Raises:
        ValueError: if it fails or does not keep the shape.
    """
    try:
        shape = tuple(copy.deepcopy(sigma)(torch.zeros(2, width)).shape)
    except (TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"activation must map tensors to tensors, got {error}.") from error
    if shape != (2, width):
        raise ValueError(f"activation must keep the shape (2, {width}), got {shape}.")


class DenseNet(Learner):
    """The learner.

        F_0 = x
        Z_l = sum_{j<l} V_{l,j} F_j + b_l
        F_l = sigma(Z_l)                                        in R^{m_l}
        f(x) = c + <u, x> + sum_l a_l m_l^(-1/2) v_l^T F_l(x)

    The learner of Allen-Zhu and Li, arXiv 2001.04413, differs. Its layers read their inputs through
    narrow distilled copies K of the wide weights W and fixed random maps R, and three regularizers
    tie K to W. Its inner activation is a bounded truncation of the square. Its first layer is
    fixed, layer l does not read layer l-2, and readouts are +1.

    Args:
        input_dim: d.
        widths: m_1, ..., m_L, one number per layer. Depth 1 is the two-layer baseline.
        level_scales: the target's alpha, from which `expand_scales` computes a_1, a_2, ...
        activation: sigma, the square by default. Each layer gets a copy.
        positive_readout: whether v is initialized to +1. Otherwise, half is +1 and half is -1.
        train_readout: whether v is trained.
        linear_readout: whether <u, x> is part of f, initialized to 0. Classification requires it.
        init_scale: s, the factor of the initial hidden weights V.
        regularization: lambda_l of `weight_penalty`, one per layer. 0 by default.
        seed: seed of the initialization.

    Attributes:
        active_depth: only layers 1, ..., active_depth are part of f. Initially L. Set by training
            schemes.
        cut: see `Learner`. `features` blocks gradients through V_{l,j}, j >= 1, to lower layers.
            `readout` blocks gradients through v_l, l < active_depth, to the weights of layer l, but
            not to v_l.
        pull: coefficient of the penalty of `pull_towards`. Initially 0. Set by training schemes.
        init_scale: s.

    Raises:
        ValueError: if a size is below 1, there is no layer, the scale is not positive, or the
            activation changes the shape.
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
        init_scale: float = 1.0,
        regularization: Sequence[float] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < init_scale < math.inf:
            raise ValueError(f"init_scale must be positive and finite, got {init_scale}.")
        widths = [as_integer(width, "width") for width in widths]
        if not widths or min(widths) < 1:
            raise ValueError(
                f"width must be at least 1 in each of one or more layers, got {widths}."
            )
        self.input_dim = as_integer(input_dim, "input_dim", least=1)
        self.active_depth = len(widths)
        self.cut: Cut = "none"
        self.regularization = tuple(regularization)
        self.pull = 0.0
        self.init_scale = init_scale
        self.positive_readout = positive_readout
        self.train_readout = train_readout
        self.scales = tuple(
            scale / math.sqrt(width)
            for scale, width in zip(expand_scales(level_scales, len(widths)), widths, strict=True)
        )
        sizes = [self.input_dim, *widths]
        sigma = Quadratic() if activation is None else activation
        for width in sorted(set(widths)):
            _check_activation(sigma, width)
        own = list(sigma.parameters()) if isinstance(sigma, nn.Module) else []
        self.has_trained_activation = bool(own)
        self.layers = nn.ModuleList(
            DenseLayer(sizes[:level], sizes[level], copy.deepcopy(sigma))
            for level in range(1, len(sizes))
        )
        self._names = [_names(level) for level in range(self.depth)]
        self.constant = nn.Parameter(torch.zeros(()))
        self.linear = nn.Parameter(torch.zeros(self.input_dim)) if linear_readout else None
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
        """Returns the layers with their type."""
        return cast(list[DenseLayer], list(self.layers))

    def active_layers(self) -> list[DenseLayer]:
        """Returns the layers that are part of f."""
        return self.dense_layers()[: self.active_depth]

    def neuron_weights(self) -> dict[int, Float[Tensor, "m fan_in"]]:
        """Returns all V_{l,j} of each layer, by its number."""
        return {level: layer.weight for level, layer in enumerate(self.dense_layers(), start=1)}

    def train_layers(self, levels: Collection[int]) -> None:
        """Enables gradients for the layers with the given numbers and disables all others.

        c and u are always trained. A readout is trained only if `train_readout` is true.
        """
        for level, layer in enumerate(self.dense_layers(), start=1):
            layer.requires_grad_(level in levels)
            layer.readout.requires_grad_(level in levels and self.train_readout)

    def pull_towards(self, weights: Sequence[Float[Tensor, "_m _fan_in"]], pull: float) -> None:
        """Adds pull * sum_l |V_l - V'_l|^2 to the training loss.

        V'_l becomes a buffer `anchor` of layer l, which is not part of `state_dict`.

        Args:
            weights: V'_1, V'_2, ... of the lowest layers.
            pull: the coefficient.
        """
        self.pull = pull
        for layer, weight in zip(self.dense_layers(), weights, strict=False):
            layer.register_buffer("anchor", weight.to(layer.weight), persistent=False)

    def activate(
        self, x: Float[Tensor, "n d"]
    ) -> tuple[list[Float[Tensor, "n _m"]], list[Float[Tensor, "n _m"]]]:
        """Returns Z_l and F_l of the active layers, shapes (n, m_l)."""
        preactivations: list[Tensor] = []
        features: list[Tensor] = []
        for layer in self.active_layers():
            read = [each.detach() for each in features] if self.cut == "features" else features
            preactivations.append(layer.preactivation(torch.cat([x, *read], dim=1)))
            features.append(layer.activation(preactivations[-1]))
        return preactivations, features

    def preactivations(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _m"]]:
        """Returns Z_l of the active layers, shapes (n, m_l)."""
        return self.activate(x)[0]

    def features(self, x: Float[Tensor, "n d"]) -> list[Float[Tensor, "n _m"]]:
        """Returns F_l of the active layers, shapes (n, m_l)."""
        return self.activate(x)[1]

    def read_out(
        self, x: Float[Tensor, "n d"], features: list[Float[Tensor, "n _m"]]
    ) -> Float[Tensor, " n"]:
        """Returns f = c + <u, x> + sum_l a_l m_l^(-1/2) v_l^T F_l, given the features."""
        output = self.constant.expand(x.shape[0])
        if self.linear is not None:
            output = output + x @ self.linear
        for contribution in self.layer_outputs(features):
            output = output + contribution
        return output

    def layer_outputs(self, features: list[Float[Tensor, "n _m"]]) -> list[Float[Tensor, " n"]]:
        """Returns the contribution of each active layer to f, a_l m_l^(-1/2) v_l^T F_l(x)."""
        if self.cut == "readout":
            features = [*(each.detach() for each in features[:-1]), features[-1]]
        layers = zip(self.scales[: len(features)], self.active_layers(), features, strict=True)
        return [scale * (feature @ layer.readout) for scale, layer, feature in layers]

    def rescaled(self, init_scale: float) -> "DenseNet":
        """Returns a copy of an untrained network with the same draws and another scale s."""
        copied = copy.deepcopy(self)
        with torch.no_grad():
            for layer in copied.dense_layers():
                layer.weight.mul_(init_scale / self.init_scale)
        copied.init_scale = init_scale
        return copied

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Returns f(x)."""
        return self.read_out(x, self.features(x))

    @torch.no_grad()
    def evaluate(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Returns f(x), up to rounding, without autograd and in parts that fit in the cache."""
        parameters = dict(self.named_parameters())
        parts = torch.split(x, _EVALUATED_ROWS)
        return torch.cat([self.output_and_vjp(parameters, part)[0] for part in parts])

    @property
    def uses_autodiff(self) -> bool:
        """Whether the activation has parameters that are trained."""
        return self.has_trained_activation

    @property
    def is_penalized(self) -> bool:
        """Whether a coefficient is not 0."""
        return any((self.pull, *self.regularization))

    def penalized(self, parameters: Mapping[str, Tensor]) -> list[tuple[str, float, Tensor]]:
        """lambda_l and V_l of the active layers, and with `pull_towards` pull and V_l - V'_l.

        Source: the lambda_6 term of the regularizer of Allen-Zhu and Li, arXiv 2001.04413. The
        terms with lambda_3 to lambda_5 are those of `DistilledNet`.
        """
        names = [_names(level)[0] for level in range(self.active_depth)]
        pairs = zip(names, self.regularization, strict=False)
        parts = [(name, factor, parameters[name]) for name, factor in pairs if factor]
        for name in names if self.pull else []:
            anchor = parameters.get(name.replace("weight", "anchor"))
            if anchor is not None:
                parts.append((name, self.pull, parameters[name] - anchor))
        return parts

    def output_and_vjp(
        self,
        parameters: Mapping[str, Tensor],
        x: Float[Tensor, "n d"],
        trained: Collection[str] = (),
        *,
        product: Product = matmul,
    ) -> tuple[Float[Tensor, " n"], VJP]:
        """f(x) and its vector-Jacobian product, as pure functions of the parameters.

        With g_i the gradient with respect to f(x_i) and s_l = a_l m_l^(-1/2):

            dF_l = s_l g v_l^T + sum_{l'>l} dZ_{l'} V_{l',l},   dZ_l = dF_l sigma'(Z_l)
            dV_l = dZ_l^T [F_0, ..., F_{l-1}],   db_l = sum_i dZ_l,   dv_l = s_l F_l^T g
            dc = sum_i g_i,   du = x^T g

        Products that no trained parameter needs are skipped. See `Learner.output_and_vjp`.
        """
        if self.has_trained_activation:
            return vjp_by_autodiff(self, parameters, x, trained)
        known, layers = [x], []
        output = parameters["constant"].expand(x.shape[0])
        if self.linear is not None:
            output = torch.addmv(output, x, parameters["linear"])
        for level, layer in enumerate(self.active_layers()):
            names = self._names[level]
            weight, bias, readout = (parameters[name] for name in names)
            below = torch.cat(known, dim=1) if level else x
            z = product(below, weight.mT, bias)
            feature, vjp = activation_vjp(layer.activation, z)
            readout = self.scales[level] * readout
            output = torch.addmv(output, feature, readout)
            known.append(feature)
            layers.append(EvaluatedLayer(names, below, feature, readout, vjp))

        def gradients(grad: Tensor) -> dict[str, Tensor]:
            found = weight_gradients(layers, parameters, grad, trained, product, self.cut)
            for scale, layer in zip(self.scales, layers, strict=False):
                if layer.names[2] in trained:
                    found[layer.names[2]] = torch.mv(layer.feature.mT, grad).mul_(scale)
            if "linear" in trained:
                found["linear"] = torch.mv(x.mT, grad)
            found["constant"] = grad.sum()
            return found

        return output, gradients


def _names(level: int) -> tuple[str, str, str]:
    """Names of V, b and v of a layer, counted from 0."""
    return f"layers.{level}.weight", f"layers.{level}.bias", f"layers.{level}.readout"
