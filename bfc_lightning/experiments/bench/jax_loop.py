"""The same work in JAX: a whole run in one compiled `lax.scan`. Needs the extra `bench`."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from bfc_lightning.experiments.bench.bare import bare_order
from bfc_lightning.experiments.bench.rounds import Skipped
from bfc_lightning.experiments.bench.workload import ADAM_EPS, Workload
from bfc_lightning.networks import DenseNet
from bfc_lightning.targets import HierarchicalTarget

# PyTorch needs some of the GPU's memory, too; read when JAX is first used.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
from jax import Array, lax
from jax import numpy as jnp

_CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class State(NamedTuple):
    """What a step changes; each a list of arrays in the order of `bare_order`.

    Attributes:
        weights: of the network.
        first: Adam's mean of the gradients.
        second: Adam's mean of their squares.
    """

    weights: list[Array]
    first: list[Array]
    second: list[Array]


class TargetLayer(NamedTuple):
    """A level of a hierarchical target: S = (x W^T + G U^T)/n, G = (S^2 - mean)/std, read by r.

    Attributes:
        from_inputs: W, shape (k, d).
        from_features: U, of all lower levels side by side; shape (k, lower widths).
        divisor: n.
        mean: of S^2, or 0.
        std: of S^2, or 1.
        readout: r, shape (k,).
    """

    from_inputs: Array
    from_features: Array
    divisor: Array
    mean: Array
    std: Array
    readout: Array


def target_layers(target: HierarchicalTarget) -> list[TargetLayer]:
    """A target's tensors, for JAX.

    Args:
        target: G.

    Returns:
        Its levels.
    """
    layers = []
    for level in range(1, target.depth + 1):
        divisor = len(target.sources[level - 1]) ** 0.5 if target.normalize else 1.0
        names = ("weight", "mean", "std", "readout")
        weight, mean, std, readout = (target.get_buffer(f"{name}_{level}") for name in names)
        parts = (target.weight(level, 0), weight, torch.full_like(target.mean, divisor))
        layers.append(TargetLayer(*map(as_array, (*parts, mean, std, readout))))
    return layers


def as_array(tensor: torch.Tensor) -> Array:
    """A tensor's numbers, in its precision where JAX is allowed it."""
    return jnp.asarray(tensor.detach().cpu().numpy())


def target_values(layers: Sequence[TargetLayer], x: Array) -> Array:
    """G(x).

    Args:
        layers: from `target_layers`.
        x: shape (n, d).

    Returns:
        Shape (n,).
    """
    projections = jnp.split(
        x @ jnp.concatenate([layer.from_inputs for layer in layers]).T,
        [sum(len(layer.mean) for layer in layers[:stop]) for stop in range(1, len(layers))],
        axis=1,
    )
    features: list[Array] = []
    output = jnp.zeros(len(x), x.dtype)
    for layer, summed in zip(layers, projections, strict=True):
        if features:
            summed = summed + jnp.concatenate(features, axis=1) @ layer.from_features.T
        features.append(((summed / layer.divisor) ** 2 - layer.mean) / layer.std)
        output = output + features[-1] @ layer.readout
    return output


def prediction(weights: Sequence[Array], scales: Sequence[float], x: Array) -> Array:
    """f(x) of the learner.

    Args:
        weights: in the order of `bare_order`.
        scales: of the readouts.
        x: shape (n, d).

    Returns:
        Shape (n,).
    """
    depth = len(scales)
    output, matrices, readouts = weights[0], weights[1 : 1 + 2 * depth], weights[1 + 2 * depth :]
    features = [x]
    for level, (readout, scale) in enumerate(zip(readouts, scales, strict=True)):
        weight, bias = matrices[2 * level : 2 * level + 2]
        z = jnp.concatenate(features, axis=1) @ weight.T + bias
        features.append(z * z)
        output = output + scale * (features[-1] @ readout)
    return output


