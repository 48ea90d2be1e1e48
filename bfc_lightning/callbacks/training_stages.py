"""Carries out a scheme whose stages end at thresholds of the objective on a fixed sample."""

import math
import warnings
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from bfc_lightning.callbacks.loggers import log_metrics
from bfc_lightning.callbacks.training_scheme import share_gradients_anew
from bfc_lightning.distillation import Distillation, Thresholds, num_stages, stage_name, stage_of
from bfc_lightning.distilled import DistilledNet
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.objectives import objective_with_penalty
from bfc_lightning.run_module import learners_of
from bfc_lightning.schemes import Phase
from bfc_lightning.seeds import generator
from bfc_lightning.stacked import share_step_count


class TrainingStages(Callback):
    """Checks the objective every `check_every` steps, and begins a stage when it is due.

    Logs `scheme/objective`, `scheme/threshold`, `scheme/eps_0` and `scheme/stage` at each check.
    """

    def __init__(self, scheme: Distillation, thresholds: Thresholds, phases: list[Phase]) -> None:
        self.scheme = scheme
        self.thresholds = thresholds
        self.first = phases[0]
        self._history: list[float] = []
        self._checked = -1
        self._last, self._limit = math.nan, "not fixed"
        self._subset: tuple[Tensor, Tensor] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Enters the first stage before there is an optimizer; a checkpoint then loads its own."""
        learners_of(pl_module)[0].enter_phase(self.first)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the sample; keeps the length of a run that was resumed with more steps."""
        learner = learners_of(pl_module)[0]
        assert learner.phase is not None
        learner.phase = self.scheme.phase_of_stage(
            self.first, stage_of(learner.phase), learner.network.depth
        )
        data, parameter = trainer.datamodule, next(pl_module.parameters())  # type: ignore[attr-defined]
        self._subset = data.fixed_sample(
            self.thresholds.num_samples, parameter.device, parameter.dtype
        )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Checks the objective if the next optimizer step follows a multiple of `check_every`."""
        step = trainer.global_step
        if step % self.thresholds.check_every == 0 and step != self._checked:
            self._checked = step
            self._check(trainer, learners_of(pl_module)[0], step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warns if a stage never began."""
        [learner] = learners_of(pl_module)
        network, phase = learner.network, learner.phase
        assert phase is not None
        stage = stage_of(phase) + 1
        if stage < num_stages(network.depth) and trainer.is_global_zero:
            warnings.warn(
                f"stage {stage_name(stage)} of scheme.thresholds never began: see scheme/objective "
                f"and scheme/threshold in metrics.csv, last {self._last:.3g} and {self._limit}.",
                stacklevel=1,
            )

    def state_dict(self) -> dict[str, Any]:
        """The objective at the checks of the current stage."""
        return {"history": list(self._history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it."""
        self._history = list(state_dict["history"])

    @torch.no_grad()
    def _check(self, trainer: Trainer, learner: HierarchicalLearner, step: int) -> None:
        network, phase = learner.network, learner.phase
        assert isinstance(network, DistilledNet)
        assert phase is not None
        assert self._subset is not None
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
                stage += 1
                phase = self.scheme.phase_of_stage(phase, stage, network.depth)
                self._begin(trainer, learner, phase)
        log_metrics(trainer, {**row, "scheme/stage": stage})

    def _begin(self, trainer: Trainer, learner: HierarchicalLearner, phase: Phase) -> None:
        self._history = []
        learner.begin_phase(phase)
        trainer.lightning_module.zero_grad(set_to_none=True)
        for optimizer in trainer.optimizers:
            share_step_count(optimizer)
        share_gradients_anew(trainer)
        log_metrics(trainer, self.scheme.logged(phase))
