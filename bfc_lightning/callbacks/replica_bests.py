"""The weights of every replica at its own best validation."""

import math
from dataclasses import asdict
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from bfc_lightning.replicas import ReplicatedLearner


class ReplicaBests(Callback):
    """Keeps what a single run of each replica would have kept as its `best.ckpt`.

    `best.ckpt` of several replicas follows their median; these are part of every checkpoint's own
    state, so that `last.ckpt` has them all. It must come before what saves.

    Args:
        num_replicas: R.

    Attributes:
        scores: the best score of each replica, infinite before the first validation.
        steps: when that was.
        phases: of the training scheme then, as checkpoints have it: which layers took part.
        weights: the weights then, by name; None before.
    """

    def __init__(self, num_replicas: int) -> None:
        self.scores = [math.inf] * num_replicas
        self.steps = [0] * num_replicas
        self.phases: list[dict[str, Any] | None] = [None] * num_replicas
        self.weights: list[dict[str, Tensor] | None] = [None] * num_replicas

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the weights of those that have become better; one that diverged never does."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        assert isinstance(pl_module, ReplicatedLearner)
        key = pl_module.score_key
        for number, (each, row) in enumerate(zip(pl_module.each, pl_module.scores, strict=True)):
            if pl_module.diverged[number] is None and row[key] < self.scores[number]:
                self.scores[number], self.steps[number] = row[key], trainer.global_step
                self.phases[number] = None if each.phase is None else asdict(each.phase)
                state = each.state_dict()
                self.weights[number] = {name: value.clone() for name, value in state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Scores, steps, phases and weights."""
        return {
            "scores": self.scores,
            "steps": self.steps,
            "phases": self.phases,
            "weights": self.weights,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them.

        Args:
            state_dict: from `state_dict`.
        """
        self.scores = list(state_dict["scores"])
        self.steps = list(state_dict["steps"])
        self.phases = list(state_dict.get("phases", self.phases))  # not kept at first
        self.weights = list(state_dict["weights"])
