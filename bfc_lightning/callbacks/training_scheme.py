"""Carries out a training scheme, whose phases begin at steps or at thresholds."""

import math
import warnings
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from bfc_lightning.callbacks.run_files import KeepsState, log_rows
from bfc_lightning.distillation import Distillation, Thresholds, num_stages, stage_name, stage_of
from bfc_lightning.distilled import DistilledNet
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.networks import DenseNet
from bfc_lightning.objectives import objective_with_penalty
from bfc_lightning.run_module import as_run
from bfc_lightning.schemes import Phase, Scheme
from bfc_lightning.seeds import generator
from bfc_lightning.stacked import share_step_count


def scheme_callback(scheme: Scheme, phases: list[Phase]) -> Callback:
    """The callback that carries out a scheme."""
    if isinstance(scheme, Distillation) and scheme.thresholds is not None:
        return TrainingStages(scheme, scheme.thresholds, phases)
    return TrainingScheme(scheme, phases)


class TrainingScheme(KeepsState, Callback):
    """Enters each phase of a scheme just before its first optimizer step.

    A frozen layer has `requires_grad=False` and no gradient, so that no optimizer changes it or its
    state. Logs `scheme/active_layers` when a layer joins and `scheme/frozen_layers` when `freeze`
    acts.
    """

    kept = ("_anchors",)

    def __init__(self, scheme: Scheme, phases: list[Phase]) -> None:
        self.scheme = scheme
        self.phases = phases
        self._frozen: frozenset[int] = frozenset()
        self._anchors: list[list[Tensor]] = []  # the weights that lower layers are pulled to

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Enters the first phase before there is an optimizer; a checkpoint then loads its own."""
        learners = as_run(pl_module).each
        for learner in learners:
            learner.enter_phase(self.phases[0])
        self._initial = [
            {name: value.detach().clone() for name, value in each.network.named_parameters()}
            for each in learners
            if any(phase.is_fresh for phase in self.phases)
        ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores what the phase of a checkpoint needs; logs the first phase of several."""
        learners = as_run(pl_module).each
        phase = _phase_of(learners[0])
        if self._anchors:  # of the checkpoint
            self._pull(learners, phase.pull)
        if trainer.global_step == 0 and len(self.phases) > 1:
            log_rows(trainer, [self.scheme.logged(phase)] * len(learners))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: object
    ) -> None:
        """Enters a phase or freezes layers if the next optimizer step belongs to them."""
        learners, step = as_run(pl_module).each, trainer.global_step
        for phase in self.phases:
            if phase.start == step and phase != learners[0].phase:  # otherwise it has begun
                self._begin(trainer, learners, phase)
        frozen = self.scheme.frozen_at(step)
        if frozen != self._frozen:
            self._frozen = frozen
            for learner in learners:
                learner.network.train_layers(set(_phase_of(learner).trained) - frozen)
            _reset_gradients(trainer)
        if step in self.scheme.freeze.values():
            log_rows(trainer, [{"scheme/frozen_layers": len(frozen)}] * len(learners))

    def _begin(self, trainer: Trainer, learners: list[HierarchicalLearner], phase: Phase) -> None:
        if phase.pull:
            depth = _phase_of(learners[0]).depth
            self._anchors = [each.network.weights_up_to(depth) for each in learners]
            self._pull(learners, phase.pull)
        for number, learner in enumerate(learners):
            learner.begin_phase(phase)
            if phase.is_fresh:
                learner.network.restore_trained(self._initial[number])
        trainer.strategy.setup_optimizers(trainer)
        _reset_gradients(trainer)
        log_rows(trainer, [self.scheme.logged(phase)] * len(learners))

    def _pull(self, learners: list[HierarchicalLearner], pull: float) -> None:
        for learner, weights in zip(learners, self._anchors, strict=True):
            assert isinstance(learner.network, DenseNet)  # the others are refused before
            learner.network.pull_towards(weights, pull)


class TrainingStages(KeepsState, Callback):
    """Checks the objective every `check_every` steps, and begins a stage when it is due.

    Logs `scheme/objective`, `scheme/threshold`, `scheme/eps_0` and `scheme/stage` at each check.
    """

    kept = ("_history",)

    def __init__(self, scheme: Distillation, thresholds: Thresholds, phases: list[Phase]) -> None:
        self.scheme = scheme
        self.thresholds = thresholds
        self.first = phases[0]
        self._history: list[float] = []  # the objective at the checks of the current stage

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Enters the first stage before there is an optimizer; a checkpoint then loads its own."""
        as_run(pl_module).each[0].enter_phase(self.first)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the sample."""
        parameter, data = next(pl_module.parameters()), trainer.datamodule  # type: ignore[attr-defined]
        self._subset: tuple[Tensor, Tensor] = data.fixed_sample(
            self.thresholds.num_samples, parameter.device, parameter.dtype
        )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Checks the objective if the next optimizer step follows a multiple of `check_every`."""
        begins_step = batch_idx % trainer.accumulate_grad_batches == 0
        if begins_step and trainer.global_step % self.thresholds.check_every == 0:
            self._check(trainer, as_run(pl_module).each[0])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warns if a stage never began."""
        [learner] = as_run(pl_module).each
        stage = stage_of(_phase_of(learner)) + 1
        if stage < num_stages(learner.network.depth) and trainer.is_global_zero:
            warnings.warn(
                f"stage {stage_name(stage)} of scheme.thresholds never began: see scheme/objective "
                "and scheme/threshold in metrics.csv.",
                stacklevel=1,
            )

    @torch.no_grad()
    def _check(self, trainer: Trainer, learner: HierarchicalLearner) -> None:
        network, phase = learner.network, _phase_of(learner)
        assert isinstance(network, DistilledNet)
        value = objective_with_penalty(network, learner.objective, *self._subset)
        self._history.append(value)
        eps = network.settings.eps_0 * math.sqrt(float(network.decay_factor))
        if value < eps**2 / 4:
            network.decay_factor.div_(4)
        if self.thresholds.noise:
            random = generator(network.seed, "noise", trainer.global_step)
            network.add_noise(random, self.thresholds.noise_per_check)
        stage = stage_of(phase)
        row = {"scheme/objective": value, "scheme/eps_0": eps, "scheme/stage": stage}
        if stage + 1 < num_stages(network.depth):
            sizes: dict[str, Any] = {"scales": network.scales, "input_dim": network.input_dim}
            limit = self.thresholds.limit(stage, **sizes)
            if limit is not None:
                row["scheme/threshold"] = limit
            if self.thresholds.ends_stage(stage, self._history, **sizes):
                self._history = []
                phase = self.scheme.phase_of_stage(phase, stage + 1, network.depth)
                learner.begin_phase(phase)
                _reset_gradients(trainer)
                for optimizer in trainer.optimizers:
                    share_step_count(optimizer)
                row |= self.scheme.logged(phase)
        log_rows(trainer, [row])


def _phase_of(learner: HierarchicalLearner) -> Phase:
    assert learner.phase is not None  # since `setup`
    return learner.phase


def _reset_gradients(trainer: Trainer) -> None:
    """Drops all gradients; DDP decides anew which of them the processes share."""
    trainer.lightning_module.zero_grad(set_to_none=True)
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy.model = trainer.lightning_module
        trainer.strategy.configure_ddp()
