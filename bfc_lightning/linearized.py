"""The linearized learner: the first-order expansion of a DenseNet at its initialization."""

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jvp

from bfc_lightning.learners import Learner
from bfc_lightning.networks import DenseNet

_CHUNK = 2048  # the activations of this many rows fit in the cache


class LinearizedDenseNet(DenseNet):
    """The first-order expansion of a DenseNet f at its initialization theta_0.

        f_lin(x) = f(x; theta_0) + J(x) delta,    J(x) = df(x; theta_0)/dtheta,
        delta = theta - theta_0, which is trained and initialized to 0

    Its tangent kernel J J^T is constant. Trained by gradient descent, it is the model studied in
    the theory of wide networks. The parameters of the DenseNet keep the value theta_0 and are not
    trained, so layers, features and the tangent kernel keep their initial values. A training step
    costs a forward-mode derivative and its gradient.

    Source: Lee et al., "Wide Neural Networks of Any Depth Evolve as Linear Models", arXiv
    1902.06720, section 2.2.

    Args:
        *arguments: positional arguments of `DenseNet`.
        **settings: keyword arguments of `DenseNet`.

    Attributes:
        moves: delta, one parameter per parameter of the DenseNet, with `/` for dots in its name.
    """

    is_linearized = True

    def __init__(self, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **settings)
        own = dict(self.named_parameters())
        moves = {_key(name): nn.Parameter(torch.zeros_like(value)) for name, value in own.items()}
        self.moves = nn.ParameterDict(moves)
        self.train_layers(range(1, self.depth + 1))

    def train_layers(self, levels: Collection[int]) -> None:
        """Enables training of delta for c, u and the layers with the given numbers only."""
        super().train_layers(levels)
        if not hasattr(self, "moves"):  # called by `DenseNet.__init__`
            return
        self.constant.requires_grad_(True)
        if self.linear is not None:
            self.linear.requires_grad_(True)
        for name, value in self._initialization().items():
            self.moves[_key(name)].requires_grad_(value.requires_grad)
            value.requires_grad_(False)

    def read_out(
        self, x: Float[Tensor, "n d"], features: list[Float[Tensor, "n _m"]]
    ) -> Float[Tensor, " n"]:
        """Returns f_lin(x), given the features at initialization."""
        changes = [self._tangent(rows)[1] for rows in torch.split(x, _CHUNK)]
        return super().read_out(x, features) + torch.cat(changes)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Returns f_lin(x)."""
        output, change = self._tangent(x)
        return output + change

    evaluate = Learner.evaluate  # by `forward`
    output_and_vjp = Learner.output_and_vjp  # by `torch.func`
    uses_autodiff = Learner.uses_autodiff

    def _initialization(self) -> dict[str, nn.Parameter]:
        """theta_0 by name."""
        return {
            name: value for name, value in self.named_parameters() if not name.startswith("moves.")
        }

    def _tangent(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(x; theta_0), and J(x) delta."""
        network = _Original(self)
        initial = {f"network.{name}": value for name, value in self._initialization().items()}
        moves = {f"network.{name}": self.moves[_key(name)] for name in self._initialization()}

        def output(parameters: dict[str, Tensor]) -> Tensor:
            value: Tensor = functional_call(network, parameters, (x,))
            return value

        pair = jvp(output, (initial,), (moves,))
        return pair[0], pair[1]


class _Original(nn.Module):
    """Evaluates a linearized network as the original DenseNet f."""

    def __init__(self, network: LinearizedDenseNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return DenseNet.read_out(self.network, x, self.network.features(x))


def _key(name: str) -> str:
    return name.replace(".", "/")
