"""Carries out a training scheme: layers join or are frozen, optimizers start again."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from bfc_lightning.callbacks.loggers import log_metrics
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.networks import DenseNet
from bfc_lightning.run_module import learners_of
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
        self._initial: list[dict[str, Tensor]] = []
        self._anchors: list[list[Tensor]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Enters the first phase before there is an optimizer; a checkpoint then loads its own."""
        for learner in learners_of(pl_module):
            learner.enter_phase(self.phases[0])
        if any(phase.is_fresh for phase in self.phases):
            self._initial = [
                {name: value.detach().clone() for name, value in each.network.named_parameters()}
                for each in learners_of(pl_module)
            ]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads which layers the optimizer of the phase leaves out."""
        learners = learners_of(pl_module)
        phase = learners[0].phase
        assert phase is not None
        self._frozen = self.scheme.frozen_at(phase.start)
        if self._anchors:  # of the checkpoint
            self._pull(learners, phase.pull)

    def state_dict(self) -> dict[str, Any]:
        """The weights that lower layers are pulled to, if any."""
        return {"anchors": self._anchors} if self._anchors else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self._anchors = state_dict["anchors"]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Enters a phase or freezes layers if the next optimizer step belongs to them."""
        learners, step = learners_of(pl_module), trainer.global_step
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
        trainer.lightning_module.zero_grad(set_to_none=True)
        trainer.strategy.setup_optimizers(trainer)
        share_gradients_anew(trainer)
        self._frozen = self.scheme.frozen_at(phase.start)
        log_metrics(trainer, self.scheme.logged(phase))

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
        trainer.lightning_module.zero_grad(set_to_none=True)
        share_gradients_anew(trainer)
        self._frozen = frozen


def share_gradients_anew(trainer: Trainer) -> None:
    """Wraps the model again: DDP decides once which gradients the processes share."""
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy.model = trainer.lightning_module
        trainer.strategy.configure_ddp()
