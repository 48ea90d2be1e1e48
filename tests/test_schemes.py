"""Schemes: which layers are part of f and which are trained, phase by phase."""

import itertools
from dataclasses import replace

import numpy as np
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


def test_controls_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"control must be one of taught_levels, .* got freeze"):
        Progressive(5, control="freeze")
    with pytest.raises(ValueError, match="control must be one of taught_levels, got restart"):
        Layerwise(5, control="restart")


def test_learning_rate_factors_belong_to_phases():
    phases = Layerwise(5, lr_factors=[1.0, 0.5, 2.0]).phases(3, 0)
    assert [phase.lr_factor for phase in phases] == [1.0, 0.5, 2.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Progressive(0), r"steps must be at least 1, got 0\."),
        (lambda: Layerwise([5, 0]), r"steps must be at least 1, got 0\."),
        (lambda: Layerwise([5, 5]).phases(3, 9), r"one for each of 3 phases, got \[5, 5\]\."),
        (lambda: Layerwise().phases(3, 2), r"trainer.max_steps must be at least 1 for each of 3"),
        (lambda: Joint(freeze={4: 1}).phases(3, 9), r"must name layers 1 to 3, got 4\."),
        (lambda: Joint(freeze={0: 1}).phases(3, 9), r"must name layers 1 to 3, got 0\."),
        (lambda: Joint(freeze={1: 9}).phases(3, 9), r"steps below the run's 9, got 9\."),
        (lambda: Joint(freeze={1: -1}), r"freeze must be at least 0, got -1\."),
    ],
)
def test_schemes_refuse_what_cannot_be(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_steps_are_integers_of_any_type():
    five = np.int64(5)
    assert Progressive(five).phases(2, 0) == Progressive(5).phases(2, 0)
    assert Layerwise([five, five]).phases(2, 0) == Layerwise([5, 5]).phases(2, 0)
    assert Joint(freeze={np.int64(1): five}).freeze == {1: 5}
    for make in (lambda: Progressive(5.0), lambda: Layerwise([5, True]), lambda: Layerwise("5")):
        with pytest.raises(ValueError, match="steps must be an integer, got"):
            make()
    with pytest.raises(ValueError, match=r"freeze must be an integer, got 5\.0"):
        Joint(freeze={1: 5.0})
