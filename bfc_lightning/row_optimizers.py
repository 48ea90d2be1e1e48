"""SGD, Adam and AdamW on many networks, each with its own learning rate and weight decay."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.adam import adam

from bfc_lightning.gradients import FlatParameters

_SHARED = ("betas", "eps", "momentum", "dampening", "nesterov", "decoupled_weight_decay")
_REFUSED = ("amsgrad", "maximize", "differentiable", "capturable")


class RowOptimizer:
    """Takes the steps of R PyTorch optimizers with a few operations on rows of parameters.

    Settings and learning rates are read from the optimizers at every step. Their state tensors
    become views of rows, so that schedules and checkpoints work as usual. The formulas are those of
    the PyTorch documentation:

        SGD     u = mu u + (1 - tau) g (g in the first step),   V <- V - r (g + mu u if nesterov,
                otherwise u),   with g + lambda V for g
        Adam    m, s: moving means of g and g^2,   V <- V - r m_hat / (s_hat^(1/2) + eps)
        AdamW   the same, after V <- (1 - r lambda) V, without lambda V in g

    Source: Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter, arXiv 1711.05101.

    Args:
        optimizers: one per network, all of one class, each with one parameter group.
        parameters: parameters of the networks.

    Raises:
        ValueError: if `why_not_in_rows` returns a reason.
    """

    def __init__(self, optimizers: Sequence[Optimizer], parameters: FlatParameters) -> None:
        reason = why_not_in_rows(optimizers)
        if reason is not None:
            raise ValueError(f"optimizers must be compatible with each other, got {reason}.")
        self._groups = [optimizer.param_groups[0] for optimizer in optimizers]
        self._optimizers = optimizers
        for optimizer in optimizers:  # otherwise schedules warn that it is never stepped
            optimizer._opt_called = True  # type: ignore[attr-defined]
        self._parameters = parameters
        self._columns = parameters.trained_columns()
        kind = type(optimizers[0])
        self._update = self._sgd if kind is SGD else self._adam
        decoupled = bool(self._groups[0].get("decoupled_weight_decay"))  # an option of Adam
        self._is_decoupled = kind is AdamW or decoupled
        names = ("momentum_buffer",) if kind is SGD else ("exp_avg", "exp_avg_sq")
        self._trained_states = [
            optimizer.state[parameter]
            for optimizer, network in zip(optimizers, parameters.networks, strict=True)
            for parameter, _ in parameters.pairs(network, parameters.values[0])
            if parameter.requires_grad
        ]
        counts = [int(state["step"]) for state in self._trained_states if "step" in state]
        self._steps_taken = max(counts, default=0)
        self._state = {name: self._rows_of(name) for name in names}
        self._first_of = {name: self._trained_states[0][name] for name in names}
        self._pieces = [self._pieces_of(number) for number in range(len(optimizers))]

    def step(self) -> None:
        """Takes one step for every network, with the gradients in the rows."""
        self._steps_taken += 1
        self._update()

    def is_current(self, optimizers: Sequence[Optimizer]) -> bool:
        """Whether the optimizers are unchanged and were not stepped or loaded elsewhere.

        Args:
            optimizers: one per network.
        """
        if any(a is not b for a, b in zip(optimizers, self._optimizers, strict=True)):
            return False
        state, names = self._trained_states[0], tuple(self._state)
        same = all(state[name] is self._first_of[name] for name in names)
        return same and int(state.get("step", self._steps_taken)) == self._steps_taken

    def hand_back(self) -> None:
        """Writes the number of steps to the optimizers. Call it before they are saved."""
        for state in self._trained_states:
            if "step" in state:
                state["step"].fill_(self._steps_taken)

    def _column(self, key: str) -> Float[Tensor, "r 1"]:
        numbers = [float(group[key]) for group in self._groups]
        return self._parameters.values.new_tensor(numbers).unsqueeze(1)

    def _rows_of(self, name: str) -> Float[Tensor, "r p"]:
        """Rows of one state tensor, initialized from the optimizers, which receive views."""
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

    def _pieces_of(self, number: int) -> list[tuple[Tensor, ...]]:
        """The trainable parts of a network's row: parameters, gradients, state, step count."""
        rows = (self._parameters.values, self._parameters.gradients, *self._state.values())
        taken = self._parameters.values.new_tensor(float(self._steps_taken), dtype=torch.float32)
        return [
            (*(row[number, columns] for row in rows), taken.clone()) for columns in self._columns
        ]

    def _sgd(self) -> None:
        """Updates all rows at once. PyTorch's kernel would process one tensor after another."""
        group: dict[str, Any] = self._groups[0]
        rate, decay = self._column("lr"), self._column("weight_decay")
        for columns in self._columns:
            values = self._parameters.values[:, columns]
            gradient = self._parameters.gradients[:, columns]
            if any(each["weight_decay"] for each in self._groups):
                gradient.add_(values * decay)
            if group["momentum"]:
                buffer = self._state["momentum_buffer"][:, columns]
                kept = 1.0 if self._steps_taken == 1 else 1 - group["dampening"]
                buffer.mul_(group["momentum"]).add_(gradient, alpha=kept)
                if group["nesterov"]:
                    gradient.add_(buffer, alpha=group["momentum"])
                else:
                    gradient = buffer
            values.addcmul_(gradient, rate, value=-1)

    def _adam(self) -> None:
        """Uses PyTorch's fused kernel for all rows with the same learning rate and weight decay."""
        first, second = self._groups[0]["betas"]
        for (rate, decay), numbers in self._alike().items():
            pieces = [piece for number in numbers for piece in self._pieces[number]]
            values, gradients, means, squares, counts = map(list, zip(*pieces, strict=True))
            adam(
                values,
                gradients,
                means,
                squares,
                [],
                counts,
                fused=True,
                amsgrad=False,
                beta1=first,
                beta2=second,
                lr=rate,
                weight_decay=decay,
                eps=self._groups[0]["eps"],
                maximize=False,
                decoupled_weight_decay=self._is_decoupled,
            )

    def _alike(self) -> dict[tuple[float, float], list[int]]:
        """Indices of the rows by learning rate and weight decay."""
        found: dict[tuple[float, float], list[int]] = defaultdict(list)
        for number, group in enumerate(self._groups):
            found[group["lr"], group["weight_decay"]].append(number)
        return found


def why_not_in_rows(optimizers: Sequence[Optimizer]) -> str | None:
    """The reason why optimizers cannot be stepped together, or None.

    Args:
        optimizers: one per network.

    Returns:
        A short reason, or None if they can be stepped together.
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
