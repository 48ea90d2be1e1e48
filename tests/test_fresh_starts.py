"""FreezeBelow and PullBelow: phases, fresh starts, the pull, resuming."""

import pytest
import torch

from bfc_lightning.fresh_starts import FreezeBelow, PullBelow
from bfc_lightning.runs.loading import load_run
from bfc_lightning.schemes import Phase
from tests.engines import gap
from tests.launches import fit_argv, unchecked
from tests.reference import phased_training
from tests.runs import BARE, DOUBLE, assert_same_run, checkpoint, fit, intervene

FREEZE = ["--scheme", "FreezeBelow", "--scheme.first", "1", "--scheme.depth"]
PULL = ["--scheme", "PullBelow", "--scheme.first", "1", "--scheme.pull", "0.3"]
STEPS = ["--scheme.steps", "[8, 12]"]
SGD = ["--trainer.gradient_clip_val", "null", "--model.lr_scheduler", "null"]
SGD += ["--model.optimizer", "SGD", "--model.optimizer.lr", "0.05"]
SGD += [*DOUBLE, *BARE]


@pytest.mark.parametrize(("depth", "trained"), [(0, (3, 4)), (1, (2, 3, 4)), (2, (1, 2, 3, 4))])
def test_first_layers_above_the_frozen_ones_train_again(depth, trained):
    assert FreezeBelow(2, depth, [10, 30]).phases(4, 0) == [
        Phase(0, 10, 2, (1, 2)),
        Phase(10, 40, 4, trained, is_fresh=True),
    ]


def test_pulled_layers_are_all_trained():
    assert PullBelow(2, 0.1, 10).phases(3, 0) == [
        Phase(0, 10, 2, (1, 2)),
        Phase(10, 20, 3, (1, 2, 3), is_fresh=True, pull=0.1),
    ]


def test_length_of_the_run_is_halved_by_default():
    scheme = FreezeBelow(1, 0)
    assert scheme.stretches
    assert not FreezeBelow(1, 0, 5).stretches
    assert [(phase.start, phase.stop) for phase in scheme.phases(2, 21)] == [(0, 10), (10, 21)]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    root = tmp_path_factory.mktemp("untrained")
    assert fit(root, *SGD, "--model.optimizer.lr", "0", "--trainer.max_steps", "1") == 0
    return load_run(root / "tiny", checkpoint="last")


CASES = {
    "frozen": ([*FREEZE, "0"], FreezeBelow(1, 0, [8, 12])),
    "free": ([*FREEZE, "1"], FreezeBelow(1, 1, [8, 12])),
    "pulled": (PULL, PullBelow(1, 0.3, [8, 12])),
}


@pytest.mark.parametrize("engine", ["eager", "autograd"])
@pytest.mark.parametrize("name", CASES)
def test_run_equals_a_training_loop_written_out(untrained, tmp_path, name, engine):
    argv, scheme = CASES[name]
    assert fit(tmp_path, *SGD, *argv, *STEPS, "--engine", engine) == 0
    expected = phased_training(untrained, scheme.phases(2, 0), 0.05)
    assert gap(checkpoint(tmp_path / "tiny")["state_dict"], expected) < 1e-10


@pytest.mark.slow
def test_compiled_run_equals_a_training_loop_written_out(untrained, tmp_path):
    argv = fit_argv(tmp_path, *SGD, *PULL, *STEPS)
    code, output = unchecked(*argv, "--engine", "compiled")
    assert code == 0, output
    expected = phased_training(untrained, CASES["pulled"][1].phases(2, 0), 0.05)
    assert gap(checkpoint(tmp_path / "tiny")["state_dict"], expected) < 1e-10


def test_each_replica_is_pulled_to_its_own_weights(tmp_path):
    argv = [*PULL, *STEPS, *DOUBLE, *BARE]
    assert fit(tmp_path, *argv, "--model.num_replicas", "2") == 0
    weights = checkpoint(tmp_path / "tiny")["state_dict"]
    for number in range(2):
        alone = ["--run.name", str(number), "--seed_everything", str(number)]
        assert fit(tmp_path, *argv, *alone, "--engine", "autograd") == 0
        single = checkpoint(tmp_path / str(number))["state_dict"]
        own = {name: weights[f"learners.{number}.{name}"] for name in single}
        assert gap(own, single) < 1e-10


def test_frozen_layers_keep_every_bit_and_the_others_start_from_their_initialization(tmp_path):
    argv = ["--target.widths", "[3, 2, 2]", *BARE, "--scheme", "FreezeBelow"]
    argv += ["--scheme.first", "2", "--scheme.depth", "1", "--scheme.steps", "[10, 10]"]
    for step in (0, 10):
        argv += intervene("WeightsAt", step=step, path=tmp_path / f"{step}.pt")
    assert fit(tmp_path, *argv) == 0
    initial, fresh = (torch.load(tmp_path / f"{step}.pt") for step in (0, 10))
    after = checkpoint(tmp_path / "tiny")["state_dict"]
    for name in initial:
        is_frozen = name.startswith("network.layers.0.")
        assert torch.equal(fresh[name], after[name]) == is_frozen, name
        assert torch.equal(fresh[name], initial[name]) == (not is_frozen), name


@pytest.mark.parametrize(
    ("argv", "engine"),
    [
        (PULL, "eager"),
        pytest.param(PULL, "autograd", marks=pytest.mark.slow),
        pytest.param([*FREEZE, "0"], "eager", marks=pytest.mark.slow),
        pytest.param([*FREEZE, "1"], "eager", marks=pytest.mark.slow),
    ],
)
def test_resumed_run_equals_the_run_that_was_not_interrupted(tmp_path, argv, engine):
    argv = [*argv, *STEPS, "--trainer.val_check_interval", "4", "--engine", engine]
    assert fit(tmp_path, "--run.name", "whole", *argv) == 0
    for step in (8, 9):
        cut = [*argv, "--run.name", f"cut-{step}"]
        assert fit(tmp_path, *cut, *intervene("SignalAt", step=step)) == 130
        assert checkpoint(tmp_path / f"cut-{step}")["global_step"] == step
        assert fit(tmp_path, *cut, "--resume", "auto") == 0
        assert_same_run(tmp_path / "whole", tmp_path / f"cut-{step}")
    header = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert "features/weight_correlation_1" in header
