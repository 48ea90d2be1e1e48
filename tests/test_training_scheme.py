"""Training schemes in whole runs: frozen layers, layers that join, controls, and resuming."""

import csv
from functools import partial

import pytest
import torch

from bfc_lightning.fresh_starts import FreezeBelow, PullBelow
from bfc_lightning.runs.loading import load_run
from bfc_lightning.schemes import Layerwise, Progressive
from tests.engines import gap
from tests.launches import bfc, trained, weight_gap
from tests.reference import phased_training
from tests.runs import (
    BARE,
    DOUBLE,
    TINY,
    assert_resumes,
    checkpoint,
    error_line,
    fit,
    intervene,
    summary,
)

slow = partial(pytest.param, marks=pytest.mark.slow)
OPTIMIZERS = ["Adam", *map(slow, ("SGD", "AdamW", "RMSprop"))]


def scheme_argv(name: str, **arguments: object) -> list[str]:
    argv = ["--scheme", name]
    for key, value in arguments.items():
        argv += [f"--scheme.{key}", str(value)]
    return argv


def optimizer_argv(name: str) -> list[str]:
    momentum = ["--model.optimizer.momentum", "0.9"] if name in ("SGD", "RMSprop") else []
    return ["--model.optimizer", name, "--model.optimizer.lr", "1e-3", *momentum]


