"""Carries out a training scheme, whose phases begin at steps or at thresholds."""

import math
import warnings
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from bfc_lightning.callbacks.loggers import KeepsState, log_rows
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
        self._initial: list[dict[str, Tensor]] = []
        self._anchors: list[list[Tensor]] = []  # the weights that lower layers are pulled to

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Enters the first phase before there is an optimizer; a checkpoint then loads its own."""
        for learner in as_run(pl_module).each:
            learner.enter_phase(self.phases[0])
        if any(phase.is_fresh for phase in self.phases):
            self._initial = [
                {name: value.detach().clone() for name, value in each.network.named_parameters()}
                for each in as_run(pl_module).each
            ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads which layers the optimizer of the phase leaves out."""
        learners = as_run(pl_module).each
        phase = learners[0].phase
        assert phase is not None
        self._frozen = self.scheme.frozen_at(phase.start)
        if self._anchors:  # of the checkpoint
            self._pull(learners, phase.pull)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Enters a phase or freezes layers if the next optimizer step belongs to them."""
        learners, step = as_run(pl_module).each, trainer.global_step
        if step == 0 and batch_idx == 0 and len(self.phases) > 1:
            log_rows(trainer, [self.scheme.logged(self.phases[0])] * len(learners))
        due = next((phase for phase in self.phases if phase.start <= step < phase.stop), None)
        if due is not None and due != learners[0].phase:
            self._enter(trainer, learners, due)
        frozen = self.scheme.frozen_at(step)
        if frozen != self._frozen:
            self._freeze(trainer, learners, frozen)
        if step in self.scheme.freeze.values():
            log_rows(trainer, [{"scheme/frozen_layers": len(frozen)}] * len(learners))

    def _enter(self, trainer: Trainer, learners: list[HierarchicalLearner], phase: Phase) -> None:
        before = learners[0].phase
        is_longer = before is not None and before.start == phase.start
        if phase.pull and before is not None and not is_longer:
            self._anchors = [each.network.weights_up_to(before.depth) for each in learners]
            self._pull(learners, phase.pull)
        for learner in learners:
            (learner.enter_phase if is_longer else learner.begin_phase)(phase)
        if is_longer:  # a resumed run with more steps keeps optimizer and schedule
            return
        if phase.is_fresh:
            for learner, initial in zip(learners, self._initial, strict=True):
                learner.network.restore_trained(initial)
        trainer.strategy.setup_optimizers(trainer)
        _reset_gradients(trainer)
        self._frozen = self.scheme.frozen_at(phase.start)
        log_rows(trainer, [self.scheme.logged(phase)] * len(learners))

    def _pull(self, learners: list[HierarchicalLearner], pull: float) -> None:
        for learner, weights in zip(learners, self._anchors, strict=True):
            assert isinstance(learner.network, DenseNet)  # the others are refused before
            learner.network.pull_towards(weights, pull)

    def _freeze(
        self, trainer: Trainer, learners: list[HierarchicalLearner], frozen: frozenset[int]
    ) -> None:
        for learner in learners:
            assert learner.phase is not None
            learner.network.train_layers(set(learner.phase.trained) - frozen)
        _reset_gradients(trainer)
        self._frozen = frozen


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
        self._last, self._limit = math.nan, "not fixed"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Enters the first stage before there is an optimizer; a checkpoint then loads its own."""
        as_run(pl_module).each[0].enter_phase(self.first)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the sample; keeps the length of a run that was resumed with more steps."""
        learner = as_run(pl_module).each[0]
        assert learner.phase is not None
        learner.phase = self.scheme.phase_of_stage(
            self.first, stage_of(learner.phase), learner.network.depth
        )
        data, parameter = trainer.datamodule, next(pl_module.parameters())  # type: ignore[attr-defined]
        size, where = self.thresholds.num_samples, (parameter.device, parameter.dtype)
        self._subset: tuple[Tensor, Tensor] = data.fixed_sample(size, *where)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Checks the objective if the next optimizer step follows a multiple of `check_every`."""
        step, begins_step = trainer.global_step, batch_idx % trainer.accumulate_grad_batches == 0
        if begins_step and step % self.thresholds.check_every == 0:
            self._check(trainer, as_run(pl_module).each[0], step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warns if a stage never began."""
        [learner] = as_run(pl_module).each
        network, phase = learner.network, learner.phase
        assert phase is not None
        stage = stage_of(phase) + 1
        if stage < num_stages(network.depth) and trainer.is_global_zero:
            warnings.warn(
                f"stage {stage_name(stage)} of scheme.thresholds never began: see scheme/objective "
                f"and scheme/threshold in metrics.csv, last {self._last:.3g} and {self._limit}.",
                stacklevel=1,
            )

    @torch.no_grad()
    def _check(self, trainer: Trainer, learner: HierarchicalLearner, step: int) -> None:
        network, phase = learner.network, learner.phase
        assert isinstance(network, DistilledNet)
        assert phase is not None
        value = objective_with_penalty(network, learner.objective, *self._subset)
        stage = stage_of(phase)
        self._history.append(value)
        self._last = value
        eps = network.settings.eps_0 * math.sqrt(float(network.decay_factor))
        if value < eps**2 / 4:
            network.decay_factor.div_(4)
        if self.thresholds.noise:
            random = generator(network.seed, "noise", step)
            network.add_noise(random, self.thresholds.noise_per_check)
        sizes: dict[str, Any] = {"scales": network.scales, "input_dim": network.input_dim}
        limit = self.thresholds.limit(stage, **sizes)
        row = {"scheme/objective": value, "scheme/eps_0": eps}
        if stage + 1 < num_stages(network.depth):
            if limit is not None:
                row["scheme/threshold"], self._limit = limit, f"{limit:.3g}"
            if self.thresholds.ends_stage(stage, self._history, **sizes):
                stage, self._history = stage + 1, []
                phase = self.scheme.phase_of_stage(phase, stage, network.depth)
                learner.begin_phase(phase)
                _reset_gradients(trainer)
                for optimizer in trainer.optimizers:
                    share_step_count(optimizer)
                log_rows(trainer, [self.scheme.logged(phase)])
        log_rows(trainer, [{**row, "scheme/stage": stage}])


def _reset_gradients(trainer: Trainer) -> None:
    """Drops all gradients; DDP decides anew which of them the processes share."""
    trainer.lightning_module.zero_grad(set_to_none=True)
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy.model = trainer.lightning_module
        trainer.strategy.configure_ddp()
