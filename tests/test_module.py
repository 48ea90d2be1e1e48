"""The Lightning module without a Trainer: what it builds from a target."""

import pytest

from bfc_lightning import Gaussian, HierarchicalTarget, Regression
from bfc_lightning.module import HierarchicalLearner


@pytest.fixture(scope="module")
def target() -> HierarchicalTarget:
    return HierarchicalTarget(Gaussian(6), [3, 2], level_scales=[1.0, 0.25])


def learner(target, **arguments) -> HierarchicalLearner:
    return HierarchicalLearner(target, Regression(target.inputs), **arguments)


def test_network_takes_dimension_depth_and_scales_from_the_target(target):
    network = learner(target, width=16).network
    assert (network.input_dim, network.depth) == (6, 2)
    assert network.scales == (1.0 / 4, 0.25 / 4)


@pytest.mark.parametrize("signs", ["positive", [[1, -1, 1], [1, 1]]])
def test_readout_follows_its_own_setting_and_not_the_signs_of_the_target(signs):
    target = HierarchicalTarget(Gaussian(6), [3, 2], signs=signs)
    assert float(learner(target).network.dense_layers()[0].readout.detach().sum()) == 0
    positive = learner(target, positive_readout=True).network.dense_layers()
    assert all(bool((layer.readout == 1).all()) for layer in positive)


def test_initialization_is_small_unless_the_learner_is_linearized(target):
    scales = [
        learner(target, **settings).network.init_scale
        for settings in ({}, {"linearized": True}, {"init_scale": 0.5}, {"init_scale": 2.0})
    ]
    assert scales == [0.1, 1.0, 0.5, 2.0]
    assert learner(target, linearized=True, init_scale=0.5).network.init_scale == 0.5


def test_fixed_readout_is_not_given_to_the_optimizer(target):
    model = learner(target, train_readout=False, width=8)
    optimizer = model.build_optimizer(10)["optimizer"]
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    layers = model.network.dense_layers()
    assert all(id(layer.weight) in trained for layer in layers)
    assert not any(id(layer.readout) in trained for layer in layers)


def test_target_is_no_part_of_the_module(target):
    """Otherwise DDP would synchronize it at every step and checkpoints would hold it twice."""
    model = learner(target, width=8)
    assert all(name.startswith("network.") for name in model.state_dict())
    assert not any(module is target for module in model.modules())
