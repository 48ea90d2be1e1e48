"""The rivals of `bfc fit` do its work: the same steps from the same weights and samples."""

import math

import numpy as np
import pytest
import torch

from bfc_lightning.cli import main
from bfc_lightning.cli.bench_sizes import read_sizes
from bfc_lightning.experiments.bench.bare import BareLoop, BareNet, bare_order
from bfc_lightning.experiments.bench.workload import Workload
from tests.runs import checkpoint

NUM_STEPS = 4


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
    """A problem in float64, whose layers, readout scales and rates all differ."""
    path = tmp_path_factory.mktemp("config") / "double.yaml"
    path.write_text(
        "inputs: {class_path: Gaussian, init_args: {input_dim: 8}}\n"
        "target: {class_path: HierarchicalTarget, init_args: {widths: [4, 3, 2]}}\n"
        "model: {width: [6, 5, 4]}\n"
        "num_measures: 0\n"
        "data: {batch_size: 32, num_val_samples: 64, eval_batch_size: 64}\n"
        f"trainer: {{max_steps: {NUM_STEPS}, val_check_interval: 2, accelerator: cpu,\n"
        "          precision: 64-true, enable_progress_bar: false}\n"
    )
    return str(path)


@pytest.fixture(scope="module")
def workload(config) -> Workload:
    return read_sizes([config], None)[0].workload


@pytest.fixture(scope="module")
def batches(config) -> list[torch.Tensor]:
    """The x that `bfc fit` draws."""
    from bfc_lightning.cli.bench_sizes import BenchApplication

    data = BenchApplication(["-c", config]).config_init.fit.data
    stream = data.make_stream("cpu", torch.float64)
    return [stream.batch("train", index, 32).inputs for index in range(NUM_STEPS)]


@pytest.fixture(scope="module", params=["plain", "fast"])
def fitted(request, config, tmp_path_factory) -> list[torch.Tensor]:
    """The weights that `bfc fit` ends with on either path, in the order of `bare_order`."""
    root = tmp_path_factory.mktemp("fit")
    words = ["--run.root", str(root), "--run.name", "run", "--run.figures", "false"]
    words += ["--training_path", request.param]
    assert main(["fit", "-c", config, *words]) == 0
    state = checkpoint(root / "run")["state_dict"]
    layers = range(3)
    matrices = [
        state[f"network.layers.{layer}.{part}"] for layer in layers for part in ("weight", "bias")
    ]
    readouts = [state[f"network.layers.{layer}.readout"] for layer in layers]
    return [state["network.constant"], *matrices, *readouts]


def assert_same(weights, expected) -> None:
    """Equal to a relative 1e-10 in the maximum norm, array by array, PyTorch's or JAX's."""
    for one, other in zip(weights, expected, strict=True):
        own, given = np.asarray(one), np.asarray(other)
        assert own.shape == given.shape
        assert np.abs(own - given).max() <= 1e-10 * np.abs(given).max()


def test_fit_moves_every_weight(workload, fitted):
    for start, end in zip(bare_order(workload.network()), fitted, strict=True):
        assert float((start.detach() - end).abs().max()) > 1e-4


def test_bare_network_is_the_learner(workload, batches):
    network = workload.network()
    bare = BareNet(network)
    assert_same([bare(batches[0]).detach()], [network(batches[0]).detach()])
    assert len(list(bare.parameters())) == len(list(network.parameters()))


def test_steps_of_the_bare_loop_are_those_of_fit(workload, batches, fitted):
    loop = BareLoop(workload)
    for x in batches:
        loop.step(x)
    assert_same([part.detach() for part in loop.parameters], fitted)


def test_bare_loop_starts_again_from_the_same_weights_and_samples(workload):
    loop = BareLoop(workload)
    loop.run(3)
    first = [part.detach().clone() for part in loop.parameters]
    loop.run(2)
    loop.restart()
    loop.run(3)
    assert all(map(torch.equal, first, loop.parameters))


def test_rates_are_those_of_the_schedule_worked_by_hand(workload):
    rates = workload.rates()
    assert len(rates) == NUM_STEPS
    # one cycle of 4 steps, warm over after a twentieth: the peak is never met but at its start
    expected = [7e-3 * 0.04]
    for step in (1, 2, 3):
        done = (step / 3 - 0.05) / 0.95
        expected.append(7e-3 * (4e-6 + (1 - 4e-6) * (1 + math.cos(math.pi * done)) / 2))
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def jax_loop(workload):
    pytest.importorskip("jax", reason="JAX is not installed (the extra bench)")

    from bfc_lightning.experiments.bench.jax_loop import JaxLoop

    return JaxLoop(workload)


def test_steps_of_the_jax_loop_are_those_of_fit(jax_loop, workload, batches, fitted):
    import jax
    from jax import numpy as jnp

    with jax.enable_x64(True):
        state, step = jax_loop.initial(), jax.jit(jax_loop.step)
        for index, (x, rate) in enumerate(zip(batches, workload.rates(), strict=True)):
            now = (jnp.asarray(x.numpy()), jnp.asarray(rate), jnp.asarray(index))
            state = step(state, jax_loop.layers, *now)
        assert_same(state.weights, fitted)


def test_jax_target_is_ours(jax_loop, workload, batches):
    import jax
    from jax import numpy as jnp

    from bfc_lightning.experiments.bench.jax_loop import target_values

    with jax.enable_x64(True):
        values = target_values(jax_loop.layers, jnp.asarray(batches[0].numpy()))
        assert_same([values], [workload.target(batches[0])])


def test_jax_scan_takes_every_step_on_samples_of_its_own(jax_loop, workload):
    import jax
    from jax import numpy as jnp

    with jax.enable_x64(True):
        ran = jax_loop.run(jax_loop.initial(), jax_loop.layers, jax_loop.key, jax_loop.rates)
        state, step = jax_loop.initial(), jax.jit(jax_loop.step)
        for index in range(workload.num_timed):
            key = jax.random.fold_in(jax_loop.key, index)
            x = jax.random.normal(key, (32, 8), jnp.float64)
            rate, number = jax_loop.rates[index], jnp.asarray(index)
            state = step(state, jax_loop.layers, x, rate, number)
        assert_same(ran.weights, state.weights)
