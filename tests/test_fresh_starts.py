"""FreezeBelow and PullBelow: phases and fresh starts; test_training_scheme.py has whole runs."""

import pytest
import torch

from bfc_lightning.fresh_starts import FreezeBelow, PullBelow
from bfc_lightning.schemes import Phase
from tests.runs import BARE, checkpoint, fit, intervene


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
