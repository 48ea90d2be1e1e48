"""What only a GPU can show: `benchmarks/gpu.sh` runs these tests."""

from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from bfc_lightning.cli import main
from bfc_lightning.engine import Clipping
from bfc_lightning.types import StepChunk
from tests.engines import Steps, gap
from tests.runs import TINY, assert_same_run, summary, weights
from tests.test_engine import OPTIMIZERS, Case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


def fit(root: Path, name: str, *argv: str) -> Path:
    device = ["--trainer.accelerator", "gpu", "--trainer.devices", "1"]
    argv = (*device, "--run.name", name, *argv)
    assert main(["fit", "-c", TINY, "--run.root", str(root), *argv]) == 0
    return root / name


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_engines_equal_autograd(tmp_path, engine):
    argv = ["--trainer.precision", "64-true", "--num_measures", "0"]
    runs = [fit(tmp_path, name, *argv, "--engine", name) for name in (engine, "autograd")]
    assert gap(*map(weights, runs)) <= 1e-10


def test_compiled_run_is_repeated_bit_for_bit(tmp_path):
    runs = [fit(tmp_path, name, "--engine", "compiled") for name in ("one", "other")]
    assert_same_run(*runs)


def test_64_replicas_equal_single_runs(tmp_path):
    argv = ["--trainer.precision", "64-true", "--num_measures", "0", "--engine"]
    many = fit(tmp_path, "many", *argv, "compiled", "--model.num_replicas", "64")
    for seed in (0, 63):
        alone = fit(tmp_path, str(seed), *argv, "eager", "--seed_everything", str(seed))
        assert gap(weights(many, f"learners.{seed}.network."), weights(alone)) <= 1e-8


def test_bf16_trains(tmp_path):
    argv = ["--trainer.precision", "bf16-mixed", "--trainer.max_steps", "500"]
    run = fit(tmp_path, "bf16", *argv)
    assert summary(run)["engine"] == "autograd"
    assert summary(run)["metrics"]["val/nmse"] < 0.1


def test_compiled_steps_are_launched_as_a_cuda_graph():
    case = Case(dtype=torch.float32)
    case.network.to("cuda")
    chunk = StepChunk(*(column.to("cuda") for column in case.part(0, 40)))
    steps = Steps(
        case.network, case.objective, OPTIMIZERS["Adam"], clipping=Clipping(0.5), compiles=True
    )
    steps.take(chunk)  # compiles, records
    steps.take(chunk)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        steps.take(chunk)
    launches = [event for event in profiled.events() if "cudaGraphLaunch" in event.name]
    assert len(launches) == 40
