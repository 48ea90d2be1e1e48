"""Gradients of the learner by hand: one buffer of features, written in place, without a graph."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bfc_lightning.activations import InPlace, in_place
from bfc_lightning.networks import DenseNet


class FlatParameters:
    """The parameters of a DenseNet and their gradients, each in one row of memory.

    The row holds V_1, ..., V_L, then all biases, all readouts, c and, where there is one, u. The
    network's own parameters become views into it, so that everything else sees the same numbers;
    moving the network to another device or dtype ends that (`is_current`).

    Args:
        network: whose parameters are taken over.

    Attributes:
        gradients: the row of gradients, shape (P,); zero where nothing is trained.
        biases: b_1, ..., b_L side by side, shape (m_1 + ... + m_L,).
        readouts: v_1, ..., v_L side by side, likewise.
    """

    def __init__(self, network: DenseNet) -> None:
        layers = network.dense_layers()
        linear = [] if network.linear is None else [network.linear]
        self._parameters = [
            *(layer.weight for layer in layers),
            *(layer.bias for layer in layers),
            *(layer.readout for layer in layers),
            network.constant,
            *linear,
        ]
        sizes = [parameter.numel() for parameter in self._parameters]
        values = torch.cat([parameter.detach().reshape(-1) for parameter in self._parameters])
        self.gradients = torch.zeros_like(values)
        self._values = self._shaped(values, sizes)
        self._slots = self._shaped(self.gradients, sizes)
        for parameter, value in zip(self._parameters, self._values, strict=True):
            parameter.data = value
        in_all = sum(layer.width for layer in layers)
        start = sum(sizes[: len(layers)])
        self.biases = values[start : start + in_all]
        self.readouts = values[start + in_all : start + 2 * in_all]
        self.bias_gradients = self.gradients[start : start + in_all]
        self.readout_gradients = self.gradients[start + in_all : start + 2 * in_all]
        self.weight_gradients = self._slots[: len(layers)]
        self.constant_gradient = self._slots[3 * len(layers)]
        self.linear_gradient = self._slots[-1] if linear else None

    def _shaped(self, row: Tensor, sizes: list[int]) -> list[Tensor]:
        pieces = torch.split(row, sizes)
        return [
            piece.view(parameter.shape)
            for piece, parameter in zip(pieces, self._parameters, strict=True)
        ]

    def is_current(self) -> bool:
        """Whether the network still has its parameters here."""
        pairs = zip(self._parameters, self._values, strict=True)
        return all(parameter.data_ptr() == value.data_ptr() for parameter, value in pairs)

    def attach(self) -> None:
        """Makes the row the gradient of what is trained; the rest has none, and zeros here."""
        for parameter, slot in zip(self._parameters, self._slots, strict=True):
            if parameter.requires_grad:
                parameter.grad = slot
            else:
                parameter.grad = None
                slot.zero_()


@dataclass(frozen=True)
class _Layer:
    """Views of one layer, and what of it has to be computed."""

    activation: InPlace
    weight: Tensor  # V_l, shape (m_l, fan_in)
    bias: Tensor
    below: Tensor  # F_0, ..., F_{l-1} side by side, shape (n, fan_in)
    preactivation: Tensor
    feature: Tensor
    gradient: Tensor  # by F_l, then by Z_l, shape (n, m_l)
    # Gradients by the F_j, j < l, that lead to something trained, and what of V_l reads them.
    lower: tuple[Tensor, Tensor] | None
    # Gradients by V_l and b_l, where the layer is trained.
    trained: tuple[Tensor, Tensor] | None


class DenseGradients:
    """Output and gradients of a DenseNet on batches of one size.

    Forward as in `DenseNet`. With g_i the derivative of the loss by f(x_i), s_l = a_l m_l^(-1/2):

        dF_l = s_l g v_l^T + sum_{l'>l} dZ_{l'} V_{l',l}
        dZ_l = dF_l * sigma'(Z_l)
        dV_l = dZ_l^T [F_0, ..., F_{l-1}],   db_l = sum_i dZ_l
        dv_l = s_l F_l^T g,   dc = sum_i g_i,   du = x^T g

    All features lie side by side in one buffer, so that a layer is one product forward and two
    backward; what no trained layer needs is left out. Nothing is allocated from step to step but
    a few vectors.

    Source: ours.

    Args:
        network: the learner, with its active and trained layers as they are now.
        parameters: of that network.
        num_samples: n, rows of a batch.

    Raises:
        ValueError: if an activation has no form in place.
    """

    def __init__(self, network: DenseNet, parameters: FlatParameters, num_samples: int) -> None:
        layers = network.active_layers()
        widths = [layer.width for layer in layers]
        ends = torch.tensor([0, *widths]).cumsum(0).tolist()
        self._linear, self._constant = network.linear, network.constant
        self._parameters = parameters
        like = parameters.gradients
        self._buffer = like.new_empty(num_samples, network.input_dim + ends[-1])
        self._inputs = self._buffer[:, : network.input_dim]
        self._features = self._buffer[:, network.input_dim :]
        self._slopes = like.new_empty(num_samples, ends[-1])
        self._scales = torch.cat([
            like.new_full((width,), scale)
            for width, scale in zip(widths, network.scales, strict=False)
        ])
        self._readouts = parameters.readouts[: ends[-1]]
        trained = [layer.weight.requires_grad for layer in layers]
        first = trained.index(True) if any(trained) else len(layers)
        self._read_segments = [
            slice(ends[level], ends[level + 1])
            for level, layer in enumerate(layers)
            if layer.readout.requires_grad
        ]
        self._layers: list[_Layer] = []
        for level, layer in enumerate(layers):
            activation = in_place(layer.activation)
            if activation is None:
                raise ValueError(f"activation must have a form in place, got {layer.activation}.")
            start, stop = ends[level], ends[level + 1]
            fan_in = network.input_dim + start
            weight, lower, slots = layer.weight.data, None, None
            if first < level:
                lower_weight = weight[:, network.input_dim + ends[first] : fan_in]
                lower = (self._slopes[:, ends[first] : start], lower_weight)
            if trained[level]:
                slots = parameters.weight_gradients[level], parameters.bias_gradients[start:stop]
            self._layers.append(
                _Layer(
                    activation=activation,
                    weight=weight,
                    bias=layer.bias.data,
                    below=self._buffer[:, :fan_in],
                    preactivation=like.new_empty(num_samples, layer.width),
                    feature=self._features[:, start:stop],
                    gradient=self._slopes[:, start:stop],
                    lower=lower,
                    trained=slots,
                )
            )
        self._backward = self._layers[first:][::-1]

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f(x); features stay in the buffer for `backward`."""
        self._inputs.copy_(x)
        for layer in self._layers:
            torch.addmm(layer.bias, layer.below, layer.weight.T, out=layer.preactivation)
            layer.activation.evaluate(layer.preactivation, out=layer.feature)
        self._scaled_readouts = self._readouts * self._scales
        output = torch.addmv(self._constant, self._features, self._scaled_readouts)
        return output if self._linear is None else output.addmv_(self._inputs, self._linear)

    def backward(self, slope: Float[Tensor, " n"]) -> None:
        """Writes all gradients, from the derivatives of the loss by the outputs of `forward`.

        Args:
            slope: g.
        """
        if self._backward:
            torch.outer(slope, self._scaled_readouts, out=self._slopes)
        for layer in self._backward:
            layer.activation.pull_back(layer.preactivation, layer.gradient)
            if layer.trained is not None:
                weight_gradient, bias_gradient = layer.trained
                torch.mm(layer.gradient.T, layer.below, out=weight_gradient)
                torch.sum(layer.gradient, dim=0, out=bias_gradient)
            if layer.lower is not None:
                lower_gradient, lower_weight = layer.lower
                lower_gradient.addmm_(layer.gradient, lower_weight)
        if self._read_segments:
            read = torch.mv(self._features.T, slope).mul_(self._scales)
            for segment in self._read_segments:
                self._parameters.readout_gradients[segment].copy_(read[segment])
        torch.sum(slope, dim=0, out=self._parameters.constant_gradient)
        if self._linear is not None:
            torch.mv(self._inputs.T, slope, out=self._parameters.linear_gradient)
