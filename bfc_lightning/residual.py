"""ReLU networks with vector outputs: the residual network of a published experiment, and a chain.

Source: Allen-Zhu and Li, arXiv 1905.10337, the learner network and the experiments.
"""

import math
from collections.abc import Collection, Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.learners import Learner
from bfc_lightning.seeds import generator


class ReLULayer(nn.Module):
    """One layer: relu((V^0 + V) (z, 1)), with V trained from 0 and V^0 ~ s N(0, 1).

    Args:
        fan_in: number of entries of z.
        width: m.
        scale: s.
        random: a CPU generator.

    Attributes:
        change: V, shape (m, fan_in + 1), so that weight decay acts on V alone.
        initial: V^0, of the same shape, fixed.
    """

    initial: Tensor

    def __init__(self, fan_in: int, width: int, scale: float, random: torch.Generator) -> None:
        super().__init__()
        drawn = torch.randn(width, fan_in + 1, generator=random, dtype=torch.float64)
        self.register_buffer("initial", scale * drawn.to(torch.get_default_dtype()))
        self.change = nn.Parameter(torch.zeros_like(self.initial))

    def forward(self, z: Float[Tensor, "n fan_in"]) -> Float[Tensor, "n m"]:
        """Returns the neurons."""
        weight = self.initial + self.change
        return nn.functional.linear(z, weight[:, :-1], weight[:, -1]).relu()


class ResidualNet(Learner):
    """A network in which every layer reads the output so far and adds to it.

        out_1 = A relu((V^0_1 + V_1) (x, 1))
        out_l = out_{l-1} + A relu((V^0_l + V_l) (out_{l-1}, 1))
        f(x) = out_L(x)                                         in R^k
        A ~ N(0, 1/m),   V^0_1 ~ s N(0, 1/d),   V^0_l ~ s N(0, 1/m)

    Only V is trained. Depth 2 is the three-layer residual network of the source, and depth 1 the
    network with one hidden layer.

    Args:
        input_dim: d.
        output_shape: (k,).
        width: m.
        depth: L, the number of hidden layers.
        init_scale: s.
        seed: seed of A and V^0.

    Raises:
        ValueError: if a size is below 1, there are several widths, or the output is a number.
    """

    reads_output: ClassVar[bool] = True
    readout: Tensor

    def __init__(
        self,
        input_dim: int,
        output_shape: Sequence[int],
        *,
        width: int | list[int],
        depth: int = 2,
        init_scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if len(output_shape) != 1:
            raise ValueError("relu_network requires a target with vector values, got a scalar one.")
        if isinstance(width, list) or min(width, depth) < 1:
            raise ValueError(
                "width and depth must be one number each, at least 1, with relu_network, got "
                f"{width} and {depth}."
            )
        self.input_dim, self.output_shape = input_dim, tuple(output_shape)
        self.active_depth = depth
        readout = torch.randn(
            *output_shape, width, generator=generator(seed, "readout"), dtype=torch.float64
        )
        self.register_buffer("readout", readout.to(torch.get_default_dtype()) / math.sqrt(width))
        read = output_shape[0] if self.reads_output else width
        self.layers = nn.ModuleList()
        for level in range(1, depth + 1):
            fan_in, variance = (input_dim, input_dim) if level == 1 else (read, width)
            scale, random = init_scale / math.sqrt(variance), generator(seed, "layer", level)
            self.layers.append(ReLULayer(fan_in, width, scale, random))

    @property
    def depth(self) -> int:
        """L."""
        return len(self.layers)

    def relu_layers(self) -> list[ReLULayer]:
        """The layers with their type."""
        return [layer for layer in self.layers if isinstance(layer, ReLULayer)]

    def neuron_weights(self) -> dict[int, Float[Tensor, "m fan_in"]]:
        """V^0 + V of each layer by its number."""
        return {n: each.initial + each.change for n, each in enumerate(self.relu_layers(), start=1)}

    def train_layers(self, levels: Collection[int]) -> None:
        """Enables gradients for V of the layers with the given numbers only."""
        for level, layer in enumerate(self.layers, start=1):
            layer.requires_grad_(level in levels)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Returns f(x)."""
        first, *others = self.relu_layers()[: self.active_depth]
        output: Tensor = first(x) @ self.readout.mT
        for layer in others:
            output = output + layer(output) @ self.readout.mT
        return output


class ChainNet(ResidualNet):
    """The same network without residual connections: each layer reads the neurons of the last.

    F_0 = x,   F_l = relu((V^0_l + V_l) (F_{l-1}, 1)),   f(x) = A F_L(x)
    """

    reads_output: ClassVar[bool] = False

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """Returns f(x)."""
        neurons = x
        for layer in self.relu_layers()[: self.active_depth]:
            neurons = layer(neurons)
        return neurons @ self.readout.mT


ReLUNetworkName = Literal["residual", "chain"]
RELU_NETWORKS: dict[ReLUNetworkName, type[ResidualNet]] = {
    "residual": ResidualNet,
    "chain": ChainNet,
}
