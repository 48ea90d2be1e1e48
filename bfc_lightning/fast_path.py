"""The fast training path: several optimizer steps at a time, without autograd."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bfc_lightning.activations import in_place
from bfc_lightning.gradients import DenseGradients, FlatParameters
from bfc_lightning.networks import DenseNet
from bfc_lightning.objectives import Objective
from bfc_lightning.row_optimizers import RowOptimizer, why_not_in_rows
from bfc_lightning.types import StepChunk

# Maximum size in bytes of the features of one batch, including x, for which sharing operations
# saves time. Measured as time of shared steps / time of separate steps, for 4 and 16 learners, on
# two Zen 5 cores. One thread: 0.78 and 0.74 at 2^16.4, 1.01 and 1.14 at 2^17.2, 1.25 and 1.29 at
# 2^18. Two threads: 0.84 and 0.89 at 2^18, 0.91 and 0.97 at 2^19, 1.11 at 2^19.8.
_MOST_ON_ONE_THREAD, _MOST_ON_SEVERAL = 2**17, 2**19
_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


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

    def apply(self, gradients: Float[Tensor, "r p"]) -> None:
        """Clips in place.

        Args:
            gradients: all gradients, one row per learner.
        """
        if self.value is None or self.value <= 0:  # disabled, as in the Trainer
            return
        if self.algorithm == "value":
            gradients.clamp_(-self.value, self.value)
            return
        norm = _norms(gradients)
        gradients.mul_((self.value / (norm + 1e-6)).clamp_(max=1))


def average_over_processes(gradients: Float[Tensor, "r p"]) -> None:
    """Averages gradients over all processes, in place. All processes have equal shards of a batch.

    Args:
        gradients: gradients of this process.
    """
    torch.distributed.all_reduce(gradients)
    gradients.div_(torch.distributed.get_world_size())


def _norms(rows: Float[Tensor, "r p"]) -> Float[Tensor, "r 1"]:
    """The Euclidean norm of each row, several times as fast as `torch.linalg.vector_norm`."""
    if len(rows) == 1:
        return torch.dot(rows[0], rows[0]).sqrt().reshape(1, 1)
    squared: Tensor = torch.linalg.vecdot(rows, rows)
    return squared.sqrt().unsqueeze(1)


def why_not_fast(network: torch.nn.Module, optimizer: Optimizer) -> str | None:
    """The reason why a learner cannot be trained on the fast path, or None.

    Args:
        network: the learner.
        optimizer: its optimizer.

    Returns:
        A short reason, or None if it can be trained on the fast path.
    """
    if type(network) is not DenseNet:
        return f"{type(network).__name__} has no gradients by hand"
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        return f"{type(optimizer).__name__} evaluates the loss by itself"
    activation = network.dense_layers()[0].activation
    name = getattr(activation, "__name__", type(activation).__name__)
    if in_place(activation) is None:
        return f"{name} has no form in place"
    if isinstance(activation, torch.nn.Module) and any(True for _ in activation.parameters()):
        return f"{name} has parameters of its own"
    return None


class FastPath:
    """Takes the same optimizer steps as the plain path, up to rounding, with less overhead.

    `DenseGradients` writes the gradients to one row per learner, where they are clipped. A single
    learner is stepped by the optimizer of the plain path, with its fused kernel if it has one. With
    Adam, and for several learners, `RowOptimizer` takes the steps. Several learners share all
    operations, each on its own samples.

    Args:
        networks: the learners, all of the same shape.
        objectives: the objective of each learner.
        regularization: lambda for each learner, one number per layer.
        clipping: gradient clipping of each learner.
        share: averages the gradients over all processes, in place, before penalty and clipping. Not
            needed for a single process.
    """

    def __init__(
        self,
        networks: Sequence[DenseNet],
        objectives: Sequence[Objective],
        *,
        regularization: Sequence[Sequence[float]],
        clipping: Clipping | None = None,
        share: Callable[[Tensor], None] | None = None,
    ) -> None:
        self.networks = list(networks)
        self.objectives = list(objectives)
        self.clipping = Clipping() if clipping is None else clipping
        self._share = share
        self._many = len(self.networks) > 1
        self._coefficients = [list(each) for each in regularization]
        self._is_regularized = any(any(each) for each in regularization)
        self._parameters: FlatParameters | None = None
        self._gradients: DenseGradients | None = None
        self._built_for: object = None
        self._rows: RowOptimizer | None = None

    @torch.no_grad()
    def run(
        self,
        chunk: StepChunk,
        optimizers: Sequence[Optimizer],
        schedules: Sequence[LRScheduler],
        progress: Callable[[int], float],
    ) -> Float[Tensor, "steps *r"]:
        """Takes one optimizer step of every learner for each batch of a chunk.

        Args:
            chunk: the batches. With several learners, the second axis is the learner.
            optimizers: one per learner, over its trainable parameters.
            schedules: learning rate schedules, stepped after every optimizer step. Empty for
                constant rates.
            progress: the completed fraction of the phase at step 0, 1, ... of the chunk.

        Returns:
            The losses with the penalty, on the samples of this process.
        """
        gradients, parameters = self._prepare(chunk)
        take_step = self._stepper(optimizers)
        variance = self._variance_of(chunk)
        losses = chunk.labels.new_empty(chunk.labels.shape[:-1])
        for step, (x, y) in enumerate(zip(*chunk, strict=True)):
            loss, slope = self.objectives[0].loss_and_slope(
                gradients.forward(x), y, progress(step), variance
            )
            gradients.backward(slope)
            if self._share is not None:
                self._share(parameters.gradients)
            losses[step] = loss
            if self._is_regularized:
                losses[step] += self._add_penalty(parameters)
            self.clipping.apply(parameters.gradients)
            take_step()
            for schedule in schedules:
                schedule.step()
        if self._rows is not None:
            self._rows.hand_back()
        return losses

    def _prepare(self, chunk: StepChunk) -> tuple[DenseGradients, FlatParameters]:
        """Buffers for the batch size and the trainable layers."""
        if self._parameters is None or not self._parameters.is_current():
            self._parameters, self._built_for = FlatParameters(self.networks), None
        leader = self.networks[0]
        trained = tuple(parameter.requires_grad for parameter in leader.parameters())
        num_samples = chunk.labels.shape[-1]
        wanted = (num_samples, leader.active_depth, trained)
        if self._gradients is None or self._built_for != wanted:
            self._gradients = DenseGradients(self._parameters, num_samples)
            self._built_for, self._rows = wanted, None
        self._parameters.attach()
        return self._gradients, self._parameters

    def _stepper(self, optimizers: Sequence[Optimizer]) -> Callable[[], object]:
        if not self._many:
            _use_fused_kernels(optimizers[0])
            if not _is_fused_adam(optimizers[0]):
                return optimizers[0].step
        if self._rows is None or not self._rows.is_current(optimizers):
            assert self._parameters is not None
            self._rows = RowOptimizer(optimizers, self._parameters)
        return self._rows.step

    def _variance_of(self, chunk: StepChunk) -> float | Tensor:
        """Var(y) of every learner. It is read here because a checkpoint may replace the target."""
        variances = [objective.variance for objective in self.objectives]
        return chunk.labels.new_tensor(variances).unsqueeze(1) if self._many else variances[0]

    def _add_penalty(self, parameters: FlatParameters) -> Tensor:
        """Adds 2 lambda_l V_l to the gradients and returns sum_l lambda_l |V_l|^2."""
        weights = parameters.stacked(parameters.values).weights
        slots = parameters.stacked(parameters.gradients).weights
        total = weights[0].new_zeros(())
        for level, layer in enumerate(self.networks[0].active_layers()):
            by_learner = weights[0].new_tensor([each[level] for each in self._coefficients])
            coefficient = by_learner if self._many else by_learner[0]
            total = total + coefficient * weights[level].square().sum((-2, -1))
            if layer.weight.requires_grad:
                slots[level].addcmul_(weights[level], coefficient[..., None, None], value=2)
        return total


class InTurn:
    """Takes the steps of several learners, one learner after the other for each chunk.

    This is faster than shared operations if the features of one batch fill the cache of a core.

    Args:
        paths: one per learner.
    """

    def __init__(self, paths: Sequence[FastPath]) -> None:
        self.paths = list(paths)

    def run(
        self,
        chunk: StepChunk,
        optimizers: Sequence[Optimizer],
        schedules: Sequence[LRScheduler],
        progress: Callable[[int], float],
    ) -> Float[Tensor, "steps r"]:
        """Takes one optimizer step of every learner for each batch of a chunk; see `FastPath.run`.

        Args:
            chunk: the batches. The second axis is the learner.
            optimizers: one per learner, over its trainable parameters.
            schedules: learning rate schedules. Empty for constant rates.
            progress: the completed fraction of the phase at step 0, 1, ... of the chunk.

        Returns:
            The losses with the penalty.
        """
        losses = [
            path.run(
                StepChunk(chunk.inputs[:, number], chunk.labels[:, number]),
                optimizers[number : number + 1],
                schedules[number : number + 1],
                progress,
            )
            for number, path in enumerate(self.paths)
        ]
        return torch.stack(losses, dim=1)


def path_of(
    networks: Sequence[DenseNet],
    objectives: Sequence[Objective],
    *,
    regularization: Sequence[Sequence[float]],
    clipping: Clipping,
    batch_size: int,
) -> FastPath | InTurn:
    """Chooses the faster way to train several learners in one process.

    Args:
        networks: the learners, all of the same shape.
        objectives: the objective of each learner.
        regularization: lambda for each learner, one number per layer.
        clipping: gradient clipping of each learner.
        batch_size: batch size of each learner.

    Returns:
        `FastPath` for all learners, or `InTurn`.
    """
    if _gains_from_sharing(networks[0], batch_size):
        return FastPath(networks, objectives, regularization=regularization, clipping=clipping)
    return InTurn([
        FastPath([network], [objective], regularization=[coefficients], clipping=clipping)
        for network, objective, coefficients in zip(
            networks, objectives, regularization, strict=True
        )
    ])


def _gains_from_sharing(network: DenseNet, batch_size: int) -> bool:
    """Whether sharing operations saves time. This is always the case on a GPU."""
    if network.constant.device.type != "cpu":
        return True
    neurons = sum(layer.width for layer in network.dense_layers())
    numbers = batch_size * (network.input_dim + neurons)
    most = _MOST_ON_ONE_THREAD if torch.get_num_threads() == 1 else _MOST_ON_SEVERAL
    return numbers * network.constant.element_size() <= most


def _is_fused_adam(optimizer: Optimizer) -> bool:
    """Whether the fused kernel can update a whole row, which is cheaper than `optimizer.step`."""
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
        return False
    fused = all(group["fused"] for group in optimizer.param_groups)
    return fused and why_not_in_rows([optimizer]) is None


def _use_fused_kernels(optimizer: Optimizer) -> None:
    """Enables fused kernels unless the user chose otherwise."""
    if type(optimizer) not in _FUSED:
        return
    for group in optimizer.param_groups:
        chosen = group.get("fused") is not None or group.get("foreach") is not None
        if not (chosen or group.get("differentiable") or group.get("capturable")):
            group["fused"] = True
            for parameter in group["params"]:  # the plain path keeps the count on the CPU
                state = optimizer.state.get(parameter, {})
                if isinstance(state.get("step"), Tensor):
                    state["step"] = state["step"].to(parameter.device, torch.float32)
