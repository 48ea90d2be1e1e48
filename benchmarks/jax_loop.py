"""The same work in JAX: a whole run in one compiled `lax.scan`. Needs the extra `bench`."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import NamedTuple

import torch

from benchmarks.workload import Workload
from bfc_lightning import HierarchicalTarget

# JAX reads it when it is first used. PyTorch needs some of the GPU's memory, too.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
from jax import Array, lax
from jax import numpy as jnp

_CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_

Arrays = dict[str, Array]


class State(NamedTuple):
    """Weights and Adam's moments, named as in the state dict of the learner."""

    weights: Arrays
    first: Arrays
    second: Arrays


def as_array(tensor: torch.Tensor) -> Array:
    return jnp.array(tensor.detach().cpu().numpy())  # a copy, which the run may overwrite


def target_function(target: HierarchicalTarget) -> Callable[[Array], Array]:
    """G as a function of JAX arrays."""
    levels = range(1, target.depth + 1)
    input_weight = as_array(torch.cat([target.weight(level, 0) for level in levels]))
    splits = list(accumulate(target.widths))[:-1]
    divisors = [len(read) ** 0.5 if target.normalize else 1.0 for read in target.sources]
    weights, means, stds, readouts = (
        [as_array(target.get_buffer(f"{name}_{level}")) for level in levels]
        for name in ("weight", "mean", "std", "readout")
    )

    def values(x: Array) -> Array:
        features, output = [], 0.0
        for level, z in enumerate(jnp.split(x @ input_weight.T, splits, axis=1)):
            if features:
                z = z + jnp.concatenate(features, axis=1) @ weights[level].T
            features.append(((z / divisors[level]) ** 2 - means[level]) / stds[level])
            output = output + features[-1] @ readouts[level]
        return output

    return values


def predict(weights: Arrays, scales: tuple[float, ...], x: Array) -> Array:
    """f(x), as in `loops.predict`."""
    features, output = [x], weights["constant"]
    for level, scale in enumerate(scales):
        layer = f"layers.{level}"
        below = jnp.concatenate(features, axis=1)
        z = below @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
        features.append(z * z)
        output = output + scale * (features[-1] @ weights[f"{layer}.readout"])
    return output


class JaxLoop:
    """A run of `workload.num_timed` steps in one call: draws, gradients and Adam.

    JAX draws from its own generator, so that the batches differ and their distribution does not.
    Replicas are mapped by `jax.vmap`; they learn the same target from different batches.
    """

    def __init__(self, workload: Workload, num_replicas: int = 1) -> None:
        self.workload = workload
        self.num_replicas = num_replicas
        self.network = workload.learner.network
        self.adam = workload.optimizer(list(self.network.parameters())).defaults
        self.variance = float(workload.target.variance)
        with self.settings():
            self.target = target_function(workload.target)
            self.key = jax.random.key(0)
            keys = jax.random.split(self.key, num_replicas)
            run = self.run if num_replicas == 1 else jax.vmap(self.run)
            self.keys = self.key if num_replicas == 1 else keys
            self.rates = jnp.asarray(workload.learning_rates()[: workload.num_timed])
            self.compiled = (
                jax.jit(run, donate_argnums=0).lower(self.initial(), self.keys).compile()
            )
        self.seconds_per_step()  # the warm-up

    def initial(self) -> State:
        """The initialization."""
        weights = {name: as_array(value) for name, value in self.network.state_dict().items()}
        if self.num_replicas > 1:
            count = self.num_replicas
            weights = jax.tree.map(lambda part: jnp.repeat(part[None], count, 0), weights)
        return State(weights, *(jax.tree.map(jnp.zeros_like, weights) for _ in range(2)))

    def step(self, state: State, x: Array, rate: Array, index: Array) -> State:
        """One optimizer step; `index` counts the steps before it."""
        label = self.target(x)

        def loss(weights: Arrays) -> Array:
            gap = predict(weights, self.network.scales, x) - label
            return jnp.mean(gap**2) / self.variance

        gradient = jax.grad(loss)(state.weights)
        norm = jnp.sqrt(sum(jnp.sum(part**2) for part in gradient.values()))
        factor = jnp.minimum(1.0, self.workload.clip_norm / (norm + _CLIP_EPS))
        clipped = jax.tree.map(lambda part: factor * part, gradient)
        return self._adam(state, clipped, rate, index + 1)

    def _adam(self, state: State, gradient: Arrays, rate: Array, count: Array) -> State:
        """m <- b m + (1-b) g,  v <- c v + (1-c) g^2,  w <- w - rate m'/(sqrt(v') + eps)."""
        (b, c), eps = self.adam["betas"], self.adam["eps"]
        first = jax.tree.map(lambda m, g: b * m + (1 - b) * g, state.first, gradient)
        second = jax.tree.map(lambda v, g: c * v + (1 - c) * g**2, state.second, gradient)
        size, root = rate / (1 - b**count), jnp.sqrt(1 - c**count)

        def update(w: Array, m: Array, v: Array) -> Array:
            return w - size * m / (jnp.sqrt(v) / root + eps)

        return State(jax.tree.map(update, state.weights, first, second), first, second)

    def run(self, state: State, own: Array) -> State:
        """A step for every learning rate."""

        def body(carried: State, now: tuple[Array, Array]) -> tuple[State, None]:
            rate, index = now
            key = jax.random.fold_in(own, index)
            x = jax.random.normal(key, self.workload.shape, rate.dtype)
            return self.step(carried, x, rate, index), None

        return lax.scan(body, state, (self.rates, jnp.arange(len(self.rates))))[0]

    def seconds_per_step(self) -> float:
        """Seconds per step and replica of one call of the compiled run."""
        with self.settings():
            state = jax.block_until_ready(self.initial())
            started = time.perf_counter()
            jax.block_until_ready(self.compiled(state, self.keys))
            seconds = time.perf_counter() - started
            return seconds / self.workload.num_timed / self.num_replicas

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Device and precision of the workload; float32 products are not rounded to TF32."""
        kind = "gpu" if self.workload.device.type == "cuda" else "cpu"
        with (
            jax.enable_x64(self.workload.dtype == torch.float64),
            jax.default_device(jax.devices(kind)[0]),
            jax.default_matmul_precision("highest"),
        ):
            yield
