"""SGD, Adam and AdamW as formulas on stacked parameters, one row per learner."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

_UNSUPPORTED = ("amsgrad", "maximize", "differentiable")

Rows = Float[Tensor, "r p"]


class Formula(Protocol):
    """The update of an optimizer as a pure function."""

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the state tensors in the optimizer of PyTorch."""

    def coefficients(self, rate: float, count: int) -> list[float]:
        """The numbers of `update` that change from step to step.

        Args:
            rate: the learning rate.
            count: number of the step, from 1.

        Returns:
            Always the same number of coefficients.
        """

    def update(
        self, values: Rows, gradient: Rows, state: list[Rows], coefficients: Float[Tensor, " c"]
    ) -> tuple[Rows, list[Rows]]:
        """The parameters and the state after a step.

        Args:
            values: the parameters.
            gradient: their gradient.
            state: the state tensors.
            coefficients: from `coefficients`.

        Returns:
            New tensors.
        """

    def update_in_place(
        self, values: Rows, gradient: Rows, state: list[Rows], *, rate: float, count: int
    ) -> None:
        """The same, up to rounding, without new tensors.

        Args:
            values: the parameters, modified.
            gradient: their gradient, modified.
            state: the state tensors, modified.
            rate: the learning rate.
            count: number of the step, from 1.
        """


@dataclass(frozen=True)
class SGDFormula:
    """Stochastic gradient descent, as in `torch.optim.SGD`.

    g <- g + lambda V,   u <- mu u + (1 - tau) g (g in the first step)
    V <- V - r (g + mu u if nesterov, otherwise u)
    """

    momentum: float
    dampening: float
    nesterov: bool
    weight_decay: float

    @property
    def state(self) -> tuple[str, ...]:
        """u, if there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()

    def coefficients(self, rate: float, count: int) -> list[float]:
        """r, and the factor of g in u."""
        return [rate, 1.0 if count == 1 else 1 - self.dampening]

    def update(
        self, values: Rows, gradient: Rows, state: list[Rows], coefficients: Float[Tensor, " c"]
    ) -> tuple[Rows, list[Rows]]:
        """See `Formula`."""
        rate, kept = coefficients.unbind()
        if self.weight_decay:
            gradient = gradient + self.weight_decay * values
        if self.momentum:
            state = [self.momentum * state[0] + kept * gradient]
            gradient = gradient + self.momentum * state[0] if self.nesterov else state[0]
        return values - rate * gradient, state

    def update_in_place(
        self, values: Rows, gradient: Rows, state: list[Rows], *, rate: float, count: int
    ) -> None:
        """See `Formula`."""
        if self.weight_decay:
            gradient.add_(values, alpha=self.weight_decay)
        if self.momentum:
            state[0].mul_(self.momentum).add_(gradient, alpha=self.coefficients(rate, count)[1])
            gradient = gradient.add_(state[0], alpha=self.momentum) if self.nesterov else state[0]
        values.sub_(gradient, alpha=rate)


@dataclass(frozen=True)
class AdamFormula:
    """Adam and AdamW, as in PyTorch.

        m <- b m + (1 - b) g,   s <- c s + (1 - c) g^2
        V <- V - r / (1 - b^t) m / (s^(1/2) / (1 - c^t)^(1/2) + eps)

    Adam adds lambda V to g. AdamW and Adam with `decoupled_weight_decay` multiply V by 1 - r lambda
    instead.

    Source: Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter, arXiv 1711.05101.
    """

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decoupled: bool

    @property
    def state(self) -> tuple[str, ...]:
        """M and s."""
        return ("exp_avg", "exp_avg_sq")

    def coefficients(self, rate: float, count: int) -> list[float]:
        """R / (1 - b^t), (1 - c^t)^(-1/2), and the factor of V."""
        first, second = (1 - beta**count for beta in self.betas)
        kept = 1 - rate * self.weight_decay if self.decoupled else 1.0
        return [rate / first, 1 / math.sqrt(second), kept]

    def update(
        self, values: Rows, gradient: Rows, state: list[Rows], coefficients: Float[Tensor, " c"]
    ) -> tuple[Rows, list[Rows]]:
        """See `Formula`."""
        rate, root, kept = coefficients.unbind()
        if self.decoupled:
            values = values * kept
        elif self.weight_decay:
            gradient = gradient + self.weight_decay * values
        first, second = self.betas
        mean = first * state[0] + (1 - first) * gradient
        square = second * state[1] + (1 - second) * gradient * gradient
        return values - rate * mean / (square.sqrt() * root + self.eps), [mean, square]

    def update_in_place(
        self, values: Rows, gradient: Rows, state: list[Rows], *, rate: float, count: int
    ) -> None:
        """See `Formula`. Calls PyTorch's fused kernel without its wrapper, which takes longer."""
        update = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        update(
            [values],
            [gradient],
            [state[0]],
            [state[1]],
            [],
            [torch.full((), float(count), device=values.device)],
            lr=rate,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )


def formula_of(optimizer: Optimizer) -> Formula:
    """The formula of an optimizer.

    Args:
        optimizer: SGD, Adam or AdamW of PyTorch.

    Returns:
        The formula with the hyperparameters of the optimizer.

    Raises:
        ValueError: if there is none.
    """
    kind, group = type(optimizer), optimizer.param_groups[0]
    if kind not in (SGD, Adam, AdamW):
        raise ValueError(f"{kind.__name__} is not SGD, Adam or AdamW")
    if len(optimizer.param_groups) > 1:
        raise ValueError(f"{kind.__name__} has several groups of parameters")
    for name in _UNSUPPORTED:
        if group.get(name):
            raise ValueError(f"{kind.__name__} has {name}")
    return _sgd(group) if kind is SGD else _adam(group, kind is AdamW)


def _sgd(group: Mapping[str, Any]) -> SGDFormula:
    return SGDFormula(
        group["momentum"], group["dampening"], group["nesterov"], group["weight_decay"]
    )


def _adam(group: Mapping[str, Any], decoupled: bool) -> AdamFormula:
    decoupled = decoupled or bool(group.get("decoupled_weight_decay"))
    return AdamFormula(tuple(group["betas"]), group["eps"], group["weight_decay"], decoupled)
