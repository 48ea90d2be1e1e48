"""What a learner offers to engines, training schemes and measures."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bfc_lightning.gradients import VJP, Cut, vjp_by_autodiff
from bfc_lightning.matmul import Product, matmul


class Learner(nn.Module, ABC):
    """A network f on R^d whose layers can be added to f one after another.

    Attributes:
        input_dim: d.
        output_shape: () if f(x) is a number, or (k,).
        active_depth: only layers up to this one are part of f. Set by training schemes.
        distilled_depth: number of the last layer whose narrow weights train, see `DistilledNet`.
        cut: which gradients are blocked. Set by training schemes for controls.
            `features` blocks gradients to lower layers through the features that a layer reads.
            `readout` blocks gradients to lower layers through their own contribution to f.
        pull: coefficient of the penalty that a training scheme adds, see `DenseNet`.
        regularization: coefficients of `weight_penalty` that are not buffers.
        is_linearized: whether f is a first-order expansion with fixed features.
        is_distilled: whether the learner has narrow weights, which require scheme `Distillation`.
    """

    input_dim: int
    output_shape: tuple[int, ...] = ()
    active_depth: int
    distilled_depth: int = 0
    cut: Cut = "none"
    pull: float = 0.0
    regularization: tuple[float, ...] = ()
    is_linearized: ClassVar[bool] = False
    is_distilled: ClassVar[bool] = False
    __call__: Any

    @property
    @abstractmethod
    def depth(self) -> int:
        """L, the number of the last layer."""

    @property
    def is_penalized(self) -> bool:
        """Whether `weight_penalty` is part of the training loss."""
        return any(self.regularization)

    @property
    def mode(self) -> tuple[object, ...]:
        """The settings of f and its penalty that may change during training, without tensors."""
        own = self.active_depth, self.distilled_depth, self.cut, self.pull, self.training
        return *own, *self.regularization

    @property
    def uses_autodiff(self) -> bool:
        """Whether `output_and_vjp` computes gradients by `torch.func`, and not by hand."""
        return True

    def tensors(self) -> dict[str, Tensor]:
        """Returns all parameters and buffers by name."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}

    @abstractmethod
    def neuron_weights(self) -> dict[int, Float[Tensor, "m fan_in"]]:
        """Returns the hidden weights of each layer by its number. A row is a neuron."""

    @abstractmethod
    def train_layers(self, levels: Collection[int]) -> None:
        """Enables gradients for the layers with the given numbers and disables all others."""

    @torch.no_grad()
    def evaluate(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n *k"]:
        """Returns f(x), up to rounding, without autograd."""
        output: Tensor = self(x)
        return output

    def penalized(self, parameters: Mapping[str, Tensor]) -> list[tuple[str, float, Tensor]]:
        """Returns the name of V, c and M for each term c |M|_F^2 of the regularizer, dM/dV = 1.

        Args:
            parameters: all parameters and buffers by name.
        """
        return []

    def weight_penalty(self, parameters: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The regularizer in units of the loss: the sum over `penalized`."""
        terms = [factor * part.square().sum() for _, factor, part in self.penalized(parameters)]
        return torch.stack(terms).sum()

    def penalty_grad(
        self, parameters: Mapping[str, Tensor], trained: Collection[str]
    ) -> dict[str, Tensor]:
        """The gradient of `weight_penalty`.

        Args:
            parameters: all parameters and buffers by name.
            trained: names of the parameters whose gradients are needed. Those with a zero gradient
                may be missing in the result.
        """
        gradients: dict[str, Tensor] = {}
        for name, factor, part in self.penalized(parameters):
            if name in trained:
                own = 2 * factor * part
                gradients[name] = gradients[name] + own if name in gradients else own
        return gradients

    def output_and_vjp(
        self,
        parameters: Mapping[str, Tensor],
        x: Float[Tensor, "n d"],
        trained: Collection[str] = (),
        *,
        product: Product = matmul,
    ) -> tuple[Float[Tensor, "n *k"], VJP]:
        """f(x) and its vector-Jacobian product, as pure functions of the parameters.

        Args:
            parameters: the value of each parameter, by name.
            x: the inputs.
            trained: names of the parameters whose gradients are needed, all of active layers.
            product: computes X W + A. `vmap` requires `plain_matmul`, also as `fusable`.

        Returns:
            f(x), and the map from the gradient with respect to f(x) to those of the parameters.
        """
        return vjp_by_autodiff(self, parameters, x, trained)

    def weights_up_to(self, depth: int) -> list[Float[Tensor, "_m _fan_in"]]:
        """Copies the hidden weights of layers 1, ..., `depth`."""
        weights = self.neuron_weights().items()
        return [weight.detach().clone() for level, weight in weights if level <= depth]

    @torch.no_grad()
    def restore_trained(self, earlier: Mapping[str, Tensor]) -> None:
        """Gives trained parameters earlier values, in place, since engines use views of them."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(earlier[name])

    def distill(self, level: int) -> None:
        """Starts the narrow weights of layer `level`, if the learner has any."""
        return


@torch.no_grad()
def changes_buffers(network: Learner) -> bool:
    """Whether f(x) changes a buffer during training, as batch normalization does."""
    copied = copy.deepcopy(network)
    before = {name: buffer.clone() for name, buffer in copied.named_buffers()}
    copied(next(copied.parameters()).new_ones(2, copied.input_dim))
    after = dict(copied.named_buffers())
    return not all(torch.equal(value, after[name]) for name, value in before.items())
