"""The Lightning module: a network, its objective, and the optimizer that it is given."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, TypeVar

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from bfc_lightning.data import HierarchicalData
from bfc_lightning.fast_path import Clipping, FastPath, InTurn, why_not_fast
from bfc_lightning.labels import Labels
from bfc_lightning.linearized import LinearizedDenseNet
from bfc_lightning.networks import Activation, DenseNet
from bfc_lightning.objectives import objective_for, weight_penalty
from bfc_lightning.schedules import OneCycle, make_schedule
from bfc_lightning.schemes import Phase
from bfc_lightning.targets import Target
from bfc_lightning.types import Batch, StepChunk

# A short memory for squared gradients: they fall by orders of magnitude within a run.
default_optimizer = functools.partial(torch.optim.Adam, lr=7e-3, betas=(0.9, 0.95))

PHASE_KEY = "phase"
INIT_SCALE = 0.1

T = TypeVar("T", int, float)
LRSchedulerCallable = Callable[[torch.optim.Optimizer], LRScheduler]


class HierarchicalLearner(LightningModule):
    """An over-parameterized DenseNet that learns a target by SGD on all layers at once.

    Args:
        target: G; the learner takes its dimension, depth and level scales from it.
        labels: regression or classification.
        width: m, neurons of every layer, or one number a layer.
        depth: layers of the learner; the target's where not given. 1 is the two-layer baseline.
        activation: sigma, a class or function by import path, e.g. `torch.nn.ReLU`; the square
            where not given.
        positive_readout: whether the readout v of every layer is initialized to +1, whatever the
            signs of the target; otherwise half of it to +1 and half to -1.
        init_scale: by which the initial hidden weights are multiplied; where not given, 0.1 for a
            learner that is trained, and 1 for a linearized one and for rivals that are kernels of
            the initialization.
        train_readout: whether the readout v of every layer is trained, or stays at its signs.
        linear_readout: whether the learner has a linear term <u, x>; classification needs it.
        linearized: whether the learner is replaced by its first-order expansion at the start, which
            has a fixed tangent kernel and whose features do not move.
        regularization: lambda, the weight of sum_j |V_{l,j}|^2, one number or one a layer.
        temperature: of the logit, in units of the target's standard deviation; classification only.
        final_temperature: to which the temperature falls geometrically over the run, or over each
            phase of a scheme; it stays where not given.
        optimizer: any optimizer class of PyTorch's; SGD without momentum works, too.
        lr_scheduler: any schedule that steps with the optimizer; a length left open is that of the
            run, or of each phase of a training scheme. `null` for a constant rate.
        seed: of the start. The command line derives it from the run's seed; 0 where nobody gives
            one.
        num_replicas: how many seeds `bfc fit` trains in one process, each with a target, start and
            samples of its own, with the run's seed and the ones after it; this learner is one of
            them. `replica_overrides` lets them differ in more.

    Raises:
        ValueError: if a list has not one number a layer, or a number is out of range.
    """

    def __init__(
        self,
        target: Target,
        labels: Labels,
        width: int | list[int] = 128,
        depth: int | None = None,
        activation: Activation | None = None,
        positive_readout: bool = False,
        init_scale: float | None = None,
        train_readout: bool = True,
        linear_readout: bool = False,
        linearized: bool = False,
        regularization: float | list[float] = 0.0,
        temperature: float = 0.25,
        final_temperature: float | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = OneCycle,
        seed: int | None = None,
        num_replicas: int = 1,
    ) -> None:
        super().__init__()
        if num_replicas < 1:
            raise ValueError(f"num_replicas must be at least 1, got {num_replicas}.")
        depth = target.depth if depth is None else depth
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}.")
        self.objective = objective_for(
            target, labels, temperature=temperature, final_temperature=final_temperature
        )
        self.regularization = _per_layer("regularization", regularization, depth)
        if min(self.regularization) < 0:
            raise ValueError(f"regularization must be at least 0, got {regularization}.")
        if linearized and any(self.regularization):
            raise ValueError(
                f"regularization must be 0 for a linearized learner, got {regularization}."
            )
        if init_scale is None:
            init_scale = 1.0 if linearized else INIT_SCALE
        self.network = (LinearizedDenseNet if linearized else DenseNet)(
            target.input_dim,
            _per_layer("width", width, depth),
            level_scales=target.level_scales,
            activation=activation,
            positive_readout=positive_readout,
            init_scale=init_scale,
            train_readout=train_readout,
            linear_readout=linear_readout,
            seed=0 if seed is None else seed,
        )
        self.phase: Phase | None = None
        self.fast_path: FastPath | None = None
        self.make_optimizer = optimizer
        self.make_schedule = lr_scheduler
        self.score = MeanMetric(nan_strategy="disable")  # the others hide a diverged learner
        self.evaluation_loss = MeanMetric(nan_strategy="disable")

    @property
    def score_key(self) -> str:
        """The metric that says how good the learner is: `val/nmse` or `val/error`."""
        return f"val/{self.objective.score_name}"

    def forward(self, x: Tensor) -> Tensor:
        """f(x)."""
        output: Tensor = self.network(x)
        return output

    def why_not_fast(self) -> str | None:
        """A few words on why the fast training path cannot train this learner; None if it can."""
        return why_not_fast(self.network, self.make_optimizer(list(self.parameters())))

    def use_fast_path(
        self, clipping: Clipping, share: Callable[[Tensor], None] | None = None
    ) -> None:
        """Trains with gradients by hand, several steps at a time; see `FastPath`.

        It takes a step for each batch, or, where the data module hands out chunks, many at once.

        Args:
            clipping: of the gradients; the Trainer cannot clip what it does not compute.
            share: of the gradients with other processes, where there are any.
        """
        assert isinstance(self.network, DenseNet)
        self.automatic_optimization = False
        self.fast_path = FastPath(
            [self.network],
            [self.objective],
            regularization=[self.regularization],
            clipping=clipping,
            share=share,
        )

    def training_step(
        self, batch: Batch | Iterable[StepChunk], batch_index: int
    ) -> Tensor | dict[str, Any]:
        """The loss of a batch, penalty included; on the fast path those of the steps it takes."""
        if self.fast_path is not None and not isinstance(batch, Batch):
            return {"loss": take_steps(self, self.fast_path, batch, self.progress)}
        assert isinstance(batch, Batch)
        if self.fast_path is not None:
            chunk = StepChunk(batch.inputs.unsqueeze(0), batch.labels.unsqueeze(0))
            return {"loss": take_steps(self, self.fast_path, [chunk], self.progress)[0]}
        if self.phase is not None and self.phase.taught is not None:
            data: HierarchicalData = self.trainer.datamodule  # type: ignore[attr-defined]
            batch = data.truncate_labels(batch, self.phase.taught)
        loss, _ = self.shared_step(batch, self.progress(self.trainer.global_step))
        if any(self.regularization):
            loss = loss + weight_penalty(self.network, self.regularization)
        return loss

    def progress(self, step: int) -> float:
        """The part of the phase, or of the run, that is done after `step` optimizer steps."""
        return self.phase.progress(step) if self.phase else step / self.trainer.max_steps

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Adds a batch to `val/loss` and the score."""
        self._evaluation_step(batch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Adds a batch to `test/loss` and the score."""
        self._evaluation_step(batch)

    def on_validation_epoch_end(self) -> None:
        """Makes `val/loss` and the score known."""
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Makes `test/loss` and the score known."""
        self._log_evaluation("test")

    def predict_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        """Inputs, noise-free targets and predictions of a batch."""
        return {
            "inputs": batch.inputs,
            "targets": batch.signal,
            "predictions": self.network.evaluate(batch.inputs),
        }

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over all trainable parameters, and the schedule over the phase."""
        return self.build_optimizer(self.phase.length if self.phase else self.trainer.max_steps)

    def enter_phase(self, phase: Phase) -> None:
        """Lets the layers of a phase take part, and gradients reach those that it trains.

        Args:
            phase: of the training scheme; without one, all layers train all through the run.
        """
        self.phase = phase
        self.network.active_depth = phase.depth
        self.network.cut = phase.cut
        self.network.train_layers(phase.trained)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the phase: weights alone do not say which layers are part of f.

        Args:
            checkpoint: changed in place.
        """
        checkpoint[PHASE_KEY] = None if self.phase is None else asdict(self.phase)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes back to the phase in which the checkpoint was saved; those of format 1 have none.

        Args:
            checkpoint: what `on_save_checkpoint` has seen.
        """
        phase = checkpoint.get(PHASE_KEY)
        if phase is not None:
            self.enter_phase(Phase(**phase))
        if not self.automatic_optimization:
            _count_stored_steps(checkpoint)

    def build_optimizer(self, num_steps: int) -> OptimizerLRScheduler:
        """The optimizer and its schedule for a phase of `num_steps` optimizer steps.

        Args:
            num_steps: length of the phase.

        Returns:
            What Lightning's `configure_optimizers` returns.

        Raises:
            ValueError: if the phase has a factor for the learning rate that the schedule ignores.
        """
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = self.make_optimizer(trainable)
        if self.phase is not None and self.phase.lr_factor != 1:
            for group in optimizer.param_groups:
                group["lr"] *= self.phase.lr_factor
        if self.make_schedule is None:
            return optimizer
        rates = [group["lr"] for group in optimizer.param_groups]
        schedule = make_schedule(self.make_schedule, optimizer, total_steps=num_steps)
        if self.phase is not None and self.phase.lr_factor != 1 and schedule.base_lrs != rates:
            raise ValueError(
                "scheme.lr_factors needs a schedule that multiplies the optimizer's learning rate, "
                f"got {type(schedule).__name__}, which sets its own."
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def shared_step(self, batch: Batch, progress: float = 1.0) -> tuple[Tensor, Tensor]:
        """The loss of a batch without penalty, and the predictions.

        Args:
            batch: the samples.
            progress: the part of the phase that is done.

        Returns:
            A scalar, and f(x).
        """
        is_trained = torch.is_grad_enabled()
        prediction = self(batch.inputs) if is_trained else self.network.evaluate(batch.inputs)
        return self.objective.loss(prediction, batch, progress), prediction

    def _evaluation_step(self, batch: Batch) -> None:
        loss, prediction = self.shared_step(batch)
        size = len(batch.labels)
        self.score.update(self.objective.score(prediction, batch), weight=size)
        self.evaluation_loss.update(loss, weight=size)

    def _log_evaluation(self, split: str) -> None:
        """Once at the end: Lightning takes longer to log a batch than to score it.

        A callback writes them to the loggers: Lightning would count the step one too low.
        """
        self.log(f"{split}/{self.objective.score_name}", self.score, logger=False)
        self.log(f"{split}/loss", self.evaluation_loss, logger=False)


def take_steps(
    module: LightningModule,
    path: FastPath | InTurn,
    chunks: Iterable[StepChunk],
    progress: Callable[[int], float],
) -> Tensor:
    """Takes the steps of some chunks, and tells Lightning.

    Args:
        module: whose `training_step` this is.
        path: of its networks.
        chunks: the batches.
        progress: the part of the phase done after so many optimizer steps of the run.

    Returns:
        The losses.
    """
    step = module.trainer.global_step
    optimizers = _as_list(module.optimizers(use_pl_optimizer=False))
    schedules = _as_list(module.lr_schedulers())
    losses: list[Tensor] = []
    for chunk in chunks:
        losses.append(
            path.run(chunk, optimizers, schedules, functools.partial(_later, progress, step))
        )
        step += len(losses[-1])
    taken = torch.cat(losses)
    count_steps(module.trainer, len(taken))
    return taken


def _later(progress: Callable[[int], float], step: int, offset: int) -> float:
    return progress(step + offset)


def _as_list(parts: Any) -> list[Any]:  # noqa: ANN401, Lightning's unions
    if parts is None:
        return []
    return parts if isinstance(parts, list) else [parts]


def count_steps(trainer: Trainer, steps: int) -> None:
    """Tells Lightning's loop of optimizer steps that were taken within one training step.

    `global_step` counts optimizer steps on either path, and the loop's batches are optimizer steps,
    so that intervals mean the same and a checkpoint of one path can go on on the other.

    Args:
        trainer: in the middle of `training_step`, of which the loop itself counts one batch.
        steps: how many were taken.
    """
    loop = trainer.fit_loop.epoch_loop
    taken = [
        loop.manual_optimization.optim_step_progress,
        loop.automatic_optimization.optim_progress.optimizer.step,
    ]
    for progress in taken:
        for counter in (progress.total, progress.current):
            counter.ready += steps
            counter.completed += steps
    for counter in (loop.batch_progress.total, loop.batch_progress.current):
        for stage in ("ready", "started", "processed", "completed"):
            setattr(counter, stage, getattr(counter, stage) + steps - 1)
    loop._batches_that_stepped += steps - 1


def _count_stored_steps(checkpoint: dict[str, Any]) -> None:
    """Lets a checkpoint count its steps where the fast path looks for them.

    The plain path counts them in one place, `count_steps` in both. Lightning restores the counters
    only later, but callbacks ask for `global_step` before the first batch.
    """
    if "loops" in checkpoint:
        counters = checkpoint["loops"]["fit_loop"]
        taken = counters["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
        counters["epoch_loop.manual_optimization.optim_step_progress"]["total"] = dict(
            taken["total"]
        )


def _per_layer(name: str, value: T | list[T], depth: int) -> list[T]:
    """One value a layer, from one value or a list.

    Raises:
        ValueError: if the list has another length.
    """
    if not isinstance(value, list):
        return [value] * depth
    if len(value) != depth:
        raise ValueError(
            f"{name} must be one number or one for each of {depth} layers, got {value}."
        )
    return list(value)
