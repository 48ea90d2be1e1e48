"""The Lightning module: a network, its objective and its optimizer."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from bfc_lightning.data import HierarchicalData
from bfc_lightning.distilled import DistilledNet
from bfc_lightning.distilled_settings import Distilled
from bfc_lightning.formulas import formula_of
from bfc_lightning.labels import Labels, Regression
from bfc_lightning.learners import Learner, changes_buffers
from bfc_lightning.linearized import LinearizedDenseNet
from bfc_lightning.measures.battery import DENSE
from bfc_lightning.measures.distillation import DISTILLED
from bfc_lightning.measures.vectors import VECTOR
from bfc_lightning.networks import Activation, DenseNet
from bfc_lightning.objectives import objective_for
from bfc_lightning.private import count_stored_steps
from bfc_lightning.residual import RELU_NETWORKS, ReLUNetworkName
from bfc_lightning.run_module import RunModule, take_steps
from bfc_lightning.schedules import OneCycle, make_schedule
from bfc_lightning.schemes import Phase
from bfc_lightning.targets import PaperTarget, Target
from bfc_lightning.types import Batch, StepChunk, as_integer, per_layer

# A small beta_2, since squared gradients decay by orders of magnitude during a run.
default_optimizer = functools.partial(torch.optim.Adam, lr=7e-3, betas=(0.9, 0.95))

PHASE_KEY = "phase"
INIT_SCALE = 0.1

LRSchedulerCallable = Callable[[torch.optim.Optimizer], LRScheduler]


class HierarchicalLearner(RunModule):
    """A learner, an overparameterized DenseNet by default, with its objective and its optimizer.

    Args:
        target: G, which provides the input dimension, the depth and the level scales.
        labels: regression or classification.
        width: m, neurons per layer, one number or one per layer.
        depth: number of layers. Defaults to the depth of the target. A depth of 1 is the two-layer
            baseline.
        activation: sigma, a class or function by import path, e.g. `torch.nn.ReLU`. Defaults to the
            square.
        positive_readout: whether the readout v of every layer is initialized to +1, independent of
            the signs of the target. By default, half of the entries are initialized to +1 and half
            to -1.
        init_scale: factor of the initial hidden weights. Defaults to 0.1, or to 1 if the learner is
            linearized.
        train_readout: whether the readout v of every layer is trained. Otherwise it keeps its
            initial signs.
        linear_readout: whether the learner has a linear term <u, x>. Classification requires it.
        linearized: whether the learner is replaced by its first-order expansion at initialization,
            whose tangent kernel and features are fixed.
        distillation: replaces the DenseNet by a learner with distillation, see `Distilled`. It
            requires a `PaperTarget` and the training scheme `Distillation`. `width` is then that of
            W. Other settings of the DenseNet must keep their defaults.
        relu_network: replaces the DenseNet by a ReLU network with vector outputs and a fixed random
            readout: `residual`, see `ResidualNet`, or `chain`, see `ChainNet`. Required if the
            target has vector values. `init_scale` is then 1 by default. Other settings of the
            DenseNet but width and depth must keep their defaults.
        regularization: lambda, the coefficient of sum_j |V_{l,j}|^2, one number or one per layer.
        temperature: temperature of the logit in units of the target's standard deviation, for
            classification.
        final_temperature: temperature at the end of the run, or of each phase of a training scheme.
            The temperature decays geometrically. Defaults to `temperature`.
        optimizer: any PyTorch optimizer class.
        lr_scheduler: any schedule that is stepped after every optimizer step. `total_steps`
            defaults to the length of the run, or of each phase of a training scheme; `T_max` and
            `total_iters` of PyTorch's schedules do not. `null` for a constant learning rate.
        seed: seed of the initialization. The command line derives it from the run's seed. Defaults
            to 0.
        num_replicas: number of seeds that `bfc fit` trains in one process. Each replica has its own
            target, initialization and samples, from consecutive seeds that start at the run's seed.

    Raises:
        ValueError: if a list does not have one number per layer, or a number is out of range.
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
        distillation: Distilled | None = None,
        relu_network: ReLUNetworkName | None = None,
        regularization: float | list[float] = 0.0,
        temperature: float = 0.25,
        final_temperature: float | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = OneCycle,
        seed: int | None = None,
        num_replicas: int = 1,
    ) -> None:
        super().__init__()
        as_integer(num_replicas, "num_replicas", least=1)
        depth = as_integer(target.depth if depth is None else depth, "depth", least=1)
        self.objective = objective_for(
            target, labels, temperature=temperature, final_temperature=final_temperature
        )
        seed = 0 if seed is None else seed
        self.network: Learner
        self.battery = DENSE
        is_default = {
            "activation": activation is None,
            "positive_readout": not positive_readout,
            "train_readout": train_readout,
            "linear_readout": not linear_readout,
            "linearized": not linearized,
            "regularization": not regularization,
        }
        if relu_network is not None:
            _check_defaults("relu_network", distillation=distillation is None, **is_default)
            self.network = RELU_NETWORKS[relu_network](
                target.input_dim,
                target.output_shape,
                width=width,
                depth=depth,
                init_scale=1.0 if init_scale is None else init_scale,
                seed=seed,
            )
            self.battery = VECTOR
        elif target.output_shape:
            raise ValueError("relu_network must be given if the target has vector values.")
        elif distillation is not None:
            is_default |= {"depth": depth == target.depth, "init_scale": init_scale is None}
            _check_defaults("distillation", **is_default)
            self.network = _distilled_net(target, labels, distillation, width=width, seed=seed)
            self.battery = DISTILLED
        else:
            decay = per_layer(regularization, "regularization", depth)
            if min(decay) < 0:
                raise ValueError(f"regularization must be at least 0, got {regularization}.")
            if linearized and any(decay):
                raise ValueError(
                    f"regularization must be 0 for a linearized learner, got {regularization}."
                )
            if init_scale is None:
                init_scale = 1.0 if linearized else INIT_SCALE
            self.network = (LinearizedDenseNet if linearized else DenseNet)(
                target.input_dim,
                per_layer(width, "width", depth),
                level_scales=target.level_scales,
                activation=activation,
                positive_readout=positive_readout,
                init_scale=init_scale,
                train_readout=train_readout,
                linear_readout=linear_readout,
                regularization=decay,
                seed=seed,
            )
        self.phase: Phase | None = None
        self.make_optimizer = optimizer
        self.make_schedule = lr_scheduler
        self.score = MeanMetric(nan_strategy="disable")  # keeps NaN
        self.evaluation_loss = MeanMetric(nan_strategy="disable")

    @property
    def each(self) -> list["HierarchicalLearner"]:
        """The learner itself."""
        return [self]

    def forward(self, x: Tensor) -> Tensor:
        """f(x)."""
        output: Tensor = self.network(x)
        return output

    def evaluate(self, x: Tensor) -> Tensor:
        """f(x) without autograd, in the precision of the parameters even if training mixes two."""
        with torch.autocast(x.device.type, enabled=False):
            return self.network.evaluate(x)

    def training_step(
        self, batch: Batch | Iterable[StepChunk], batch_index: int
    ) -> Tensor | dict[str, Any]:
        """The loss of a batch with the penalty, or the losses of all steps of an engine."""
        if self.engine is not None and not isinstance(batch, Batch):
            return {"loss": take_steps(self, self.engine, batch)}
        assert isinstance(batch, Batch)
        if self.engine is not None:
            chunk = StepChunk(batch.inputs.unsqueeze(0), batch.labels.unsqueeze(0))
            return {"loss": take_steps(self, self.engine, [chunk])[0]}
        if self.phase is not None and self.phase.taught is not None:
            data: HierarchicalData = self.trainer.datamodule  # type: ignore[attr-defined]
            labels = data.truncate_labels(batch.inputs, batch.labels, self.phase.taught)
            batch = batch._replace(labels=labels)
        loss, _ = self.shared_step(batch, self.progress(self.trainer.global_step))
        if self.network.is_penalized:
            loss = loss + self.network.weight_penalty(self.network.tensors())
        return loss

    def progress(self, step: int) -> float:
        """The completed fraction of the phase, or of the run, after `step` optimizer steps."""
        return self.phase.progress(step) if self.phase else step / self.trainer.max_steps

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Adds a batch to the loss and the score."""
        loss, prediction = self.shared_step(batch)
        size = len(batch.labels)
        self.score.update(self.objective.score(prediction, batch), weight=size)
        self.evaluation_loss.update(loss, weight=size)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Logs `val/loss` and the score."""
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Logs `test/loss` and the score."""
        self._log_evaluation("test")

    def predict_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        """Inputs, noise-free targets and predictions of a batch."""
        return {
            "inputs": batch.inputs,
            "targets": batch.signal,
            "predictions": self.evaluate(batch.inputs),
        }

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer of all trainable parameters, and the schedule over the phase."""
        return self.build_optimizer(self.phase.length if self.phase else self.trainer.max_steps)

    def enter_phase(self, phase: Phase) -> None:
        """Activates the layers of a phase and enables gradients for the layers that it trains."""
        self.phase = phase
        self.network.active_depth = phase.depth
        self.network.distilled_depth = phase.distilled
        self.network.cut = phase.cut
        self.network.train_layers(phase.trained)

    def begin_phase(self, phase: Phase) -> None:
        """Enters a phase during training and starts the narrow weights that it adds."""
        before = 1 if self.phase is None else max(1, self.phase.distilled)
        self.enter_phase(phase)
        for level in range(before + 1, phase.distilled + 1):
            self.network.distill(level)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the phase, since the weights do not determine which layers are active."""
        checkpoint[PHASE_KEY] = None if self.phase is None else asdict(self.phase)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the phase in which the checkpoint was saved."""
        if checkpoint[PHASE_KEY] is not None:
            self.enter_phase(Phase(**checkpoint[PHASE_KEY]))
        if not self.automatic_optimization:
            count_stored_steps(checkpoint)

    def build_optimizer(self, num_steps: int) -> OptimizerLRScheduler:
        """The optimizer and its schedule for a phase of `num_steps` optimizer steps.

        Raises:
            ValueError: if the phase scales the learning rate and the schedule ignores the factor.
        """
        is_open = self.phase is not None and self.phase.is_open
        trainable = [p for p in self.parameters() if p.requires_grad or is_open]
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
                "scheme.lr_factors requires a schedule that scales the optimizer's learning rate, "
                f"got {type(schedule).__name__}, which sets its own."
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def why_autograd(self, num_steps: int) -> str | None:
        """What of network, optimizer and schedule the other engines cannot do, or None.

        Their steps are pure functions, in which the learning rate alone changes from step to step.

        Args:
            num_steps: length of a schedule whose `total_steps` is not set.
        """
        if changes_buffers(self.network):
            return "the activation changes its own buffers"
        optimizer = self.make_optimizer(list(self.parameters()))
        try:
            formula = formula_of(optimizer)
        except ValueError as error:
            return str(error)
        if self.make_schedule is not None:
            schedule = make_schedule(self.make_schedule, optimizer, total_steps=num_steps)
            optimizer.step()  # without gradients, but PyTorch wants it before that of the schedule
            schedule.step()
            if formula_of(optimizer) != formula:
                name = type(schedule).__name__
                return (
                    f"{name} changes more than the learning rate; if that is the momentum, set "
                    "cycle_momentum: false"
                )
        return None

    def shared_step(self, batch: Batch, progress: float = 1.0) -> tuple[Tensor, Tensor]:
        """The loss of a batch without the penalty at a fraction of the phase, and f(x)."""
        is_trained = torch.is_grad_enabled()
        prediction = self(batch.inputs) if is_trained else self.evaluate(batch.inputs)
        [scale] = self.objective.scales([progress])
        return self.objective.loss_and_grad(prediction, batch.labels, scale)[0], prediction

    def _log_evaluation(self, split: str) -> None:
        """Logs once per evaluation, since logging a batch takes longer than scoring it.

        A callback passes the values to the loggers, because Lightning would log the step one too
        low.
        """
        metrics = {self.objective.score_name: self.score, "loss": self.evaluation_loss}
        values = {f"{split}/{name}": metric.compute() for name, metric in metrics.items()}
        for key, value in values.items():  # Lightning would copy a metric at each evaluation
            self.log(key, value, logger=False, sync_dist=True)
        for metric in metrics.values():
            metric.reset()
        self.scores = [{key: float(value) for key, value in values.items()}]


def _distilled_net(
    target: Target, labels: Labels, settings: Distilled, *, width: int | list[int], seed: int
) -> DistilledNet:
    """The learner with distillation for a target.

    Raises:
        ValueError: if the target has another first level, or the labels are classes.
    """
    if not isinstance(target, PaperTarget):
        raise ValueError(f"distillation requires a PaperTarget, got {type(target).__name__}.")
    if not target.has_positive_signs:
        raise ValueError("distillation requires target.signs: positive, got balanced.")
    if not isinstance(labels, Regression):
        raise ValueError("distillation requires regression, got labels that are classes.")
    if isinstance(width, list):
        raise ValueError(f"width must be one number with distillation, got {width}.")
    return DistilledNet(
        target.square_mean,
        target.sources,
        level_scales=target.level_scales[1:],
        width=width,
        settings=settings if settings.kappa else replace(settings, kappa=target.kappa),
        variance=float(labels.label_variance(target)),
        seed=seed,
    )


def _check_defaults(learner: str, **is_default: bool) -> None:
    """Checks that settings that another learner does not have keep their defaults.

    Raises:
        ValueError: if one has not.
    """
    for name, kept in is_default.items():
        if not kept:
            raise ValueError(f"{name} must keep its default with {learner}.")
