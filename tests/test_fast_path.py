"""The fast training path against optimizer steps by autograd, one batch at a time."""

import copy
from functools import partial

import pytest
import torch
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, RMSprop
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from bfc_lightning.activations import Huber, Quadratic
from bfc_lightning.fast_path import Clipping
from bfc_lightning.inputs import Gaussian
from bfc_lightning.labels import Classification, Regression
from bfc_lightning.networks import DenseNet
from bfc_lightning.objectives import objective_for
from bfc_lightning.schedules import OneCycle
from bfc_lightning.stream import SampleStream
from bfc_lightning.targets import HierarchicalTarget
from bfc_lightning.types import Batch, StepChunk
from tests.fast_paths import Steps, gap, trainable, weights
from tests.reference import training_steps

OPTIMIZERS = {
    "Adam": partial(Adam, lr=7e-3, betas=(0.9, 0.95)),
    "Adam with decay": partial(Adam, lr=7e-3, weight_decay=0.1, amsgrad=True),
    "AdamW": partial(AdamW, lr=7e-3, weight_decay=0.1),
    "SGD": partial(SGD, lr=0.05),
    "SGD with momentum": partial(SGD, lr=0.02, momentum=0.9, weight_decay=0.01),
    "Nesterov": partial(SGD, lr=0.02, momentum=0.9, nesterov=True),
    "RMSprop": partial(RMSprop, lr=1e-3, momentum=0.5),
    "Adagrad": partial(Adagrad, lr=1e-2),
    "NAdam": partial(NAdam, lr=1e-3),
}
# Without clipping, squares of squares run away from larger steps.
GENTLE = partial(SGD, lr=1e-3, momentum=0.9)
WITHOUT_MEMORY = partial(SGD, lr=1e-3)
SCHEDULES = {
    "none": None,
    "one cycle": partial(OneCycle, total_steps=100),
    "of the momentum, too": partial(OneCycleLR, max_lr=0.01, total_steps=101),
    "in steps": partial(StepLR, step_size=7, gamma=0.7),
}


class Case:
    """A problem, its batches, and a start of the learner."""

    def __init__(self, *, labels=None, dtype=torch.float64, temperatures=(0.25, None), **settings):
        kind = Regression(Gaussian(6), noise_std=0.2) if labels is None else labels
        target = HierarchicalTarget(kind.target_distribution, [3, 2], level_scales=0.5, seed=0)
        self.objective = objective_for(
            target, kind, temperature=temperatures[0], final_temperature=temperatures[1]
        )
        stream = SampleStream(target, kind, seed=1)
        drawn = stream.block("train", 0, 100, 16)
        self.chunk = StepChunk(drawn.inputs.to(dtype), drawn.labels.to(dtype))
        settings = {"widths": [5, 4], "level_scales": target.level_scales, **settings}
        self.network = DenseNet(6, seed=2, **settings).to(dtype)

    def part(self, start, stop):
        return StepChunk(self.chunk.inputs[start:stop], self.chunk.labels[start:stop])

    def loss_of(self, prediction, labels, progress):
        return self.objective.loss(prediction, Batch(labels, labels, labels), progress)

    def fast(self, make_optimizer, network=None, **settings):
        return Steps(
            network or copy.deepcopy(self.network), self.objective, make_optimizer, **settings
        )

    def plain(self, make_optimizer, *, schedule=None, steps=(0, 100), **settings):
        """The learner after autograd's steps, and their losses."""
        network = copy.deepcopy(self.network)
        optimizer = make_optimizer(trainable(network))
        made = schedule(optimizer) if schedule else None
        batches = zip(*self.part(*steps), strict=True)
        losses = training_steps(
            network, batches, loss_of=self.loss_of, optimizer=optimizer, schedule=made, **settings
        )
        return network, losses


def assert_same_run(case, make_optimizer, *, clip=None, tolerance=1e-10, steps=100, **settings):
    """A hundred steps of both paths, in chunks of several lengths."""
    clipping = None if clip is None else Clipping(clip[1], clip[0])
    fast = case.fast(make_optimizer, clipping=clipping, **settings)
    losses = []
    for start, stop in ((0, 1), (1, 8), (8, steps)):
        losses += fast.take(case.part(start, stop))
    plain, expected = case.plain(make_optimizer, clip=clip, steps=(0, steps), **settings)
    assert gap(weights(plain), weights(fast.network)) <= tolerance
    assert losses == pytest.approx(expected, rel=100 * tolerance)
    assert gap(weights(case.network), weights(plain)) > 1e-3  # it has moved


# Equal to rounding


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_hundred_steps_are_those_of_autograd(optimizer):
    assert_same_run(Case(), OPTIMIZERS[optimizer], clip=("norm", 0.5))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", ["Adam", "SGD with momentum"])
