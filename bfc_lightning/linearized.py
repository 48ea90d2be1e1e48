"""The learner, linear in its parameters: the first-order expansion of a DenseNet at its start."""

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jvp

from bfc_lightning.networks import DenseNet

_CHUNK = 2048  # rows whose layers stay in the cache


class LinearizedDenseNet(DenseNet):
    """A DenseNet f, replaced by its tangent at the start theta_0.

        f_lin(x) = f(x; theta_0) + J(x) delta,    J(x) = df(x; theta_0)/dtheta,
        delta = theta - theta_0, which is trained from 0

    Its tangent kernel is J J^T for good: trained by gradient descent, it is the learner that the
    theory of wide networks speaks of. The parameters of a DenseNet stay at theta_0 and are never
    trained, so whatever reads layers, features or the tangent kernel sees those of the start, which
    do not move. A step costs a forward pass along a tangent and the gradient of that pass.

    Source: Lee et al., "Wide Neural Networks of Any Depth Evolve as Linear Models", arXiv
    1902.06720, section 2.2.

    Args:
        *arguments: those of `DenseNet`.
        **settings: likewise.

    Attributes:
        moves: delta, a parameter for each one of the DenseNet, dots in its name as `/`.
    """

    is_linearized = True

    def __init__(self, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **settings)
        own = dict(self.named_parameters())
        moves = {_key(name): nn.Parameter(torch.zeros_like(value)) for name, value in own.items()}
        self.moves = nn.ParameterDict(moves)
        self.train_layers(range(1, self.depth + 1))

    def train_layers(self, levels: Collection[int]) -> None:
        """Lets gradients reach the moves of these layers, counted from 1; of c and u always.

        Args:
            levels: whose weights, biases and, where trainable, readouts are to be moved.
        """
        super().train_layers(levels)
        if not hasattr(self, "moves"):  # the DenseNet is still being made
            return
        self.constant.requires_grad_(True)
        if self.linear is not None:
            self.linear.requires_grad_(True)
        for name, value in self._start().items():
            self.moves[_key(name)].requires_grad_(value.requires_grad)
            value.requires_grad_(False)

    def read_out(
        self, x: Float[Tensor, "n d"], features: list[Float[Tensor, "n _m"]]
    ) -> Float[Tensor, " n"]:
        """The output f_lin, from the features of the start."""
        slopes = [self._tangent(rows)[1] for rows in torch.split(x, _CHUNK)]
        return super().read_out(x, features) + torch.cat(slopes)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f_lin(x)."""
        output, slope = self._tangent(x)
        return output + slope

    @torch.no_grad()
    def evaluate(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """f_lin(x), as `forward` does it."""
        return self.forward(x)

    def _start(self) -> dict[str, nn.Parameter]:
        """theta_0 by name."""
        return {
            name: value for name, value in self.named_parameters() if not name.startswith("moves.")
        }

    def _tangent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(x; theta_0), and its derivative along delta."""
        network = _Original(self)
        start = {f"network.{name}": value for name, value in self._start().items()}
        moves = {f"network.{name}": self.moves[_key(name)] for name in self._start()}

        def output(parameters: dict[str, Tensor]) -> Tensor:
            value: Tensor = functional_call(network, parameters, (x,))
            return value

        pair = jvp(output, (start,), (moves,))
        return pair[0], pair[1]


class _Original(nn.Module):
    """Calls a linearized network as the DenseNet that it was made from."""

    def __init__(self, network: LinearizedDenseNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return DenseNet.read_out(self.network, x, self.network.features(x))


def _key(name: str) -> str:
    return name.replace(".", "/")
