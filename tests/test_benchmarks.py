"""The benchmark: its bare loops do the same work as `bfc fit`, and a run of it leaves a table."""

import json
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.limit import Limit
from benchmarks.loops import BareLoop, CompiledLoop
from benchmarks.report import size_markdown, size_result
from benchmarks.workload import Workload, read_workload
from bfc_lightning.cli import main as bfc
from tests.runs import checkpoint

need_jax = pytest.mark.skipif(find_spec("jaxlib") is None, reason="needs the extra bench")
NUM_STEPS = 4
PROBLEM = f"""\
inputs: {{class_path: Gaussian, init_args: {{input_dim: 8}}}}
target: {{class_path: HierarchicalTarget, init_args: {{widths: [4, 3, 2]}}}}
model: {{width: [6, 5, 4]}}
num_measures: 0
data: {{batch_size: 32, num_val_samples: 64, eval_batch_size: 64}}
trainer: {{max_steps: {NUM_STEPS}, val_check_interval: 2, accelerator: cpu,
          gradient_clip_val: 0.02, precision: 64-true}}
"""


@pytest.fixture(scope="module")
def workload(tmp_path_factory) -> Workload:
    """A float64 problem whose layers, readout scales and learning rates all differ."""
    path = tmp_path_factory.mktemp("problem") / "double.yaml"
    path.write_text(PROBLEM)
    return read_workload(path)


@pytest.fixture(scope="module")
def batches(workload) -> list[torch.Tensor]:
    """The inputs that `bfc fit` draws."""
    stream = workload.data.make_stream("cpu", torch.float64)
    return [stream.batch("train", index, 32).inputs for index in range(NUM_STEPS)]


@pytest.fixture(scope="module")
def fitted(workload, tmp_path_factory) -> dict[str, torch.Tensor]:
    """The weights at the end of `bfc fit`."""
    root = tmp_path_factory.mktemp("fit")
    argv = ["--run.root", str(root), "--run.name", "run", "--run.figures", "false"]
    assert bfc(["fit", "-c", str(workload.path), *argv]) == 0
    state = checkpoint(root / "run")["state_dict"]
    return {name.removeprefix("network."): value for name, value in state.items()}


def assert_close(weights, expected) -> None:
    """Equal to a relative 1e-10 in the maximum norm, for PyTorch's and JAX's arrays."""
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        own, given = np.asarray(weights[name]), np.asarray(value)
        assert own.shape == given.shape
        assert np.abs(own - given).max() <= 1e-10 * np.abs(given).max(), name


def test_bare_loop_takes_the_steps_of_fit(workload, batches, fitted):
    loop = BareLoop(workload)
    loop.run(2)
    loop.restart()
    for x in batches:
        loop.step(x)
    assert_close(loop.network.state_dict(), fitted)
    for name, value in workload.learner.network.state_dict().items():
        assert float((value - fitted[name]).abs().max()) > 1e-4, name  # it has moved


def in_new_process(function, *arguments):
    """JAX starts threads, which do not survive forks, and `torch.compile` refuses shape checks."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def compiled_steps(path, batches):
    loop = CompiledLoop(read_workload(path))
    loop.restart()
    for x in batches:
        loop.step(torch.from_numpy(x))
    return {name: value.numpy() for name, value in loop.network.state_dict().items()}


@pytest.mark.slow
def test_compiled_loop_takes_the_steps_of_fit(workload, batches, fitted):
    given = [x.numpy() for x in batches]
    assert_close(in_new_process(compiled_steps, workload.path, given), fitted)


def jax_steps(path, batches):
    import jax

    from benchmarks.jax_loop import JaxLoop

    workload = read_workload(path)
    loop = JaxLoop(workload)
    with loop.settings():
        state, step = loop.initial(), jax.jit(loop.step)
        for index, (x, rate) in enumerate(zip(batches, workload.learning_rates(), strict=True)):
            state = step(state, x.numpy(), rate, index)
        return {name: np.asarray(value) for name, value in state.weights.items()}


def jax_scan(path):
    import jax

    from benchmarks.jax_loop import JaxLoop

    workload = read_workload(path)
    loop = JaxLoop(workload)
    with loop.settings():
        state, step = loop.initial(), jax.jit(loop.step)
        for index in range(workload.num_timed):
            x = jax.random.normal(jax.random.fold_in(loop.key, index), (32, 8), "float64")
            state = step(state, x, loop.rates[index], index)
        timed = loop.compiled(loop.initial(), loop.keys)
        return [
            {name: np.asarray(value) for name, value in each.weights.items()}
            for each in (timed, state)
        ]


@need_jax
@pytest.mark.slow
def test_jax_loop_takes_the_steps_of_fit(workload, batches, fitted):
    assert_close(in_new_process(jax_steps, workload.path, batches), fitted)


@need_jax
@pytest.mark.slow
def test_jax_scan_takes_every_timed_step_on_its_own_batch(workload):
    assert_close(*in_new_process(jax_scan, workload.path))


def test_flops_of_a_step_worked_by_hand(workload):
    forward = 2 * 32 * (8 * 6 + (8 + 6) * 5 + (8 + 6 + 5) * 4)
    assert Limit(workload).flops == 2 * forward + 2 * 32 * (6 * 5 + (6 + 5) * 4)


def test_table_worked_by_hand(workload):
    seconds = {"fit": [2e-3, 6e-3], "bare": [1e-3, 2e-3]}
    assert size_markdown("double", size_result(workload, seconds, None)).splitlines()[-2:] == [
        "| fit | 4 [2, 6] | 8,000 | 1 [1, 1] |",
        "| bare | 1.5 [1, 2] | 21,333 | 2.5 [2, 3] |",
    ]


def test_run_of_the_benchmark_leaves_a_table(tmp_path, capsys):
    contestants = ["fit_eager", "bare", "limit"]
    argv = ["--sizes", "tiny", "--steps", "400", "--rounds", "1", "--out", str(tmp_path)]
    main([*argv, "--contestants", *contestants])
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "bench.md"}
    size = json.loads((tmp_path / "bench.json").read_text())["sizes"]["tiny"]
    assert list(size["contestants"]) == contestants
    assert all(0 < own["seconds_per_step"]["median"] < 1 for own in size["contestants"].values())
    assert capsys.readouterr().out.strip() in (tmp_path / "bench.md").read_text()
