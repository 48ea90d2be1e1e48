"""SGD, Adam and AdamW on many networks at once, each with its own rate and decay."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from bfc_lightning.gradients import FlatParameters

_PER_NETWORK = ("lr", "weight_decay")
_SHARED = ("betas", "eps", "momentum", "dampening", "nesterov", "decoupled_weight_decay")
_REFUSED = ("amsgrad", "maximize", "differentiable", "capturable")


class RowOptimizer:
    """Takes the steps of R optimisers of PyTorch in a few operations on rows of parameters.

    The optimisers keep what they are asked for: settings and rates are read from them at every
    step, and their state is a view into rows of ours, so that schedules, checkpoints and resuming
    see ordinary optimisers. The formulas are those of PyTorch's documentation:

        SGD     u = mu u + (1 - tau) g (g in the first step),   V <- V - r (g + mu u if nesterov,
                else u),   with g + lambda V for g
        Adam    m, s: moving means of g and g^2,   V <- V - r m_hat / (s_hat^(1/2) + eps)
        AdamW   the same, after V <- (1 - r lambda) V, without lambda V in g

    Source: ours; Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter, arXiv 1711.05101.

    Args:
        optimizers: one a network, all of one class, each with one group of parameters.
        parameters: of the networks.

    Raises:
        ValueError: if `why_not_in_rows` has a reason.
    """

    def __init__(self, optimizers: Sequence[Optimizer], parameters: FlatParameters) -> None:
        reason = why_not_in_rows(optimizers)
        if reason is not None:
            raise ValueError(f"optimizer must be one that many networks can share, got {reason}.")
        self._groups = [optimizer.param_groups[0] for optimizer in optimizers]
        self._optimizers = optimizers
        for optimizer in optimizers:  # else schedules warn that it is never stepped
            optimizer._opt_called = True  # type: ignore[attr-defined]
        self._parameters = parameters
        self._columns = parameters.trained_columns()
        kind = type(optimizers[0])
        self._update: Callable[[slice, dict[str, Tensor]], None]
        self._update = self._sgd if kind is SGD else self._adam
        decoupled = bool(self._groups[0].get("decoupled_weight_decay"))  # Adam has it, too
        self._is_decoupled = kind is AdamW or decoupled
        names = ("momentum_buffer",) if kind is SGD else ("exp_avg", "exp_avg_sq")
        self._steps_taken = self._find_step()
        self._state = {name: self._rows_of(name) for name in names}

    def step(self) -> None:
        """One step of every network, with the gradients in the rows."""
        self._steps_taken += 1
        chosen = {key: self._column(key) for key in _PER_NETWORK}
        for columns in self._columns:
            self._update(columns, chosen)

    def hand_back(self) -> None:
        """Tells the optimisers how many steps they have taken; call it before they are saved."""
        for optimizer in self._optimizers:
            for state in optimizer.state.values():
                if "step" in state:
                    state["step"].fill_(self._steps_taken)

    def _column(self, key: str) -> Float[Tensor, "r 1"]:
        numbers = [float(group[key]) for group in self._groups]
        return self._parameters.values.new_tensor(numbers).unsqueeze(1)

    def _find_step(self) -> int:
        states = [s for o in self._optimizers for s in o.state.values() if "step" in s]
        return int(states[0]["step"]) if states else 0

    def _rows_of(self, name: str) -> Float[Tensor, "r p"]:
        """Rows of a state, with what the optimisers have; they get views into them."""
        rows = torch.zeros_like(self._parameters.values)
        for network, optimizer, row in zip(
            self._parameters.networks, self._optimizers, rows, strict=True
        ):
            for parameter, slot in self._parameters.pairs(network, row):
                if not parameter.requires_grad:
                    continue
                state = optimizer.state[parameter]
                if isinstance(state.get(name), Tensor):
                    slot.copy_(state[name])
                    self._steps_taken = max(self._steps_taken, 1)
                state[name] = slot
                if name == "exp_avg":
                    state.setdefault("step", torch.zeros(()))
        return rows

    def _sgd(self, columns: slice, chosen: dict[str, Tensor]) -> None:
        group: dict[str, Any] = self._groups[0]
        values = self._parameters.values[:, columns]
        gradient = self._parameters.gradients[:, columns]
        if any(each["weight_decay"] for each in self._groups):
            gradient.add_(values * chosen["weight_decay"])
        if group["momentum"]:
            buffer = self._state["momentum_buffer"][:, columns]
            kept = 1.0 if self._steps_taken == 1 else 1 - group["dampening"]
            buffer.mul_(group["momentum"]).add_(gradient, alpha=kept)
            if group["nesterov"]:
                gradient.add_(buffer, alpha=group["momentum"])
            else:
                gradient = buffer
        values.addcmul_(gradient, chosen["lr"], value=-1)

    def _adam(self, columns: slice, chosen: dict[str, Tensor]) -> None:
        group: dict[str, Any] = self._groups[0]
        values = self._parameters.values[:, columns]
        gradient = self._parameters.gradients[:, columns]
        if any(each["weight_decay"] for each in self._groups):
            if self._is_decoupled:
                values.mul_(1 - chosen["lr"] * chosen["weight_decay"])
            else:
                gradient.add_(values * chosen["weight_decay"])
        first, second = group["betas"]
        mean = self._state["exp_avg"][:, columns].lerp_(gradient, 1 - first)
        square = self._state["exp_avg_sq"][:, columns]
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        correction = 1 - first**self._steps_taken
        root = square.sqrt().div_(math.sqrt(1 - second**self._steps_taken)).add_(group["eps"])
        values.addcmul_(mean.div(root), chosen["lr"] / correction, value=-1)


def why_not_in_rows(optimizers: Sequence[Optimizer]) -> str | None:
    """Why optimisers cannot take their steps together.

    Source: ours.

    Args:
        optimizers: one a network.

    Returns:
        A few words, or None where they can.
    """
    kinds = {type(optimizer) for optimizer in optimizers}
    if not kinds <= {SGD, Adam, AdamW} or len(kinds) > 1:
        return " and ".join(sorted(kind.__name__ for kind in kinds))
    groups = [optimizer.param_groups for optimizer in optimizers]
    if any(len(each) != 1 for each in groups):
        return "several groups of parameters"
    for name in _REFUSED:
        if any(each[0].get(name) for each in groups):
            return name
    for name in _SHARED:
        if len({each[0].get(name) for each in groups}) > 1:
            return f"different {name}"
    return None
