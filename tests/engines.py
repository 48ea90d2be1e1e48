"""The engine for one learner, as tests of mathematics use it."""

import copy

import torch

from bfc_lightning.engine import Engine
from bfc_lightning.matmul import fusable, matmul
from bfc_lightning.networks import DenseNet
from bfc_lightning.objectives import learner_loss
from bfc_lightning.types import StepChunk


class Steps:
    """A learner on an engine with its optimizer; `take` goes on where it stands."""

    def __init__(self, network, objective, make_optimizer, **settings):
        self.network, self.objective = network, objective
        self.optimizer = make_optimizer(trainable(network))
        make_schedule = settings.pop("schedule", None)
        self.schedules = [make_schedule(self.optimizer)] if make_schedule else []
        self.progress = settings.pop("progress", lambda step: 0.0)
        network.regularization = settings.pop("regularization", network.regularization)
        product = fusable(matmul) if settings.get("compiles") else matmul
        loss = learner_loss(network, objective, product=product)
        self.engine = Engine([network], loss, **settings)
        self.taken = 0

    def take(self, chunk: StepChunk) -> list[float]:
        steps = range(self.taken, self.taken + len(chunk.labels))
        scales = [[scale] for scale in self.objective.scales([self.progress(n) for n in steps])]
        self.taken = steps.stop
        return self.engine.run(chunk, [self.optimizer], self.schedules, scales).tolist()


def trainable(network: DenseNet) -> list[torch.nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def weights(network: DenseNet) -> dict[str, torch.Tensor]:
    return copy.deepcopy(network.state_dict())


def gap(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest relative difference of two learners' parameters, in the Euclidean norm."""
    assert one.keys() == other.keys()
    gaps = [
        ((one[name] - other[name]).norm() / one[name].norm().clamp(min=1e-300)).double()
        for name in one
        if one[name].any() or other[name].any()
    ]
    return float(torch.stack(gaps).max())  # NaN if one of them is
