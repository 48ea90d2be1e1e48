"""The training step as a pure function of parameters, optimizer state, batches and rates."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bfc_lightning.compilation import CompiledFunction
from bfc_lightning.formulas import Formula, Rows, formula_of
from bfc_lightning.learners import Learner
from bfc_lightning.objectives import LossAndGrad
from bfc_lightning.schedules import advance
from bfc_lightning.stacked import Layout, OptimizerRows, StackedParameters
from bfc_lightning.types import StepChunk


@dataclass(frozen=True)
class Clipping:
    """Gradient clipping, with the options of the Trainer.

    Args:
        value: the threshold, or None for no clipping.
        algorithm: `norm` scales all gradients so that their joint norm is at most the threshold,
            `value` clamps every entry.
    """

    value: float | None = None
    algorithm: Literal["norm", "value"] = "norm"

    def apply(self, gradients: Rows) -> Rows:
        """Clips the gradient of each learner.

        Args:
            gradients: all gradients, one row per learner. Modified.

        Returns:
            The clipped gradients.
        """
        if self.value is None or self.value <= 0:  # disabled, as in the Trainer
            return gradients
        if self.algorithm == "value":
            return gradients.clamp_(-self.value, self.value)
        norm = torch.linalg.vecdot(gradients, gradients).sqrt().unsqueeze(1)
        return gradients.mul_((self.value / (norm + 1e-6)).clamp(max=1))

    def apply_eagerly(self, gradients: Rows) -> Rows:
        """The same, up to rounding, in less time for a single learner on the CPU.

        Args:
            gradients: all gradients, one row per learner. Modified.

        Returns:
            The clipped gradients.
        """
        is_single = len(gradients) == 1 and gradients.device.type == "cpu"
        if not self.value or self.value <= 0 or self.algorithm != "norm" or not is_single:
            return self.apply(gradients)
        norm = math.sqrt(float(torch.dot(gradients[0], gradients[0])))
        factor = self.value / (norm + 1e-6)
        return gradients.mul_(factor) if factor < 1 else gradients


def average_over_processes(gradients: Rows) -> None:
    """Averages gradients over all processes, in place. All processes have equal shards of a batch.

    Args:
        gradients: gradients of this process.
    """
    torch.distributed.all_reduce(gradients)
    gradients.div_(torch.distributed.get_world_size())


class StepFunction:
    """The training step of learners of one shape, as pure functions of rows.

    Args:
        layout: of a row.
        fixed: names of all other tensors.
        loss_and_grad: the loss of one learner with its gradient.
        clipping: gradient clipping of each learner.
        formula: the update of the optimizer.
    """

    def __init__(
        self,
        layout: Layout,
        fixed: Sequence[str],
        loss_and_grad: LossAndGrad,
        clipping: Clipping,
        formula: Formula,
    ) -> None:
        self.layout = layout
        self.fixed = list(fixed)
        self.loss_and_grad = loss_and_grad
        self.clipping = clipping
        self.formula = formula
        self._traced: CompiledFunction | None = None

    def compiled(self, arguments: list[Tensor]) -> CompiledFunction:
        """`take`, compiled for arguments like these."""
        if self._traced is None or not self._traced.accepts(arguments):
            self._traced = CompiledFunction(self.take, arguments)
        return self._traced

    def gradient(
        self, values: Rows, fixed: Mapping[str, Tensor], x: Tensor, y: Tensor, scale: Tensor
    ) -> tuple[Float[Tensor, " r"], Rows]:
        """Losses and gradients of all learners on one batch.

        Args:
            values: the trained parameters.
            fixed: all other tensors.
            x: inputs, shape (n, d), or (R, n, d) for several learners.
            y: labels.
            scale: scales of the loss, shape (R,).

        Returns:
            The losses and the gradients.
        """
        if len(values) > 1:
            losses, gradients = torch.func.vmap(self._gradient)(values, fixed, x, y, scale)
            return losses, gradients
        own = {name: tensor[0] for name, tensor in fixed.items()}
        return self.single_gradient(self.layout.named(values[0]), own, x, y, scale[0])

    def single_gradient(
        self,
        trained: Mapping[str, Tensor],
        fixed: Mapping[str, Tensor],
        x: Tensor,
        y: Tensor,
        scale: float | Tensor,
    ) -> tuple[Float[Tensor, " 1"], Rows]:
        """Loss and gradient of a single learner, given its parameters by name."""
        loss, gradients = self.loss_and_grad(trained, fixed, x, y, scale)
        return loss.unsqueeze(0), self.layout.row(gradients).unsqueeze(0)

    def take(self, values: Rows, *others: Tensor) -> tuple[Tensor, ...]:
        """Takes a step.

        Args:
            values: the trained parameters.
            others: the state of the optimizer, all other tensors of the learners, the batch (x, y),
                the scales of the loss, shape (R,), and the coefficients of the formula.

        Returns:
            The losses, shape (R,), the new parameters and the new state.
        """
        count = len(self.formula.state)
        state, (*fixed, x, y, scale, coefficients) = others[:count], others[count:]
        named = dict(zip(self.fixed, fixed, strict=True))
        loss, gradient = self.gradient(values, named, x, y, scale)
        gradient = self.clipping.apply(gradient)
        new, kept = self.formula.update(values, gradient, list(state), coefficients)
        return loss, new, *kept

    def _gradient(
        self, row: Tensor, fixed: Mapping[str, Tensor], x: Tensor, y: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        loss, gradients = self.loss_and_grad(self.layout.named(row), fixed, x, y, scale)
        return loss, self.layout.row(gradients)


class Engine:
    """Takes optimizer steps of one learner, or of several learners of one shape.

        V, state <- update(V, clip(gradient of the loss on batch k), state, rate k),   k = 1, 2, ...

    Eagerly, a step updates the rows in place. Compiled, it is one call of machine code, which
    returns new rows of the same layout; the learners see those of the last step of a chunk.

    Args:
        learners: the networks, all of the same shape.
        loss_and_grad: the loss of one learner with its gradient, as a pure function.
        clipping: gradient clipping of each learner.
        share: averages the gradients over all processes, in place. Only eagerly.
        compiles: whether steps are compiled.
    """

    def __init__(
        self,
        learners: Sequence[Learner],
        loss_and_grad: LossAndGrad,
        *,
        clipping: Clipping | None = None,
        share: Callable[[Tensor], None] | None = None,
        compiles: bool = False,
    ) -> None:
        self.learners = list(learners)
        self.loss_and_grad = loss_and_grad
        self.clipping = Clipping() if clipping is None else clipping
        self.share = share
        self.compiles = compiles
        self._parameters: StackedParameters | None = None
        self._optimizers: OptimizerRows | None = None
        self._mode: tuple[object, ...] = ()
        self._functions: dict[object, StepFunction] = {}

    @torch.no_grad()
    def run(
        self,
        chunk: StepChunk,
        optimizers: Sequence[Optimizer],
        schedules: Sequence[LRScheduler],
        scales: Sequence[Sequence[float]],
    ) -> Float[Tensor, "steps *r"]:
        """Takes one optimizer step of every learner for each batch of a chunk.

        Args:
            chunk: the batches. With several learners, the second axis is the learner.
            optimizers: one per learner, over its trained parameters.
            schedules: one per learner, stepped after every optimizer step. Empty for constant
                rates. All learners have the rate of the first one.
            scales: the scale of the loss for every step and learner.

        Returns:
            The losses with the penalty, on the samples of this process.

        Raises:
            ValueError: if a schedule changes another setting than the learning rate.
        """
        parameters, rows = self._prepare(optimizers)
        function = self._function(parameters, rows.formula)
        rates = _next_rates(rows, schedules, len(chunk.labels))
        take = self._take_compiled if self.compiles else self._take_eagerly
        losses = take(function, parameters, rows, chunk, scales, rates)
        rows.hand_back()
        if formula_of(optimizers[0]) != rows.formula:
            raise ValueError(
                "lr_scheduler must change the learning rate only; use autograd in a new run."
            )
        taken = torch.stack(losses)
        return taken if len(parameters.values) > 1 else taken[:, 0]

    def trace(self, optimizer: Optimizer, num_samples: int) -> CompiledFunction:
        """Traces the step for the parameters that are trained now.

        Args:
            optimizer: one like those of the run.
            num_samples: n, the batch size.
        """
        parameters, formula = self._stack(), formula_of(optimizer)
        values = parameters.values
        lead = (*([len(values)] if len(values) > 1 else []), num_samples)
        arguments = [
            values,
            *(torch.zeros_like(values) for _ in formula.state),
            *parameters.fixed.values(),
            values.new_zeros(*lead, self.learners[0].input_dim),
            values.new_zeros(*lead, *self.learners[0].output_shape),
            values.new_ones(len(values)),
            values.new_tensor(formula.coefficients(1.0, 1)),
        ]
        return self._function(parameters, formula).compiled(arguments)

    def _take_compiled(
        self,
        function: StepFunction,
        parameters: StackedParameters,
        rows: OptimizerRows,
        chunk: StepChunk,
        scales: Sequence[Sequence[float]],
        rates: Sequence[tuple[float, int]],
    ) -> list[Float[Tensor, " r"]]:
        values, fixed = parameters.values, parameters.fixed.values()
        numbers = [function.formula.coefficients(*each) for each in rates]
        columns = *chunk, values.new_tensor(scales), values.new_tensor(numbers)
        parts = (column.to(values.dtype).contiguous().unbind() for column in columns)
        batches = list(zip(*parts, strict=True))
        stored = [values, *rows.rows]  # of which parameters and optimizer state are views
        take = function.compiled([*stored, *fixed, *batches[0]]).load()
        losses, current = [], stored
        for batch in batches:
            loss, *current = take([*current, *fixed, *batch])
            losses.append(loss)
        torch._foreach_copy_(stored, current)
        return losses

    def _take_eagerly(
        self,
        function: StepFunction,
        parameters: StackedParameters,
        rows: OptimizerRows,
        chunk: StepChunk,
        scales: Sequence[Sequence[float]],
        rates: Sequence[tuple[float, int]],
    ) -> list[Float[Tensor, " r"]]:
        values, losses = parameters.values, []
        batches = zip(chunk.inputs.unbind(), chunk.labels.unbind(), scales, rates, strict=True)
        for x, y, own, (rate, count) in batches:
            if len(own) == 1:
                loss, gradient = function.single_gradient(*parameters.first, x, y, own[0])
            else:
                factors = values.new_tensor(own)
                loss, gradient = function.gradient(values, parameters.fixed, x, y, factors)
            if self.share is not None:
                self.share(gradient)
            gradient = self.clipping.apply_eagerly(gradient)
            function.formula.update_in_place(values, gradient, rows.rows, rate=rate, count=count)
            losses.append(loss)
        return losses

    def _prepare(self, optimizers: Sequence[Optimizer]) -> tuple[StackedParameters, OptimizerRows]:
        """Rows of what is trained now."""
        parameters = self._parameters
        if self._mode != self.learners[0].mode or not parameters or not parameters.is_current():
            parameters = self._stack()
        if self._optimizers is None or not self._optimizers.is_current(optimizers):
            self._optimizers = OptimizerRows(optimizers, parameters)
        return parameters, self._optimizers

    def _stack(self) -> StackedParameters:
        self._parameters, self._optimizers = StackedParameters(self.learners), None
        self._mode = self.learners[0].mode
        return self._parameters

    def _function(self, parameters: StackedParameters, formula: Formula) -> StepFunction:
        """The step for what is trained now: phases of a scheme have one each."""
        values = parameters.values
        key = parameters.layout, *parameters.fixed, formula, self._mode, values.dtype, values.device
        if key not in self._functions:
            self._functions[key] = StepFunction(
                parameters.layout, [*parameters.fixed], self.loss_and_grad, self.clipping, formula
            )
        return self._functions[key]


def _next_rates(
    rows: OptimizerRows, schedules: Sequence[LRScheduler], length: int
) -> list[tuple[float, int]]:
    """Learning rate and number of each of the next steps."""
    first = rows.count + 1
    rows.count += length
    rates = [advance(schedule, length) for schedule in schedules] or [[rows.rate] * length]
    return list(zip(rates[0], range(first, first + length), strict=True))