def test_rates_follow_the_schedule(schedule, optimizer):
    assert_same_run(Case(), OPTIMIZERS[optimizer], schedule=SCHEDULES[schedule], clip=("norm", 0.5))


@pytest.mark.parametrize("activation", [Quadratic(), Huber(0.5), torch.nn.ReLU()])
@pytest.mark.parametrize(
    "shape",
    [
        {"widths": [4]},
        {"widths": [4, 1, 3]},
        {"linear_readout": True},
        {"train_readout": False},
    ],
    ids=str,
)
def test_every_shape_of_learner_is_trained_alike(shape, activation):
    case = Case(activation=activation, **shape)
    assert_same_run(case, OPTIMIZERS["Adam"], clip=("norm", 0.5))


def test_classification_with_falling_temperature_is_trained_alike():
    case = Case(labels=Classification(Gaussian(6)), temperatures=(0.5, 0.05), linear_readout=True)
    assert set(case.chunk.labels.flatten().tolist()) == {0.0, 1.0}
    settings = {"clip": ("norm", 0.1), "progress": lambda step: step / 100}
    assert_same_run(case, OPTIMIZERS["Adam"], **settings)


@pytest.mark.parametrize("train_readout", [True, False])
def test_penalty_is_part_of_loss_and_gradients(train_readout):
    case = Case(train_readout=train_readout)
    assert_same_run(case, OPTIMIZERS["Adam"], regularization=[0.05, 0.2], clip=("norm", 0.5))
    assert_same_run(case, OPTIMIZERS["SGD"], regularization=[0.0, 0.2], clip=("value", 0.1))


@pytest.mark.parametrize("clip", [None, ("norm", 0.02), ("norm", 1e6), ("value", 0.01)], ids=str)
def test_clipping_is_that_of_pytorch(clip):
    assert_same_run(Case(), OPTIMIZERS["Adam"], clip=clip)
    # Adam forgets the length of a gradient, SGD shows it.
    assert_same_run(Case(), GENTLE, clip=clip, steps=50)


@pytest.mark.parametrize("bound", [None, 0, 0.0, -1.0])
def test_clipping_without_a_bound_changes_nothing(bound):
    gradients = torch.tensor([[3.0, -4.0]])
    for algorithm in ("norm", "value"):
        Clipping(bound, algorithm).apply(gradients)
    assert gradients.tolist() == [[3.0, -4.0]]


def test_clipping_worked_by_hand():
    by_norm, by_value = torch.tensor([[3.0, -4.0]]), torch.tensor([[3.0, -4.0]])
    Clipping(1.0).apply(by_norm)
    Clipping(3.5, "value").apply(by_value)
    torch.testing.assert_close(by_norm, torch.tensor([[0.6, -0.8]]))
    assert by_value.tolist() == [[3.0, -3.5]]


@pytest.mark.parametrize("trained", [(1,), (2,), (1, 2), (1, 3), (3,), ()])
def test_frozen_layers_stay_to_the_bit_and_the_others_train_alike(trained):
    case = Case(widths=[4, 3, 2])
    case.network.train_layers(trained)
    assert_same_run(case, OPTIMIZERS["AdamW"], clip=("norm", 0.5), regularization=[0.1] * 3)
    fast = case.fast(OPTIMIZERS["AdamW"], regularization=[0.1] * 3)
    fast.take(case.part(0, 30))
    before, after = weights(case.network), weights(fast.network)
    for name, value in before.items():
        is_trained = name == "constant" or int(name.split(".")[1]) + 1 in trained
        assert torch.equal(value, after[name]) is not is_trained, name


@pytest.mark.parametrize("optimizer", ["Adam", "SGD with momentum", "RMSprop"])
def test_single_precision_is_equal_to_rounding_after_fifty_steps(optimizer):
    case = Case(dtype=torch.float32)
    assert_same_run(case, OPTIMIZERS[optimizer], clip=("norm", 0.02), tolerance=1e-5, steps=50)


# What happens between two chunks


@pytest.mark.parametrize("lengths", [[1], [7], [30, 1, 2], [64]])
def test_chunks_cut_elsewhere_change_no_bit(lengths):
    case = Case()
    settings = {"schedule": SCHEDULES["one cycle"], "clipping": Clipping(0.5)}
    whole, cut = (case.fast(OPTIMIZERS["Adam"], **settings) for _ in range(2))
    expected, losses, start = whole.take(case.chunk), [], 0
    while start < 100:
        for length in lengths:
            losses += cut.take(case.part(start, start + length)) if start < 100 else []
            start += length
    assert losses == expected
    for name, value in weights(whole.network).items():
        assert torch.equal(value, weights(cut.network)[name]), name


