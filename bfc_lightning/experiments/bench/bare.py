"""The loop that a competent user of PyTorch would write for the same work; and it compiled."""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from bfc_lightning.experiments.bench.rounds import Skipped
from bfc_lightning.experiments.bench.workload import ADAM_EPS, Workload, synchronize
from bfc_lightning.networks import DenseNet

_WARM_UP = 10


class BareNet(nn.Module):
    """`DenseNet` with squares, in PyTorch's own parts, from a given start.

        Z_l = V_l [x, F_1, ..., F_{l-1}] + b_l,   F_l = Z_l * Z_l,   f = c + sum_l s_l v_l^T F_l

    Args:
        start: whose weights are copied.
    """

    def __init__(self, start: DenseNet) -> None:
        super().__init__()
        self.scales = start.scales
        layers = start.dense_layers()
        self.linears = nn.ModuleList(nn.Linear(sum(layer.fan_ins), layer.width) for layer in layers)
        self.readouts = nn.ParameterList(torch.empty(layer.width) for layer in layers)
        self.constant = nn.Parameter(torch.empty(()))
        self.to(start.constant)
        self.restart(start)

    @torch.no_grad()
    def restart(self, start: DenseNet) -> None:
        """Copies the weights of a network of the same sizes.

        Args:
            start: the network.
        """
        for own, given in zip(self.parameters(), bare_order(start), strict=True):
            own.copy_(given)

    def forward(self, x: Tensor) -> Tensor:
        """f(x)."""
        features = [x]
        output = self.constant
        for linear, readout, scale in zip(self.linears, self.readouts, self.scales, strict=True):
            z = linear(torch.cat(features, dim=1))
            features.append(z * z)
            output = output + scale * (features[-1] @ readout)
        return output


def bare_order(network: DenseNet) -> list[Tensor]:
    """A network's parameters in the order of `BareNet.parameters()`.

    Args:
        network: the learner.

    Returns:
        c, then V_l and b_l layer by layer, then every v_l.
    """
    layers = network.dense_layers()
    matrices = [part for layer in layers for part in (layer.weight, layer.bias)]
    return [network.constant, *matrices, *(layer.readout for layer in layers)]


class BareLoop:
    """An eager training loop without logging, validation, checkpoints or a bar.

    A step draws x from one generator and G(x) from the target, and does what `bfc fit` does with
    them: the squared error over Var G, gradients clipped by norm, fused Adam, the schedule.

    Args:
        workload: what is trained.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.target = workload.target
        self.variance = workload.variance
        self.start = workload.network()
        self.network = BareNet(self.start)
        self.parameters = list(self.network.parameters())
        self.random = torch.Generator(device=workload.device)
        self.loss: Callable[[Tensor], Tensor] = self._loss
        self.restart()

    def restart(self) -> None:
        """Goes back to the start of the run."""
        self.network.restart(self.start)
        self.random.manual_seed(0)
        self.optimizer = torch.optim.Adam(
            self.parameters,
            lr=self.workload.learning_rate,
            betas=self.workload.betas,
            eps=ADAM_EPS,
            fused=True,
        )
        self.schedule = self.workload.schedule(self.optimizer)

    def draw(self) -> Tensor:
        """A fresh batch of x, shape (B, d)."""
        return torch.randn(
            self.workload.batch_size,
            self.target.input_dim,
            generator=self.random,
            device=self.workload.device,
            dtype=self.workload.dtype,
        )

    def _loss(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            label = self.target(x)
        return nn.functional.mse_loss(self.network(x), label) / self.variance

    def step(self, x: Tensor) -> None:
        """One optimizer step.

        Args:
            x: the batch.
        """
        loss = self.loss(x)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, self.workload.clip_norm)
        self.optimizer.step()
        self.schedule.step()

    def run(self, num_steps: int) -> None:
        """Trains.

        Args:
            num_steps: how many steps.
        """
        for _ in range(num_steps):
            self.step(self.draw())

    def seconds_per_step(self) -> float:
        """Trains from the start, and times all steps but the first few."""
        self.restart()
        self.run(_WARM_UP)
        synchronize(self.workload.device)
        started = time.perf_counter()
        self.run(self.workload.num_timed)
        synchronize(self.workload.device)
        return (time.perf_counter() - started) / self.workload.num_timed


class CompiledLoop(BareLoop):
    """The same with target, network and loss compiled by `torch.compile`, backward pass included.

    On a GPU their kernels are started as one graph. The optimizer is one fused kernel already.

    Args:
        workload: what is trained.

    Raises:
        Skipped: if they do not compile here, for want of a C++ compiler say.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        mode = "reduce-overhead" if workload.device.type == "cuda" else "default"
        torch.compiler.reset()  # one size leaves no guards for the next
        self.loss = torch.compile(self._loss, mode=mode, fullgraph=True, dynamic=False)
        try:
            self.run(_WARM_UP)
        except TorchDynamoException as failed:
            cause = next(iter(str(failed).splitlines()), type(failed).__name__)
            raise Skipped(f"does not compile: {cause}") from failed