class JaxLoop:
    """A run of `workload.num_timed` steps as one call: `lax.scan` over draw, gradients and Adam.

    JAX draws from a generator of its own (threefry, its default and on CPUs its fastest), so the
    numbers are others, and the law is the same. Products are in full float32 on GPUs, too.

    Args:
        workload: what is trained.
    """

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.variance = workload.variance
        self.betas = workload.betas
        self.start: DenseNet = workload.network()
        with self._settings():
            self.layers = target_layers(workload.target)
            self.key = jax.random.key(0)
            self.rates = jnp.asarray(workload.rates()[: workload.num_timed])
            jitted = jax.jit(self.run, donate_argnums=0)
            lowered = jitted.lower(self.initial(), self.layers, self.key, self.rates)
            self._compiled = lowered.compile()
        self.seconds_per_step()  # warm

    def initial(self) -> State:
        """The start of a run, in new arrays."""
        weights = [as_array(part) for part in bare_order(self.start)]
        zeros = [jnp.zeros_like(part) for part in weights]
        return State([part.copy() for part in weights], zeros, [part.copy() for part in zeros])

    def step(
        self, state: State, layers: list[TargetLayer], x: Array, rate: Array, index: Array
    ) -> State:
        """One optimizer step.

        Args:
            state: before it.
            layers: of the target.
            x: the batch.
            rate: the learning rate.
            index: steps before this one.

        Returns:
            The state after it.
        """
        label = target_values(layers, x)

        def loss(weights: list[Array]) -> Array:
            gap = prediction(weights, self.start.scales, x) - label
            return jnp.mean(gap**2) / self.variance

        gradients = jax.grad(loss)(state.weights)
        norm = jnp.sqrt(sum(jnp.sum(part**2) for part in gradients))
        factor = jnp.minimum(1.0, self.workload.clip_norm / (norm + _CLIP_EPS))
        return self._adam(state, [factor * part for part in gradients], rate, index + 1)

    def _adam(self, state: State, gradients: list[Array], rate: Array, count: Array) -> State:
        """Adam: m <- b m + (1-b) g, v <- c v + (1-c) g^2, w <- w - rate m'/(sqrt(v') + eps)."""
        fast, slow = self.betas
        pairs = list(zip(state.first, state.second, gradients, strict=True))
        first = [fast * m + (1 - fast) * g for m, _, g in pairs]
        second = [slow * v + (1 - slow) * g**2 for _, v, g in pairs]
        step_size, root = rate / (1 - fast**count), jnp.sqrt(1 - slow**count)
        weights = [
            w - step_size * m / (jnp.sqrt(v) / root + ADAM_EPS)
            for w, m, v in zip(state.weights, first, second, strict=True)
        ]
        return State(weights, first, second)

    def run(self, state: State, layers: list[TargetLayer], key: Array, rates: Array) -> State:
        """A step for each of the rates.

        Args:
            state: at the start; its memory is used again.
            layers: of the target.
            key: of the draws.
            rates: the learning rates.

        Returns:
            The state at the end.
        """
        shape = (self.workload.batch_size, self.workload.target.input_dim)

        def body(carried: State, now: tuple[Array, Array]) -> tuple[State, None]:
            rate, index = now
            x = jax.random.normal(jax.random.fold_in(key, index), shape, rates.dtype)
            return self.step(carried, layers, x, rate, index), None

        return lax.scan(body, state, (rates, jnp.arange(len(rates))))[0]

    def seconds_per_step(self) -> float:
        """One call, compiled before."""
        with self._settings():
            state = self.initial()
            _wait(state)
            started = time.perf_counter()
            _wait(self._compiled(state, self.layers, self.key, self.rates))
            return (time.perf_counter() - started) / self.workload.num_timed

    @contextmanager
    def _settings(self) -> Iterator[None]:
        """Device and precision of the workload.

        Raises:
            Skipped: if JAX has no such device.
        """
        kind = "gpu" if self.workload.device.type == "cuda" else "cpu"
        try:
            device = jax.devices(kind)[0]
        except RuntimeError as refused:
            raise Skipped(f"JAX sees no {kind}") from refused
        with (
            jax.enable_x64(self.workload.dtype == torch.float64),
            jax.default_device(device),
            jax.default_matmul_precision("highest"),
        ):
            yield


def _wait(state: State) -> None:
    """Waits until a state is computed: JAX returns before."""
    for part in (*state.weights, *state.first, *state.second):
        part.block_until_ready()
