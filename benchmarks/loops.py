"""Bare PyTorch loops that do the same work as `bfc fit`, eager and compiled."""

import copy
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.workload import Workload, synchronize
from bfc_lightning import DenseNet

_NUM_WARMUP = 10


def predict(network: DenseNet, x: Tensor) -> Tensor:
    """f(x) of a learner with square activations, in the plainest PyTorch.

    Z_l = V_l [x, F_1, ..., F_{l-1}] + b_l,   F_l = Z_l * Z_l,   f = c + sum_l s_l v_l^T F_l
    """
    features, output = [x], network.constant
    for layer, scale in zip(network.layers, network.scales, strict=True):
        z = nn.functional.linear(torch.cat(features, dim=1), layer.weight, layer.bias)
        features.append(z * z)
        output = output + scale * (features[-1] @ layer.readout)
    return output


class BareLoop:
    """A training loop without logging, validation, checkpoints or a progress bar."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.network = copy.deepcopy(workload.learner.network)
        self.parameters = list(self.network.parameters())
        self.generator = torch.Generator(device=workload.device)
        self.variance = float(workload.target.variance)
        self.loss: Callable[[Tensor], Tensor] = self._loss
        self.restart()

    def restart(self) -> None:
        """Restores the initial weights, optimizer state and random state."""
        self.network.load_state_dict(self.workload.learner.network.state_dict())
        self.optimizer = self.workload.optimizer(self.parameters)
        self.schedule = self.workload.schedule(self.optimizer)
        self.generator.manual_seed(0)

    def draw(self, *shape: int) -> Tensor:
        """Standard Gaussian numbers; a batch of inputs by default."""
        kind = {"device": self.workload.device, "dtype": self.workload.dtype}
        return torch.randn(shape or self.workload.shape, generator=self.generator, **kind)

    def _loss(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            label = self.workload.target(x)
        return nn.functional.mse_loss(predict(self.network, x), label) / self.variance

    def step(self, x: Tensor) -> None:
        """One optimizer step on a batch of inputs."""
        loss = self.loss(x)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.workload.clip_norm)
        self.optimizer.step()
        self.schedule.step()

    def run(self, num_steps: int) -> None:
        """Trains on fresh batches."""
        for _ in range(num_steps):
            self.step(self.draw())

    def seconds_per_step(self) -> float:
        """Trains from the initialization and times all steps after a short warm-up."""
        self.restart()
        self.run(_NUM_WARMUP)
        return mean_seconds(lambda: self.step(self.draw()), self.workload)


class CompiledLoop(BareLoop):
    """The same loop with target, network, loss and backward pass compiled by `torch.compile`.

    On a GPU the compiled kernels are launched as a CUDA graph.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        mode = "reduce-overhead" if workload.device.type == "cuda" else "default"
        torch.compiler.reset()  # otherwise the sizes count toward one recompilation limit
        self.loss = torch.compile(self._loss, mode=mode, fullgraph=True, dynamic=False)
        self.run(_NUM_WARMUP)


def mean_seconds(work: Callable[[], object], workload: Workload) -> float:
    """Mean seconds of a call, over as many calls as a run has timed steps."""
    synchronize(workload.device)
    started = time.perf_counter()
    for _ in range(workload.num_timed):
        work()
    synchronize(workload.device)
    return (time.perf_counter() - started) / workload.num_timed
