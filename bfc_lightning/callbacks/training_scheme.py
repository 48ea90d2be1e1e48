"""Carries out a training scheme: layers join or are frozen, optimizers start again."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from bfc_lightning.callbacks.loggers import log_metrics
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.run_module import RunModule
from bfc_lightning.schemes import Phase, Scheme


class TrainingScheme(Callback):
    """Enters each phase of a scheme just before its first optimizer step.

    A frozen layer has `requires_grad=False` and no gradient, so that no optimizer changes it or its
    state. Logs `scheme/active_layers` when a layer joins and `scheme/frozen_layers` when `freeze`
    acts.
    """

    def __init__(self, scheme: Scheme, phases: list[Phase]) -> None:
        self.scheme = scheme
        self.phases = phases
        self._frozen: frozenset[int] = frozenset()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Enters the first phase before there is an optimizer; a checkpoint then loads its own."""
        for learner in _learners(pl_module):
            learner.enter_phase(self.phases[0])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads which layers the optimizer of the phase leaves out."""
        phase = _learners(pl_module)[0].phase
        assert phase is not None
        self._frozen = self.scheme.frozen_at(phase.start)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Enters a phase or freezes layers if the next optimizer step belongs to them."""
        learners, step = _learners(pl_module), trainer.global_step
        if step == 0 and batch_idx == 0 and len(self.phases) > 1:
            log_metrics(trainer, self.scheme.logged(self.phases[0]))
        due = next((phase for phase in self.phases if phase.start <= step < phase.stop), None)
        if due is not None and due != learners[0].phase:
            self._enter(trainer, learners, due)
        frozen = self.scheme.frozen_at(step)
        if frozen != self._frozen:
            self._freeze(trainer, learners, frozen)
        if step in self.scheme.freeze.values():
            log_metrics(trainer, {"scheme/frozen_layers": len(frozen)})

    def _enter(self, trainer: Trainer, learners: list[HierarchicalLearner], phase: Phase) -> None:
        before = learners[0].phase
        is_longer = before is not None and before.start == phase.start
        for learner in learners:
            (learner.enter_phase if is_longer else learner.begin_phase)(phase)
        if is_longer:  # a resumed run with more steps keeps optimizer and schedule
            return
        trainer.lightning_module.zero_grad(set_to_none=True)
        trainer.strategy.setup_optimizers(trainer)
        share_gradients_anew(trainer)
        self._frozen = self.scheme.frozen_at(phase.start)
        log_metrics(trainer, self.scheme.logged(phase))

    def _freeze(
        self, trainer: Trainer, learners: list[HierarchicalLearner], frozen: frozenset[int]
    ) -> None:
        for learner in learners:
            assert learner.phase is not None
            learner.network.train_layers(set(learner.phase.trained) - frozen)
        trainer.lightning_module.zero_grad(set_to_none=True)
        share_gradients_anew(trainer)
        self._frozen = frozen


def share_gradients_anew(trainer: Trainer) -> None:
    """Wraps the model again: DDP decides once which gradients the processes share."""
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy.model = trainer.lightning_module
        trainer.strategy.configure_ddp()


def _learners(module: LightningModule) -> list[HierarchicalLearner]:
    assert isinstance(module, RunModule)
    return module.each