def layer(weights: dict, level: int) -> dict:
    return {k: v for k, v in weights.items() if k.startswith(f"network.layers.{level - 1}.")}


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def run_until(root, name: str, steps: int, *argv: str) -> dict:
    """The checkpoint of a run that was interrupted after a step."""
    stop = intervene("SignalAt", step=steps)
    assert fit(root, "--run.name", name, *BARE, *argv, *stop) == 130
    return checkpoint(root / name)


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, slow("LBFGS")])
def test_layerwise_leaves_finished_layers_bit_identical(tmp_path, optimizer):
    argv = [*scheme_argv("Layerwise", steps=10), *optimizer_argv(optimizer)]
    before = run_until(tmp_path, "half", 10, *argv)["state_dict"]
    assert fit(tmp_path, "--run.name", "whole", *argv) == 0
    after = checkpoint(tmp_path / "whole")["state_dict"]
    assert equal(layer(before, 1), layer(after, 1))
    assert not equal(layer(before, 2), layer(after, 2))
    assert not torch.equal(before["network.constant"], after["network.constant"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_layers_and_their_optimizer_state_stay_bit_identical(tmp_path, optimizer):
    argv = [*scheme_argv("Joint", freeze='{"1": 10}'), *optimizer_argv(optimizer)]
    argv += ["--model.optimizer.weight_decay", "0.1"]
    before = run_until(tmp_path, "half", 10, *argv)
    assert fit(tmp_path, "--run.name", "whole", *argv) == 0
    after = checkpoint(tmp_path / "whole")
    assert equal(layer(before["state_dict"], 1), layer(after["state_dict"], 1))
    assert not equal(layer(before["state_dict"], 2), layer(after["state_dict"], 2))
    states = [c["optimizer_states"][0]["state"] for c in (before, after)]
    names = list(before["state_dict"])  # the order of the parameters, constant first
    for position, name in enumerate(names):
        frozen = name.startswith("network.layers.0.")
        pairs = [
            (value, states[1][position][key])
            for key, value in states[0][position].items()
            if isinstance(value, torch.Tensor)
        ]
        assert pairs
        assert all(torch.equal(a, b) for a, b in pairs) == frozen, name


def test_layer_that_has_not_joined_is_no_part_of_the_loaded_network(tmp_path):
    argv = scheme_argv("Progressive", steps=10)
    run_until(tmp_path, "half", 10, *argv)
    network = load_run(tmp_path / "half", checkpoint="last").network
    assert network.active_depth == 1
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    output = network(x)
    with torch.no_grad():
        network.layers[1].weight.fill_(1e3)
    assert torch.equal(network(x), output)
    assert fit(tmp_path, "--run.name", "whole", *argv) == 0
    assert load_run(tmp_path / "whole", checkpoint="last").network.active_depth == 2


@pytest.mark.parametrize("name", ["Progressive", "Layerwise"])
def test_optimizer_and_schedule_are_initialized_in_every_phase(tmp_path, name):
    argv = [*scheme_argv(name, steps=10), "--trainer.log_every_n_steps", "1"]
    assert fit(tmp_path, "--run.name", "run", *argv) == 0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rates = [float(r["train/learning_rate"]) for r in csv.DictReader(file) if r["train/loss"]]
    assert len(rates) == 20
    assert rates[:10] == rates[10:]
    state = checkpoint(tmp_path / "run")["optimizer_states"][0]["state"]
    assert {float(entry["step"]) for entry in state.values()} == {10.0}
    assert summary(tmp_path / "run")["steps"] == 20


PULL = scheme_argv("PullBelow", steps=10, first=1, pull=0.3)
LINEARIZED = ["--model.linearized", "true", *BARE]


@pytest.mark.parametrize(
    ("argv", "steps"),
    [
        (scheme_argv("Progressive", steps=10), (10,)),
        slow(scheme_argv("Layerwise", steps=10), (10, 11)),
        (scheme_argv("Progressive", steps=10, freeze='{"1": 14}'), (14,)),
        slow(scheme_argv("Progressive", steps=10, control="taught_levels"), (13,)),
        slow(scheme_argv("Progressive", steps=10, control="detach_readout"), (7, 13)),
        (PULL, (10, 11)),
        slow([*PULL, "--engine", "autograd"], (10, 11)),
        slow(scheme_argv("FreezeBelow", steps=10, first=1, depth=0), (10, 11)),
        slow(scheme_argv("FreezeBelow", steps=10, first=1, depth=1), (10, 11)),
        slow(LINEARIZED, (43,)),
        slow([*LINEARIZED, "--scheme", "Layerwise"], (33,)),
    ],
)
def test_resumed_run_equals_the_run_that_was_not_interrupted(tmp_path, argv, steps):
    assert_resumes(tmp_path, *argv, "--trainer.val_check_interval", "5", steps=steps)
    header = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert ("scheme/frozen_layers" in header) == ("--scheme.freeze" in argv)
    assert "scheme/active_layers" in header or argv == LINEARIZED


def test_resume_with_another_scheme_or_control_is_refused(tmp_path, capsys):
    argv = ["--run.name", "run", *BARE]
    progressive = scheme_argv("Progressive", steps=10)
    assert fit(tmp_path, *argv, *progressive, *intervene("SignalAt", step=5)) == 130
    capsys.readouterr()
    for other, key in (
        (scheme_argv("Layerwise", steps=10), "scheme.class_path"),
        ([*progressive, "--scheme.control", "detach_features"], "scheme.init_args.control"),
        (scheme_argv("Progressive", steps=11), "scheme.init_args.steps"),
    ):
        assert fit(tmp_path, *argv, *other, "--resume", "auto") == 2
        assert key in error_line(capsys.readouterr().err)


LOOP = [*DOUBLE, *BARE, "--target.widths", "[3, 2, 2]", "--trainer.gradient_clip_val", "null"]
LOOP += ["--model.lr_scheduler", "null", "--model.optimizer", "SGD", "--model.optimizer.lr"]
FACTORS = {"steps": 9, "lr_factors": [1, 0.5, 2]}
CONTROLS = ["taught_levels", "detach_features", "detach_readout", "restart", "subtract"]
FRESH = {"first": 1, "steps": [8, 12]}
FRESH_STARTS = [
    *((FreezeBelow, {**FRESH, "depth": depth}) for depth in (0, 1)),
    (PullBelow, {**FRESH, "pull": 0.3}),
]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    root = tmp_path_factory.mktemp("untrained")
    assert fit(root, *LOOP, "0", "--trainer.max_steps", "1") == 0
    return load_run(root / "tiny", checkpoint="last")


@pytest.mark.parametrize(
    ("engine", "kind", "arguments"),
    [
        ("eager", Progressive, FACTORS),
        *(("eager", Progressive, {**FACTORS, "control": control}) for control in CONTROLS),
        *(("autograd", Progressive, {**FACTORS, "control": control}) for control in CONTROLS[1:3]),
        ("eager", Layerwise, {**FACTORS, "control": "taught_levels"}),
        *((engine, *each) for engine in ("eager", "autograd") for each in FRESH_STARTS),
        slow("compiled", *FRESH_STARTS[-1]),
    ],
)
def test_run_equals_a_training_loop_written_out(untrained, tmp_path, engine, kind, arguments):
    argv = [*LOOP, "0.05", *scheme_argv(kind.__name__, **arguments)]
    found = trained(TINY, tmp_path, engine, *argv)
    expected = phased_training(untrained, kind(**arguments).phases(3, 0), 0.05)
    assert gap(found, expected) < 1e-10


def test_loaded_network_has_all_gradients(tmp_path):
    argv = scheme_argv("Progressive", steps=10, control="detach_features")
    assert fit(tmp_path, *argv) == 0
    network = load_run(tmp_path / "tiny", checkpoint="last").network
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    own = network(x).square().sum()
    below = torch.autograd.grad(own, network.layers[0].weight)[0]
    network.cut = "features"
    cut = torch.autograd.grad(network(x).square().sum(), network.layers[0].weight)[0]
    assert not torch.allclose(below, cut)


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize(
    ("name", "control", "engine"),
    [
        ("Progressive", "null", "eager"),
        ("Progressive", "null", "autograd"),
        ("Layerwise", "null", "eager"),
        ("Progressive", "taught_levels", "auto"),
        ("Progressive", "detach_readout", "auto"),
    ],
)
def test_two_processes_share_the_gradients_of_every_phase(tmp_path, name, control, engine):
    argv = [*scheme_argv(name, steps=20, freeze='{"2": 30}'), "--engine", engine]
    argv += ["--scheme.control", control]
    argv += DOUBLE
    for devices in (1, 2):
        code, output = bfc(devices, tmp_path, *argv, "--run.name", str(devices))
        assert code == 0, output
    assert weight_gap(tmp_path / "1", tmp_path / "2") < 1e-10
    before = run_until(tmp_path, "half", 30, *argv)["state_dict"]
    assert equal(layer(before, 2), layer(checkpoint(tmp_path / "1")["state_dict"], 2))
