"""The fast training path: several optimiser steps in a row, with gradients by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from bfc_lightning.activations import in_place
from bfc_lightning.gradients import DenseGradients, FlatParameters
from bfc_lightning.networks import DenseNet
from bfc_lightning.objectives import Objective, weight_penalty
from bfc_lightning.types import Burst

_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


@dataclass(frozen=True)
class Clipping:
    """How gradients are held down, as the Trainer's flags of the same names say.

    Args:
        value: the bound; None for none.
        algorithm: `norm` scales all gradients so that their common norm is at most the bound,
            `value` cuts off every entry.
    """

    value: float | None = None
    algorithm: Literal["norm", "value"] = "norm"

    def apply(self, gradients: Float[Tensor, " p"]) -> None:
        """Clips in place.

        Args:
            gradients: all of them, in one row.
        """
        if not self.value:
            return
        if self.algorithm == "value":
            gradients.clamp_(-self.value, self.value)
            return
        norm = torch.linalg.vector_norm(gradients)
        gradients.mul_((self.value / (norm + 1e-6)).clamp_(max=1))


def why_not_fast(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """Why a learner cannot be trained on the fast path.

    Args:
        network: the learner.
        optimizer: that trains it.

    Returns:
        A few words, or None where it can.
    """
    if type(network) is not DenseNet:
        return f"{type(network).__name__} has no gradients by hand"
    if isinstance(optimizer, torch.optim.LBFGS):
        return "LBFGS evaluates the loss several times a step"
    activation = network.dense_layers()[0].activation
    if in_place(activation) is None:
        return f"{type(activation).__name__} has no form in place"
    return None


class FastPath:
    """Takes optimiser steps as the plain path does, to rounding, at a fraction of the overhead.

    Gradients come from `DenseGradients` into one row of memory, are clipped there, and go to the
    optimiser that the plain path would have used, with its fused kernel where it has one.

    Source: ours.

    Args:
        network: the learner.
        objective: its loss.
        regularization: lambda, one a layer.
        clipping: of the gradients.
    """

    def __init__(
        self,
        network: DenseNet,
        objective: Objective,
        *,
        regularization: Sequence[float] = (),
        clipping: Clipping | None = None,
    ) -> None:
        self.network = network
        self.objective = objective
        self.regularization = list(regularization) if any(regularization) else []
        self.clipping = Clipping() if clipping is None else clipping
        self._parameters: FlatParameters | None = None
        self._gradients: DenseGradients | None = None
        self._built_for: object = None

    @torch.no_grad()
    def run(
        self,
        burst: Burst,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler | None,
        progress: Callable[[int], float],
    ) -> Float[Tensor, " steps"]:
        """One optimiser step for each batch of a burst.

        Args:
            burst: the batches.
            optimizer: over the trainable parameters.
            schedule: of its rate, stepped after every optimiser step.
            progress: the part of the phase done at step 0, 1, ... of the burst.

        Returns:
            The losses, penalty included.
        """
        gradients, parameters = self._prepare(burst, optimizer)
        losses = burst.labels.new_empty(len(burst.labels))
        for step, (x, y) in enumerate(zip(*burst, strict=True)):
            loss, slope = self.objective.loss_and_slope(gradients.forward(x), y, progress(step))
            gradients.backward(slope)
            if self.regularization:
                loss = loss + weight_penalty(self.network, self.regularization)
                self._add_penalty()
            losses[step] = loss
            self.clipping.apply(parameters.gradients)
            optimizer.step()
            if schedule is not None:
                schedule.step()
        return losses

    def _prepare(
        self, burst: Burst, optimizer: torch.optim.Optimizer
    ) -> tuple[DenseGradients, FlatParameters]:
        """Buffers for this size of batch and these trained layers, and the fused kernels."""
        if self._parameters is None or not self._parameters.is_current():
            self._parameters, self._built_for = FlatParameters(self.network), None
        trained = tuple(parameter.requires_grad for parameter in self.network.parameters())
        wanted = (burst.inputs.shape[1:], self.network.active_depth, trained)
        if self._gradients is None or self._built_for != wanted:
            self._gradients = DenseGradients(
                self.network, self._parameters, num_samples=burst.inputs.shape[1]
            )
            self._built_for = wanted
        self._parameters.attach()
        _use_fused_kernels(optimizer)
        return self._gradients, self._parameters

    def _add_penalty(self) -> None:
        """The gradient of `weight_penalty`, 2 lambda_l V_l."""
        active = self.network.active_layers()
        for layer, coefficient in zip(active, self.regularization, strict=False):
            if layer.weight.grad is not None:
                layer.weight.grad.add_(layer.weight, alpha=2 * coefficient)


def _use_fused_kernels(optimizer: torch.optim.Optimizer) -> None:
    """One kernel for all parameters, where the user has not said otherwise."""
    if type(optimizer) not in _FUSED:
        return
    for group in optimizer.param_groups:
        chosen = group.get("fused") is not None or group.get("foreach") is not None
        if not (chosen or group.get("differentiable") or group.get("capturable")):
            group["fused"] = True
