"""Schemes: which layers are part of f and which are trained, phase by phase."""

import itertools
from dataclasses import replace

import pytest

from bfc_lightning.schemes import Joint, Layerwise, Phase, Progressive


def test_joint_is_one_phase_of_all_layers():
    assert Joint().phases(3, 100) == [Phase(0, 100, 3, (1, 2, 3))]


def test_progressive_adds_layers_and_trains_all_lower_ones():
    assert Progressive([10, 20, 30]).phases(3, 999) == [
        Phase(0, 10, 1, (1,)),
        Phase(10, 30, 2, (1, 2)),
        Phase(30, 60, 3, (1, 2, 3)),
    ]


def test_layerwise_trains_the_newest_layer_only():
    assert Layerwise(5).phases(3, 999) == [
        Phase(0, 5, 1, (1,)),
        Phase(5, 10, 2, (2,)),
        Phase(10, 15, 3, (3,)),
    ]


@pytest.mark.parametrize("scheme", [Progressive(), Layerwise()])
def test_phases_share_the_run_out_equally_without_gaps(scheme):
    for max_steps in (3, 10, 4000):
        phases = scheme.phases(3, max_steps)
        assert phases[0].start == 0
        assert phases[-1].stop == max_steps
        assert all(a.stop == b.start for a, b in itertools.pairwise(phases))
        assert max(p.length for p in phases) - min(p.length for p in phases) <= 1
        assert min(p.length for p in phases) >= 1


def test_frozen_layers_leave_every_later_phase():
    phases = Progressive(10, freeze={1: 15, 2: 20}).phases(3, 0)
    assert [phase.trained for phase in phases] == [(1,), (1, 2), (3,)]


def test_freeze_acts_from_its_step_on():
    scheme = Joint(freeze={2: 5})
    assert scheme.frozen_at(4) == frozenset()
    assert scheme.frozen_at(5) == {2}
    assert Joint(freeze={1: 0}).phases(2, 10)[0].trained == (2,)


def test_progress_counts_from_the_start_of_the_phase():
    phase = Phase(10, 30, 2, (1, 2))
    assert phase.length == 20
    assert [phase.progress(step) for step in (10, 20, 30)] == [0.0, 0.5, 1.0]


def test_controls_change_the_phases_from_the_second_on():
    plain = [Phase(0, 5, 1, (1,)), Phase(5, 10, 2, (1, 2)), Phase(10, 15, 3, (1, 2, 3))]
    assert Progressive(5).phases(3, 0) == plain
    first, *later = plain
    for name, cut in (("detach_features", "features"), ("detach_readout", "readout")):
        expected = [first, *(replace(phase, cut=cut) for phase in later)]
        assert Progressive(5, control=name).phases(3, 0) == expected
    alone = [first, *(replace(phase, depth=1, trained=(1,)) for phase in later)]
    assert Progressive(5, control="restart").phases(3, 0) == alone
    alone = [first, *(replace(phase, taught=1) for phase in alone[1:])]
    assert Progressive(5, control="subtract").phases(3, 0) == alone
    taught = [replace(phase, taught=level) for level, phase in enumerate(plain, start=1)]
    assert Progressive(5, control="taught_levels").phases(3, 0) == taught


def test_learning_rate_factors_belong_to_phases():
    phases = Layerwise(5, lr_factors=[1.0, 0.5, 2.0]).phases(3, 0)
    assert [phase.lr_factor for phase in phases] == [1.0, 0.5, 2.0]
