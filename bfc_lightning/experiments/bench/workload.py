"""What is timed: the training of one learner on one target, the same for every contestant."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from bfc_lightning.activations import Quadratic
from bfc_lightning.inputs import Gaussian, InputDistribution
from bfc_lightning.labels import Labels, Regression
from bfc_lightning.module import HierarchicalLearner
from bfc_lightning.networks import DenseNet
from bfc_lightning.runs.folder import RunError
from bfc_lightning.schedules import make_schedule
from bfc_lightning.schemes import Joint, Scheme
from bfc_lightning.targets import HierarchicalTarget, Target

ADAM_EPS = 1e-8


@dataclass(frozen=True)
class Workload:
    """Joint training by Adam, on fresh samples of a hierarchical target under N(0, 1).

    Attributes:
        name: of the size, e.g. `small`.
        target: G, on the device and in the precision of the training.
        learner: has the network's start, the optimizer and the schedule; in float32 on the CPU.
        batch_size: B.
        num_steps: length of a run, which the schedule stretches over.
        interval: steps between two validations of a run.
        clip_norm: to which the norm of all gradients is scaled down.
        threads: of PyTorch.
    """

    name: str
    target: HierarchicalTarget
    learner: HierarchicalLearner
    batch_size: int
    num_steps: int
    interval: int
    clip_norm: float
    threads: int

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return self.target.mean.device

    @property
    def dtype(self) -> torch.dtype:
        """In which precision."""
        return self.target.mean.dtype

    @property
    def variance(self) -> float:
        """Var G, by which the loss is divided."""
        return float(self.target.variance)

    @property
    def num_timed(self) -> int:
        """Steps of a run that are timed: whole intervals but the first."""
        return (self.num_steps // self.interval - 1) * self.interval

    def network(self) -> DenseNet:
        """A new copy of the learner at its start, on the device."""
        return copy.deepcopy(self.learner.network).to(device=self.device, dtype=self.dtype)

    @property
    def learning_rate(self) -> float:
        """The peak of the learning rate."""
        return float(self._optimizer().defaults["lr"])

    @property
    def betas(self) -> tuple[float, float]:
        """Adam's memories of the gradient and of its square."""
        first, second = self._optimizer().defaults["betas"]
        return float(first), float(second)

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """The run's learning rates, for an optimizer."""
        if self.learner.make_schedule is None:
            return LambdaLR(optimizer, lambda step: 1.0)
        return make_schedule(self.learner.make_schedule, optimizer, total_steps=self.num_steps)

    def rates(self) -> list[float]:
        """The learning rate of each step of the run."""
        optimizer = self._optimizer()
        schedule = self.schedule(optimizer)
        rates = []
        for _ in range(self.num_steps):
            rates.append(float(schedule.get_last_lr()[0]))
            optimizer.step()
            schedule.step()
        return rates

    def _optimizer(self) -> Optimizer:
        return self.learner.make_optimizer([torch.nn.Parameter(torch.zeros(()))])


def check_problem(
    learner: HierarchicalLearner, *, target: Target, labels: Labels, scheme: Scheme
) -> None:
    """Refuses work that the rivals of `bfc bench` do not do.

    Args:
        learner: of the run.
        target: G.
        labels: of it.
        scheme: of the training.
    """
    network = learner.network
    optimizer = learner.make_optimizer([torch.nn.Parameter(torch.zeros(()))])
    is_plain_net = type(network) is DenseNet and network.linear is None and network.train_readout
    _require((
        ("target", "a HierarchicalTarget", isinstance(target, HierarchicalTarget), target),
        ("inputs", "a Gaussian with mean 0 and covariance 1", _is_standard(labels.inputs), None),
        ("labels", "Regression without noise", _is_noise_free(labels), labels),
        ("scheme", "Joint without freeze", type(scheme) is Joint and not scheme.freeze, scheme),
        ("model", "a DenseNet with a trained readout and no linear term", is_plain_net, network),
        ("model.activation", "the square", _is_square(network), None),
        ("model.regularization", "0", not any(learner.regularization), None),
        ("model.optimizer", "Adam without weight decay", _is_adam(optimizer), optimizer),
    ))


def _require(rules: Iterable[tuple[str, str, bool, object]]) -> None:
    for key, rule, holds, given in rules:
        if not holds:
            got = "" if given is None else f", got {type(given).__name__}"
            raise RunError(f"{key} must be {rule} in bfc bench{got}: its rivals do no other work.")


def _is_standard(law: InputDistribution) -> bool:
    return isinstance(law, Gaussian) and law.is_isotropic and not bool(law.mean.any())


def _is_noise_free(labels: Labels) -> bool:
    return isinstance(labels, Regression) and labels.noise_std == 0


def _is_square(network: torch.nn.Module) -> bool:
    assert isinstance(network, DenseNet)
    return all(isinstance(layer.activation, Quadratic) for layer in network.dense_layers())


def _is_adam(optimizer: Optimizer) -> bool:
    changed = ("weight_decay", "amsgrad", "maximize")
    is_plain = not any(optimizer.defaults.get(name) for name in changed)
    return type(optimizer) is Adam and is_plain and optimizer.defaults["eps"] == ADAM_EPS


def synchronize(device: torch.device) -> None:
    """Waits until a GPU has done what it was asked to; a CPU has.

    Args:
        device: whose work is timed.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