def test_layer_frozen_in_mid_run_keeps_its_state_and_leaves_the_clipping():
    case, make = Case(widths=[4, 3]), OPTIMIZERS["SGD with momentum"]
    fast = case.fast(make, clipping=Clipping(0.02))
    network = copy.deepcopy(case.network)
    optimizer = make(trainable(network))
    for start, stop, trained in ((0, 20, (1, 2)), (20, 50, (2,)), (50, 70, (1, 2))):
        for each in (network, fast.network):
            each.train_layers(trained)
            each.zero_grad(set_to_none=True)
        before = weights(fast.network)
        fast.take(case.part(start, stop))
        batches = zip(*case.part(start, stop), strict=True)
        settings = {"loss_of": case.loss_of, "clip": ("norm", 0.02)}
        training_steps(network, batches, optimizer=optimizer, **settings)
        assert gap(weights(network), weights(fast.network)) <= 1e-10
        kept = torch.equal(before["layers.0.weight"], fast.network.layers[0].weight.detach())
        assert kept is (1 not in trained)


def test_layer_that_joins_is_trained_from_then_on():
    case, make = Case(widths=[4, 3]), OPTIMIZERS["Adam"]
    network, plain = copy.deepcopy(case.network), copy.deepcopy(case.network)
    start = weights(network)
    for each in (network, plain):
        each.active_depth = 1
        each.train_layers([1])
    fast = case.fast(make, network)
    fast.take(case.part(0, 20))
    training_steps(
        plain,
        zip(*case.part(0, 20), strict=True),
        loss_of=case.loss_of,
        optimizer=make(trainable(plain)),
    )
    assert torch.equal(start["layers.1.weight"], network.layers[1].weight.detach())
    for each in (network, plain):
        each.active_depth = 2
        each.train_layers([1, 2])
    fast.optimizer = make(trainable(network))
    fast.take(case.part(20, 60))
    training_steps(
        plain,
        zip(*case.part(20, 60), strict=True),
        loss_of=case.loss_of,
        optimizer=make(trainable(plain)),
    )
    assert gap(weights(plain), weights(network)) <= 1e-10


def test_gradients_may_be_none_between_chunks():
    """Lightning sets them to None before every validation."""
    case = Case()
    one, other = case.fast(OPTIMIZERS["Adam"]), case.fast(OPTIMIZERS["Adam"])
    one.take(case.chunk)
    for start in range(0, 100, 25):
        other.take(case.part(start, start + 25))
        other.network.zero_grad(set_to_none=True)
    for name, value in weights(one.network).items():
        assert torch.equal(value, weights(other.network)[name]), name


def test_weights_loaded_between_chunks_are_trained_on():
    case = Case()
    fast = case.fast(WITHOUT_MEMORY)
    fast.take(case.part(0, 5))
    fast.network.load_state_dict(case.network.state_dict())
    fast.take(case.part(5, 20))
    plain, _ = case.plain(WITHOUT_MEMORY, steps=(5, 20))
    assert gap(weights(plain), weights(fast.network)) <= 1e-12


@pytest.mark.parametrize("make", [OPTIMIZERS["Adam"], GENTLE, OPTIMIZERS["RMSprop"]])
def test_optimizer_state_carries_over_to_the_plain_path_and_back(make):
    case = Case()
    network = copy.deepcopy(case.network)
    fast = case.fast(make, network)
    for start, stop, is_fast in ((0, 20, False), (20, 50, True), (50, 80, False), (80, 100, True)):
        if is_fast:
            fast.take(case.part(start, stop))
        else:
            batches = zip(*case.part(start, stop), strict=True)
            training_steps(network, batches, loss_of=case.loss_of, optimizer=fast.optimizer)
    plain, _ = case.plain(make)
    assert gap(weights(plain), weights(network)) <= 1e-10


def test_step_count_of_another_dtype_is_accepted_by_the_fused_kernel():
    case, make = Case(), OPTIMIZERS["Adam"]
    fast = case.fast(make)
    batches = zip(*case.part(0, 10), strict=True)
    training_steps(fast.network, batches, loss_of=case.loss_of, optimizer=fast.optimizer)
    for state in fast.optimizer.state.values():
        state["step"] = state["step"].double()
    fast.take(case.part(10, 50))
    states = fast.optimizer.state.values()
    assert {(state["step"].dtype, float(state["step"])) for state in states} == {
        (torch.float32, 50.0)
    }
    plain, _ = case.plain(make, steps=(0, 50))
    assert gap(weights(plain), weights(fast.network)) <= 1e-10


@pytest.mark.parametrize(
    ("given", "fused"),
    [
        ({}, True),
        ({"foreach": True}, None),
        ({"foreach": False}, None),
        ({"fused": False}, False),
        ({"capturable": False}, True),
    ],
)
def test_fused_kernel_is_taken_unless_the_user_has_chosen(given, fused):
    case = Case()
    fast = case.fast(partial(Adam, lr=1e-3, **given))
    fast.take(case.part(0, 3))
    assert fast.optimizer.param_groups[0]["fused"] is fused
