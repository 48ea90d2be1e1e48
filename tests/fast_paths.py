"""The fast path and its gradients for one learner, as tests of mathematics use them."""

import copy

import torch

from bfc_lightning.fast_path import Clipping, FastPath
from bfc_lightning.gradients import DenseGradients, FlatParameters
from bfc_lightning.networks import DenseNet
from bfc_lightning.objectives import Objective
from bfc_lightning.types import StepChunk


class Steps:
    """A learner on the fast path with its optimizer; `take` goes on where it stands."""

    def __init__(self, network, objective, make_optimizer, **settings):
        self.network = network
        self.optimizer = make_optimizer(trainable(network))
        make_schedule = settings.pop("schedule", None)
        self.schedule = make_schedule(self.optimizer) if make_schedule else None
        self.progress = settings.pop("progress", lambda step: 0.0)
        self.path = fast_path(network, objective, **settings)
        self.taken = 0

    def take(self, chunk: StepChunk) -> list[float]:
        first = self.taken
        self.taken += len(chunk.labels)
        return take(
            self.path,
            chunk,
            self.optimizer,
            self.schedule,
            lambda step: self.progress(first + step),
        )


def fast_path(
    network: DenseNet,
    objective: Objective,
    *,
    regularization: list[float] | None = None,
    clipping: Clipping | None = None,
) -> FastPath:
    coefficients = [0.0] * network.depth if regularization is None else regularization
    return FastPath([network], [objective], regularization=[coefficients], clipping=clipping)


def take(path, chunk, optimizer, schedule=None, progress=lambda step: 0.0) -> list[float]:
    schedules = [] if schedule is None else [schedule]
    return path.run(chunk, [optimizer], schedules, progress).tolist()


class ByHand:
    """Output and gradients of a learner on batches of one size."""

    def __init__(self, network: DenseNet, num_samples: int) -> None:
        self.network = network
        self._parameters = FlatParameters([network])
        self._gradients = DenseGradients(self._parameters, num_samples)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self._gradients.forward(x).clone()

    def backward(self, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
        """Gradients by name, of what is trained."""
        self._parameters.attach()
        with torch.no_grad():
            self._gradients.backward(gradient)
        return {
            name: parameter.grad.clone()
            for name, parameter in self.network.named_parameters()
            if parameter.grad is not None
        }


def trainable(network: DenseNet) -> list[torch.nn.Parameter]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def weights(network: DenseNet) -> dict[str, torch.Tensor]:
    return copy.deepcopy(network.state_dict())


def gap(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest relative difference of two learners' parameters, in the Euclidean norm."""
    assert one.keys() == other.keys()
    return max(
        float((one[name] - other[name]).norm() / one[name].norm().clamp(min=1e-300))
        for name in one
        if one[name].any() or other[name].any()
    )
