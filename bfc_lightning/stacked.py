"""Parameters and optimizer state of learners of one shape, one row per learner."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from bfc_lightning.formulas import Formula, formula_of


@dataclass(frozen=True)
class Layout:
    """Where the trained parameters of a learner are in a row.

    Attributes:
        names: of the trained parameters, in order.
        shapes: their shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    def views(self, row: Float[Tensor, " p"]) -> list[Tensor]:
        """The parts of a row, in the shapes of the parameters."""
        pieces = torch.split(row, [shape.numel() for shape in self.shapes])
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def named(self, row: Float[Tensor, " p"]) -> dict[str, Tensor]:
        """The parts of a row by name."""
        return dict(zip(self.names, self.views(row), strict=True))

    def row(self, named: Mapping[str, Tensor]) -> Float[Tensor, " p"]:
        """The inverse of `named`."""
        return torch.cat([named[name].reshape(-1) for name in self.names])


class StackedParameters:
    """The trained parameters of learners of one shape, one row per learner, and all others.

    The parameters of the learners become views of the rows. Moving a learner to another device or
    dtype breaks the views, see `is_current`.

    Args:
        learners: the networks, all of the same shape, with the same trained parameters.

    Attributes:
        layout: of a row.
        values: the trained parameters, shape (R, P).
        fixed: parameters that are not trained and buffers, with a leading axis of learners.
        first: the trained parameters of the first learner by name, as views, and its other tensors.

    Raises:
        ValueError: if the learners differ in shape.
    """

    def __init__(self, learners: Sequence[nn.Module]) -> None:
        self._learners = list(learners)
        layouts = {_layout(learner) for learner in learners}
        if len(layouts) != 1:
            raise ValueError(f"learners must have the same shape, got {len(layouts)} shapes.")
        self.layout = layouts.pop()
        self.values = torch.stack([
            torch.cat([p.detach().reshape(-1) for p in _trained(learner).values()])
            for learner in learners
        ])
        for learner, row in zip(learners, self.values, strict=True):
            pairs = zip(_trained(learner).values(), self.layout.views(row), strict=True)
            for parameter, value in pairs:
                parameter.data = value
        self._places = [_places(learner) for learner in learners]
        others = [
            {
                name: tensor.detach()
                for name, tensor in (*learner.named_parameters(), *learner.named_buffers())
                if not tensor.requires_grad
            }
            for learner in learners
        ]
        self._others = list(others[0].values())
        self._versions = [tensor._version for tensor in self._others]
        self.fixed = {name: torch.stack([each[name] for each in others]) for name in others[0]}
        self.first = self.layout.named(self.values[0]), others[0]

    def is_current(self) -> bool:
        """Whether the same parameters are trained and are still views, and no buffer has changed.

        Buffers of other learners than the first are not checked. They change together.
        """
        if [tensor._version for tensor in self._others] != self._versions:
            return False
        return [_places(learner) for learner in self._learners] == self._places


class OptimizerRows:
    """The state of the optimizers of several learners, in rows.

    State tensors of the optimizers become views of rows, so that checkpoints work as usual.

    Args:
        optimizers: one per learner, over its trained parameters.
        parameters: the learners.

    Attributes:
        formula: the update.
        count: number of steps taken.
        rows: the state tensors, each of shape (R, P).
    """

    def __init__(self, optimizers: Sequence[Optimizer], parameters: StackedParameters) -> None:
        self._optimizers = list(optimizers)
        self.formula: Formula = formula_of(optimizers[0])
        for optimizer in optimizers:  # otherwise schedules warn that it is never stepped
            optimizer._opt_called = True  # type: ignore[attr-defined]
        self._states = [
            [optimizer.state[p] for p in optimizer.param_groups[0]["params"] if p.requires_grad]
            for optimizer in optimizers
        ]
        steps = [int(state.get("step", 0)) for each in self._states for state in each]
        self.count = max(steps, default=0)
        self.rows = [torch.zeros_like(parameters.values) for _ in self.formula.state]
        for name, rows in zip(self.formula.state, self.rows, strict=True):
            for states, row in zip(self._states, rows, strict=True):
                for state, slot in zip(states, parameters.layout.views(row), strict=True):
                    self._attach(state, name, slot)
        self._slots = [self._states[0][0][name] for name in self.formula.state]

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(self._optimizers[0].param_groups[0]["lr"])

    def is_current(self, optimizers: Sequence[Optimizer]) -> bool:
        """Whether the optimizers are the same and were not stepped, loaded or set elsewhere."""
        if any(a is not b for a, b in zip(optimizers, self._optimizers, strict=True)):
            return False
        own = self._optimizers[0]
        state = own.state[own.param_groups[0]["params"][0]]
        pairs = zip(self.formula.state, self._slots, strict=True)
        same = all(state.get(name) is slot for name, slot in pairs)
        same = same and formula_of(own) == self.formula
        return same and int(state.get("step", self.count)) == self.count

    def hand_back(self) -> None:
        """Writes the number of steps to the optimizers, as their checkpoints need it."""
        for state in (state for each in self._states for state in each):
            if "step" in state:
                state["step"].fill_(self.count)

    def _attach(self, state: dict[str, Tensor], name: str, slot: Tensor) -> None:
        if isinstance(state.get(name), Tensor):
            slot.copy_(state[name])
            self.count = max(self.count, 1)
        state[name] = slot
        if name == "exp_avg":
            state.setdefault("step", torch.zeros(()))


def share_step_count(optimizer: Optimizer) -> None:
    """Gives all parameters the step count of the first one, and new ones a state of zeros.

    The engines have one step count per optimizer, and all engines must take the same steps.
    """
    first, *others = optimizer.param_groups[0]["params"]
    for parameter in others:
        own = optimizer.state[parameter]
        for name, value in optimizer.state[first].items():
            if isinstance(value, Tensor):
                own.setdefault(name, torch.zeros_like(parameter if value.ndim else value))
                if value.ndim == 0:
                    own[name].copy_(value)


def _trained(learner: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in learner.named_parameters() if p.requires_grad}


def _places(learner: nn.Module) -> dict[str, int]:
    """Where the trained parameters are in memory."""
    return {name: parameter.data_ptr() for name, parameter in _trained(learner).items()}


def _layout(learner: nn.Module) -> Layout:
    trained = _trained(learner)
    return Layout(tuple(trained), tuple(parameter.shape for parameter in trained.values()))
