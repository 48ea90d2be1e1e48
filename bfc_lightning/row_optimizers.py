"""SGD, Adam and AdamW on many networks at once, each with its own rate and decay."""

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
    """Takes the steps of R optimizers of PyTorch in a few operations on rows of parameters.

    The optimizers keep what they are asked for: settings and rates are read from them at every
    step, and their state is a view into rows of ours, so that schedules, checkpoints and resuming
    see ordinary optimizers. The formulas are those of PyTorch's documentation:

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
        self._update = self._sgd if kind is SGD else self._adam
        decoupled = bool(self._groups[0].get("decoupled_weight_decay"))  # Adam has it, too
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
        """One step of every network, with the gradients in the rows."""
        self._steps_taken += 1
        self._update()

    def is_current(self, optimizers: Sequence[Optimizer]) -> bool:
        """Whether these are still the optimizers, and nobody else has stepped or loaded them.

        Args:
            optimizers: one a network.
        """
        if any(a is not b for a, b in zip(optimizers, self._optimizers, strict=True)):
            return False
        state, names = self._trained_states[0], tuple(self._state)
        same = all(state[name] is self._first_of[name] for name in names)
        return same and int(state.get("step", self._steps_taken)) == self._steps_taken

    def hand_back(self) -> None:
        """Tells the optimizers how many steps they have taken; call it before they are saved."""
        for state in self._trained_states:
            if "step" in state:
                state["step"].fill_(self._steps_taken)

    def _column(self, key: str) -> Float[Tensor, "r 1"]:
        numbers = [float(group[key]) for group in self._groups]
        return self._parameters.values.new_tensor(numbers).unsqueeze(1)

    def _rows_of(self, name: str) -> Float[Tensor, "r p"]:
        """Rows of a state, with what the optimizers have; they get views into them."""
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
        """The trained parts of a network's row: parameters, gradients, state, count of steps."""
        rows = (self._parameters.values, self._parameters.gradients, *self._state.values())
        taken = self._parameters.values.new_tensor(float(self._steps_taken), dtype=torch.float32)
        return [
            (*(row[number, columns] for row in rows), taken.clone()) for columns in self._columns
        ]

    def _sgd(self) -> None:
        """On all rows at once; PyTorch's own kernel takes one tensor after another here."""
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
        """By PyTorch's fused kernel, on the rows of one rate and decay at a time."""
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
        """Numbers of the rows by rate and decay."""
        found: dict[tuple[float, float], list[int]] = defaultdict(list)
        for number, group in enumerate(self._groups):
            found[group["lr"], group["weight_decay"]].append(number)
        return found


def why_not_in_rows(optimizers: Sequence[Optimizer]) -> str | None:
    """Why optimizers cannot take their steps together.

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
