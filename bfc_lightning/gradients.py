"""Gradients of DenseNets without autograd, computed in place in one buffer of features."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.activations import InPlace, in_place
from bfc_lightning.networks import DenseLayer, DenseNet
from bfc_lightning.products import (
    add_input_gradient,
    add_input_gradient_by_onednn,
    affine,
    affine_by_onednn,
    gains_by_onednn,
    transpose,
    weight_gradient,
    weight_gradient_by_onednn,
)


class Stacked(NamedTuple):
    """All parameters of one network, or of several networks with a leading axis.

    Attributes:
        weights: V_1, ..., V_L, each (..., m_l, fan_in).
        biases: b_1, ..., b_L concatenated, (..., m_1 + ... + m_L).
        readouts: v_1, ..., v_L concatenated, (..., m_1 + ... + m_L).
        constant: c, (...).
        linear: u, (..., d), or None.
    """

    weights: list[Tensor]
    biases: Tensor
    readouts: Tensor
    constant: Tensor
    linear: Tensor | None


class FlatParameters:
    """The parameters of DenseNets and their gradients, each stored as one row per network.

    A row holds V_1, ..., V_L, then all biases, all readouts, c and, if there is one, u. The
    parameters of the networks become views of the rows. Moving a network to another device or dtype
    breaks the views, see `is_current`. Tensors of R > 1 networks have a leading axis of size R.
    Tensors of a single network do not.

    Args:
        networks: the networks, all of the same shape.

    Attributes:
        networks: the networks.
        values: the parameters, shape (R, P).
        gradients: the gradients, shape (R, P). Entries of frozen parameters are 0.

    Raises:
        ValueError: if the networks differ in shape.
    """

    def __init__(self, networks: Sequence[DenseNet]) -> None:
        self.networks = list(networks)
        shapes = {tuple(p.shape for p in _in_order(network)) for network in networks}
        if len(shapes) != 1:
            raise ValueError(f"networks must have the same shape, got {len(shapes)} shapes.")
        self._shapes = list(shapes.pop())
        self._sizes = [shape.numel() for shape in self._shapes]
        rows = [
            torch.cat([parameter.detach().reshape(-1) for parameter in _in_order(network)])
            for network in networks
        ]
        self.values = torch.stack(rows)
        self.gradients = torch.zeros_like(self.values)
        for network, row in zip(networks, self.values, strict=True):
            for parameter, value in self.pairs(network, row):
                parameter.data = value

    def pairs(
        self, network: DenseNet, row: Float[Tensor, " p"]
    ) -> list[tuple[nn.Parameter, Tensor]]:
        """Each parameter of a network with its part of a row, in the shape of the parameter."""
        return list(zip(_in_order(network), self._shaped(row), strict=True))

    def is_current(self) -> bool:
        """Whether the parameters of the networks are still views of the rows."""
        return all(
            parameter.data_ptr() == value.data_ptr()
            for network, row in zip(self.networks, self.values, strict=True)
            for parameter, value in self.pairs(network, row)
        )

    def attach(self) -> None:
        """Sets `grad` of trainable parameters to views of the rows and zeros the other entries."""
        for network, row in zip(self.networks, self.gradients, strict=True):
            for parameter, slot in self.pairs(network, row):
                if parameter.requires_grad:
                    parameter.grad = slot
                else:
                    parameter.grad = None
                    slot.zero_()

    def trained_columns(self) -> list[slice]:
        """The trainable parts of a row, as the smallest number of slices."""
        ends = accumulate(self._sizes, initial=0)
        return _joined([
            slice(start, stop)
            for parameter, (start, stop) in zip(
                _in_order(self.networks[0]), pairwise(ends), strict=True
            )
            if parameter.requires_grad
        ])

    def stacked(self, rows: Float[Tensor, "r p"]) -> "Stacked":
        """The parameters, or another tensor with one row per network, by type of parameter.

        Args:
            rows: `values`, `gradients` or another tensor of that shape.

        Returns:
            Views, with a leading axis if there are several networks.
        """
        if len(rows) == 1:
            pieces = self._shaped(rows[0])
        else:
            pieces = [
                piece.view(len(rows), *shape)
                for piece, shape in zip(
                    torch.split(rows, self._sizes, dim=1), self._shapes, strict=True
                )
            ]
        depth = self.networks[0].depth
        start, width = sum(self._sizes[:depth]), sum(self._sizes[depth : 2 * depth])
        flat = rows[0] if len(rows) == 1 else rows
        return Stacked(
            weights=pieces[:depth],
            biases=flat[..., start : start + width],
            readouts=flat[..., start + width : start + 2 * width],
            constant=pieces[3 * depth],
            linear=pieces[-1] if len(pieces) > 3 * depth + 1 else None,
        )

    def _shaped(self, row: Tensor) -> list[Tensor]:
        pieces = torch.split(row, self._sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self._shapes, strict=True)]


def _in_order(network: DenseNet) -> list[nn.Parameter]:
    layers = network.dense_layers()
    return [
        *(layer.weight for layer in layers),
        *(layer.bias for layer in layers),
        *(layer.readout for layer in layers),
        network.constant,
        *([] if network.linear is None else [network.linear]),
    ]


@dataclass(frozen=True)
class _Layer:
    """Views of one layer, and the operations it needs."""

    activation: InPlace
    weight: Tensor  # V_l, shape (..., m_l, fan_in)
    bias: Tensor
    below: Tensor  # F_0, ..., F_{l-1} concatenated, shape (..., n, fan_in)
    preactivation: Tensor
    feature: Tensor
    gradient: Tensor  # dF_l, then dZ_l, shape (..., n, m_l)
    affine: Callable[..., None]
    # Buffers for gradient^T and below^T, if dV_l is computed from the transposes.
    turned: tuple[Tensor, Tensor] | None
    # dF_j of the layers j < l that need it, the matching columns of V_l, and the product.
    lower: tuple[Tensor, Tensor, Callable[..., None]] | None
    weight_slot: Tensor | None  # for dV_l, if the layer is trainable


class DenseGradients:
    """Outputs and gradients of DenseNets on batches of one size.

    The forward pass is that of `DenseNet`. With g_i the derivative of the loss by f(x_i) and s_l =
    a_l m_l^(-1/2):

        dF_l = s_l g v_l^T + sum_{l'>l} dZ_{l'} V_{l',l}
        dZ_l = dF_l * sigma'(Z_l)
        dV_l = dZ_l^T [F_0, ..., F_{l-1}],   db_l = sum_i dZ_l
        dv_l = s_l F_l^T g,   dc = sum_i g_i,   du = x^T g

    All features are stored in one buffer, so that a layer requires one matrix product in the
    forward pass and two in the backward pass. Products that no trainable layer needs are skipped.
    Only a few vectors are allocated per step, and the copies that `products` makes for large
    products on some processors. Several networks are computed at once, each on its own samples.

    Args:
        parameters: parameters of the networks. The active and trainable layers are fixed when the
            object is created.
        num_samples: n, the batch size.

    Raises:
        ValueError: if an activation has no in-place implementation.
    """

    def __init__(self, parameters: FlatParameters, num_samples: int) -> None:
        network, count = parameters.networks[0], len(parameters.networks)
        layers = network.active_layers()
        lead = (num_samples,) if count == 1 else (count, num_samples)
        self._ends = list(accumulate((layer.width for layer in layers), initial=0))
        self._values = parameters.stacked(parameters.values)
        self._slots = parameters.stacked(parameters.gradients)
        self._readouts = self._values.readouts[..., : self._ends[-1]]
        self._scales = _readout_scales(parameters)
        self._buffer = self._readouts.new_empty(*lead, network.input_dim + self._ends[-1])
        self._inputs = self._buffer[..., : network.input_dim]
        self._features = self._buffer[..., network.input_dim :]
        self._slopes = torch.empty_like(self._features)
        self._read_columns = _joined([
            self._columns(level)
            for level, layer in enumerate(layers)
            if layer.readout.requires_grad
        ])
        trained = [level for level, layer in enumerate(layers) if layer.weight.requires_grad]
        self._bias_columns = _joined([self._columns(level) for level in trained])
        first = min(trained, default=len(layers))
        self._is_large = [gains_by_onednn(own, num_samples) for own in self._values.weights]
        large = [layers[level].weight.shape for level in trained if self._is_large[level]]
        width, fan_in = (max((shape[axis] for shape in large), default=0) for axis in (0, 1))
        self._slopes_turned = self._buffer.new_empty(width, num_samples)
        self._buffer_turned = self._buffer.new_empty(fan_in, num_samples)
        self._layers = [
            self._views(level, layer, first=first, is_trained=level in trained)
            for level, layer in enumerate(layers)
        ]
        self._backward = self._layers[first:][::-1]

    def _columns(self, level: int) -> slice:
        """The columns of the neurons of a layer."""
        return slice(self._ends[level], self._ends[level + 1])

    def _views(self, level: int, layer: DenseLayer, *, first: int, is_trained: bool) -> _Layer:
        """The views of one layer. `first` is the lowest trainable layer.

        Raises:
            ValueError: if the activation has no in-place implementation.
        """
        activation = in_place(layer.activation)
        if activation is None:
            raise ValueError(
                f"activation must have an in-place implementation, got {layer.activation}."
            )
        own = self._columns(level)
        num_samples, input_dim = self._inputs.shape[-2:]
        weight, lower = self._values.weights[level], None
        if first < level:
            below = slice(self._ends[first], own.start)
            read = weight[..., input_dim + below.start : input_dim + below.stop]
            is_large = gains_by_onednn(read, num_samples)
            add = add_input_gradient_by_onednn if is_large else add_input_gradient
            lower = (self._slopes[..., below], read, add)
        turned = self._slopes_turned[: layer.width], self._buffer_turned[: weight.shape[-1]]
        return _Layer(
            activation=activation,
            weight=weight,
            bias=self._values.biases[..., own],
            below=self._buffer[..., : input_dim + own.start],
            preactivation=self._buffer.new_empty(*self._buffer.shape[:-1], layer.width),
            feature=self._features[..., own],
            gradient=self._slopes[..., own],
            affine=affine_by_onednn if self._is_large[level] else affine,
            turned=turned if is_trained and self._is_large[level] else None,
            lower=lower,
            weight_slot=self._slots.weights[level] if is_trained else None,
        )

    def forward(self, x: Float[Tensor, "*r n d"]) -> Float[Tensor, "*r n"]:
        """f(x). The features remain in the buffer for `backward`."""
        self._inputs.copy_(x)
        for layer in self._layers:
            layer.affine(layer.bias, layer.below, layer.weight, out=layer.preactivation)
            layer.activation.evaluate(layer.preactivation, out=layer.feature)
        self._scaled_readouts = self._readouts * self._scales
        output = _times_vector(self._features, self._scaled_readouts)
        if self._values.linear is not None:
            output += _times_vector(self._inputs, self._values.linear)
        return output.add_(self._values.constant.unsqueeze(-1))

    def backward(self, slope: Float[Tensor, "*r n"]) -> None:
        """Computes all gradients, given the gradient of the loss with respect to the output.

        Args:
            slope: g.
        """
        if self._backward:
            by_row, by_column = slope.unsqueeze(-1), self._scaled_readouts.unsqueeze(-2)
            torch.mul(by_row, by_column, out=self._slopes)
        fan_in = len(self._buffer_turned)
        if fan_in:
            transpose(self._buffer[:, :fan_in], out=self._buffer_turned)
        for layer in self._backward:
            layer.activation.pull_back(layer.preactivation, layer.gradient)
            if layer.weight_slot is not None:
                _write_weight_gradient(layer, layer.weight_slot)
            if layer.lower is not None:
                total, read, add = layer.lower
                add(total, layer.gradient, read)
        for columns in self._bias_columns:
            bias_slot = self._slots.biases[..., columns]
            torch.sum(self._slopes[..., columns], dim=-2, out=bias_slot)
        if self._read_columns:
            read = _times_vector(self._features.mT, slope).mul_(self._scales)
            for columns in self._read_columns:
                self._slots.readouts[..., columns].copy_(read[..., columns])
        torch.sum(slope, dim=-1, out=self._slots.constant)
        if self._slots.linear is not None:
            self._slots.linear.copy_(_times_vector(self._inputs.mT, slope))


def _write_weight_gradient(layer: _Layer, slot: Tensor) -> None:
    if layer.turned is None:
        weight_gradient(layer.gradient, layer.below, out=slot)
        return
    slopes, below = layer.turned
    transpose(layer.gradient, out=slopes)
    weight_gradient_by_onednn(slopes, below, out=slot)


def _joined(columns: list[slice]) -> list[slice]:
    """The same columns, as the smallest number of slices."""
    parts: list[slice] = []
    for own in columns:
        if parts and parts[-1].stop == own.start:
            parts[-1] = slice(parts[-1].start, own.stop)
        else:
            parts.append(own)
    return parts


def _readout_scales(parameters: FlatParameters) -> Tensor:
    """a_l m_l^(-1/2) for each neuron, shape (..., m_1 + ...) over the active layers."""
    like = parameters.values
    rows = [
        torch.cat([
            like.new_full((layer.width,), scale)
            for layer, scale in zip(network.active_layers(), network.scales, strict=False)
        ])
        for network in parameters.networks
    ]
    return rows[0] if len(rows) == 1 else torch.stack(rows)


def _times_vector(a: Tensor, v: Tensor) -> Tensor:
    """A v."""
    return torch.mv(a, v) if a.dim() == 2 else torch.bmm(a, v.unsqueeze(-1)).squeeze(-1)
