"""The engine against optimizer steps by autograd, one batch at a time."""

import copy
from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import OneCycleLR, StepLR

from bfc_lightning.activations import Huber, Quadratic
from bfc_lightning.engine import Clipping, Engine
from bfc_lightning.inputs import Gaussian
from bfc_lightning.labels import Classification, Regression
from bfc_lightning.linearized import LinearizedDenseNet
from bfc_lightning.matmul import fusable, plain_matmul
from bfc_lightning.networks import DenseNet
from bfc_lightning.objectives import learner_loss, objective_for
from bfc_lightning.schedules import OneCycle
from bfc_lightning.stream import SampleStream
from bfc_lightning.targets import HierarchicalTarget
from bfc_lightning.types import StepChunk
from tests.engines import Steps, gap, trainable, weights
from tests.reference import finite_differences, training_steps

OPTIMIZERS = {
    "Adam": partial(Adam, lr=7e-3, betas=(0.9, 0.95)),
    "AdamW": partial(AdamW, lr=7e-3, weight_decay=0.1),
    "SGD": partial(SGD, lr=0.05),
    "SGD with momentum": partial(SGD, lr=0.02, momentum=0.9, weight_decay=0.01),
}
# Without clipping, squares of squares run away from larger steps.
GENTLE = partial(SGD, lr=1e-3, momentum=0.9)
SCHEDULES = {
    "one cycle": partial(OneCycle, total_steps=100),
    "of PyTorch": partial(OneCycleLR, max_lr=0.01, total_steps=101, cycle_momentum=False),
    "in steps": partial(StepLR, step_size=7, gamma=0.7),
}


class Offset(Quadratic):
    """z^2 with an offset that is trained."""

    def __init__(self):
        super().__init__()
        self.offset = torch.nn.Parameter(torch.zeros(()))

    def forward(self, z):
        return z * z + self.offset


class Case:
    """A problem, its batches, and an initialized learner."""

    def __init__(
        self, *, labels=None, dtype=torch.float64, temperatures=(0.25, None), kind=DenseNet, **given
    ):
        labels = Regression(Gaussian(6), noise_std=0.2) if labels is None else labels
        target = HierarchicalTarget(labels.target_distribution, [3, 2], level_scales=0.5, seed=0)
        self.objective = objective_for(
            target, labels, temperature=temperatures[0], final_temperature=temperatures[1]
        )
        drawn = SampleStream(target, labels, seed=1).block(0, 100, 16)
        self.chunk = StepChunk(drawn.inputs.to(dtype), drawn.labels.to(dtype))
        given = {"widths": [5, 4], "level_scales": target.level_scales, **given}
        self.network = kind(6, seed=2, **given).to(dtype)

    def part(self, start, stop):
        return StepChunk(self.chunk.inputs[start:stop], self.chunk.labels[start:stop])

    def loss_of(self, prediction, labels, progress):
        [scale] = self.objective.scales([progress])
        return self.objective.loss_and_grad(prediction, labels, scale)[0]

    def engine(self, make_optimizer, network=None, **settings):
        network = copy.deepcopy(self.network) if network is None else network
        return Steps(network, self.objective, make_optimizer, **settings)

    def autograd(self, make_optimizer, *, schedule=None, steps=(0, 100), **settings):
        """The learner after autograd's steps, and their losses."""
        network = copy.deepcopy(self.network)
        optimizer = make_optimizer(trainable(network))
        made = schedule(optimizer) if schedule else None
        batches = zip(*self.part(*steps), strict=True)
        losses = training_steps(
            network, batches, loss_of=self.loss_of, optimizer=optimizer, schedule=made, **settings
        )
        return network, losses


def assert_same_run(
    case, make_optimizer, *, clip=None, tolerance=1e-10, steps=100, compiles=False, **settings
):
    """Steps of the engine and of autograd, in chunks of several lengths."""
    clipping = None if clip is None else Clipping(clip[1], clip[0])
    engine = case.engine(make_optimizer, clipping=clipping, compiles=compiles, **settings)
    losses = []
    for start, stop in ((0, 1), (1, 8), (8, steps)):
        losses += engine.take(case.part(start, stop))
    plain, expected = case.autograd(make_optimizer, clip=clip, steps=(0, steps), **settings)
    assert gap(weights(plain), weights(engine.network)) <= tolerance
    assert losses == pytest.approx(expected, rel=100 * tolerance)
    assert gap(weights(case.network), weights(plain)) > 1e-3  # it has moved


# Equal to rounding


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_hundred_steps_are_those_of_autograd(optimizer):
    assert_same_run(Case(), OPTIMIZERS[optimizer], clip=("norm", 0.5))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_follow_the_schedule(schedule):
    assert_same_run(Case(), OPTIMIZERS["Adam"], schedule=SCHEDULES[schedule], clip=("norm", 0.5))


@pytest.mark.parametrize("optimizer", ["Adam", "SGD with momentum"])
def test_schedule_of_the_momentum_is_refused(optimizer):
    case, schedule = Case(), partial(OneCycleLR, max_lr=0.01, total_steps=101)
    with pytest.raises(ValueError, match="lr_scheduler must change the learning rate only"):
        case.engine(OPTIMIZERS[optimizer], schedule=schedule).take(case.part(0, 2))


LEARNERS = [
    *({"widths": [4]}, {"widths": [4, 1, 3]}, {"linear_readout": True}, {"train_readout": False}),
    {"activation": torch.nn.SiLU(), "linear_readout": True},
    {"activation": Offset(), "train_readout": False},
    *({"activation": each} for each in (Huber(0.5), torch.nn.ReLU(), torch.sin)),
    {"kind": LinearizedDenseNet},
]


COMPILED = pytest.param(True, marks=pytest.mark.slow, id="compiled")
either_engine = pytest.mark.parametrize("compiles", [False, COMPILED])


@either_engine
@pytest.mark.parametrize("settings", LEARNERS, ids=lambda each: str(each).split(" of type")[0])
def test_every_learner_is_trained_alike(settings, compiles):
    assert_same_run(Case(**settings), OPTIMIZERS["AdamW"], clip=("norm", 0.5), compiles=compiles)


@either_engine
def test_classification_with_falling_temperature_is_trained_alike(compiles):
    case = Case(labels=Classification(Gaussian(6)), temperatures=(0.5, 0.05), linear_readout=True)
    assert set(case.chunk.labels.flatten().tolist()) == {0.0, 1.0}
    settings = {"clip": ("norm", 0.1), "progress": lambda step: step / 100}
    assert_same_run(case, OPTIMIZERS["Adam"], compiles=compiles, **settings)


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
    for algorithm in ("norm", "value"):
        clipped = Clipping(bound, algorithm).apply(torch.tensor([[3.0, -4.0]]))
        assert clipped.tolist() == [[3.0, -4.0]]


@pytest.mark.parametrize("trained", [(1,), (2,), (1, 2), (1, 3), (3,), ()])
def test_frozen_layers_stay_to_the_bit_and_the_others_train_alike(trained):
    case = Case(widths=[4, 3, 2])
    case.network.train_layers(trained)
    assert_same_run(case, OPTIMIZERS["AdamW"], clip=("norm", 0.5), regularization=[0.1] * 3)
    engine = case.engine(OPTIMIZERS["AdamW"], regularization=[0.1] * 3)
    engine.take(case.part(0, 30))
    before, after = weights(case.network), weights(engine.network)
    for name, value in before.items():
        is_trained = name == "constant" or int(name.split(".")[1]) + 1 in trained
        assert torch.equal(value, after[name]) is not is_trained, name


@pytest.mark.parametrize("optimizer", ["Adam", "SGD with momentum"])
def test_single_precision_is_equal_to_rounding_after_fifty_steps(optimizer):
    case = Case(dtype=torch.float32)
    assert_same_run(case, OPTIMIZERS[optimizer], clip=("norm", 0.02), tolerance=1e-5, steps=50)


# The gradient by hand


def test_gradients_are_finite_differences():
    network = DenseNet(6, [3, 2], level_scales=[1.0, 0.5], linear_readout=True, seed=1).double()
    random = torch.Generator().manual_seed(0)
    x = torch.randn(7, 6, generator=random, dtype=torch.float64)
    grad = torch.randn(7, generator=random, dtype=torch.float64)
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    found = network.output_and_vjp(parameters, x, list(parameters))[1](grad)
    with torch.no_grad():
        values = dict(network.named_parameters())
        expected = finite_differences(lambda: (network(x) * grad).sum(), values.values())
    for name, value in zip(values, expected, strict=True):
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)


# What happens between two chunks


@either_engine
@pytest.mark.parametrize("lengths", [[1], [7], [30, 1, 2], [64]])
def test_chunks_cut_elsewhere_change_no_bit(lengths, compiles):
    case = Case()
    settings = {"schedule": SCHEDULES["one cycle"], "clipping": Clipping(0.5), "compiles": compiles}
    whole, cut = (case.engine(OPTIMIZERS["Adam"], **settings) for _ in range(2))
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
    engine = case.engine(make, clipping=Clipping(0.02))
    network = copy.deepcopy(case.network)
    optimizer = make(trainable(network))
    for start, stop, trained in ((0, 20, (1, 2)), (20, 50, (2,)), (50, 70, (1, 2))):
        for each in (network, engine.network):
            each.train_layers(trained)
            each.zero_grad(set_to_none=True)
        before = weights(engine.network)
        engine.take(case.part(start, stop))
        batches = zip(*case.part(start, stop), strict=True)
        settings = {"loss_of": case.loss_of, "clip": ("norm", 0.02)}
        training_steps(network, batches, optimizer=optimizer, **settings)
        assert gap(weights(network), weights(engine.network)) <= 1e-10
        kept = torch.equal(before["layers.0.weight"], engine.network.layers[0].weight.detach())
        assert kept is (1 not in trained)


def test_layer_that_joins_is_trained_from_then_on():
    case, make = Case(widths=[4, 3]), OPTIMIZERS["Adam"]
    network, plain = copy.deepcopy(case.network), copy.deepcopy(case.network)
    engine = case.engine(make, network)
    for start, stop, depth in ((0, 20, 1), (20, 60, 2)):
        for each in (network, plain):
            each.active_depth = depth
            each.train_layers(range(1, depth + 1))
        engine.optimizer = make(trainable(network))
        engine.take(case.part(start, stop))
        batches = zip(*case.part(start, stop), strict=True)
        optimizer = make(trainable(plain))
        training_steps(plain, batches, loss_of=case.loss_of, optimizer=optimizer)
        assert gap(weights(plain), weights(network)) <= 1e-10


def test_weights_loaded_between_chunks_are_trained_on():
    case = Case()
    engine = case.engine(partial(SGD, lr=1e-3))
    engine.take(case.part(0, 5))
    engine.network.load_state_dict(case.network.state_dict())
    engine.take(case.part(5, 20))
    plain, _ = case.autograd(partial(SGD, lr=1e-3), steps=(5, 20))
    assert gap(weights(plain), weights(engine.network)) <= 1e-12


@pytest.mark.parametrize("make", [OPTIMIZERS["Adam"], GENTLE])
def test_optimizer_state_carries_over_to_autograd_and_back(make):
    case = Case()
    network = copy.deepcopy(case.network)
    engine = case.engine(make, network)
    parts = ((0, 20, False), (20, 50, True), (50, 80, False), (80, 100, True))
    for start, stop, by_engine in parts:
        if by_engine:
            engine.take(case.part(start, stop))
        else:
            batches = zip(*case.part(start, stop), strict=True)
            training_steps(network, batches, loss_of=case.loss_of, optimizer=engine.optimizer)
    plain, _ = case.autograd(make)
    assert gap(weights(plain), weights(network)) <= 1e-10


# Several learners


@either_engine
@pytest.mark.parametrize(
    "settings", [{}, {"activation": torch.nn.ReLU()}, {"kind": LinearizedDenseNet}], ids=str
)
def test_several_learners_equal_single_ones_and_may_diverge_alone(settings, compiles):
    if compiles and "kind" in settings:
        pytest.skip("PyTorch cannot trace several linearized learners")
    cases = [Case(**settings) for _ in range(3)]
    networks = [copy.deepcopy(case.network) for case in cases]
    for number, network in enumerate(networks):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * number)
    single = [cases[0].engine(OPTIMIZERS["Adam"], copy.deepcopy(each)) for each in networks]
    with torch.no_grad():
        networks[1].constant.fill_(torch.nan)
    product = fusable(plain_matmul) if compiles else plain_matmul
    loss = learner_loss(networks[0], cases[0].objective, product=product)
    engine = Engine(networks, loss, compiles=compiles)
    optimizers = [OPTIMIZERS["Adam"](trainable(network)) for network in networks]
    chunk = cases[0].part(0, 50)
    losses = engine.run(
        StepChunk(*(column.unsqueeze(1).expand(-1, 3, *column.shape[1:]) for column in chunk)),
        optimizers,
        [],
        [cases[0].objective.scales([0.0]) * 3] * 50,
    )
    for number in (0, 2):
        assert losses[:, number].tolist() == pytest.approx(single[number].take(chunk), rel=1e-9)
        assert gap(weights(single[number].network), weights(networks[number])) <= 1e-10
    assert losses[:, 1].isnan().all()


def test_learners_of_different_shapes_are_refused():
    networks = [DenseNet(3, [2]), DenseNet(3, [4])]
    engine = Engine(networks, learner_loss(networks[0], Case().objective))
    optimizers = [SGD(network.parameters(), lr=0.1) for network in networks]
    with pytest.raises(ValueError, match="must have the same shape, got 2 shapes"):
        engine.run(Case().part(0, 1), optimizers, [], [[1.0, 1.0]])


@pytest.mark.slow
def test_compiled_step_follows_what_a_scheme_changes():
    case = Case(widths=[4, 3])
    engines = [case.engine(GENTLE, compiles=compiles) for compiles in (False, True)]
    for number, change in enumerate([{}, {"cut": "features"}, {"cut": "readout"}, {"pull": 9.0}]):
        for engine in engines:
            if "pull" in change:
                engine.network.pull_towards(case.network.weights_up_to(1), change["pull"])
            engine.network.cut = change.get("cut", "none")
            engine.take(case.part(10 * number, 10 * number + 10))
        assert gap(*(weights(engine.network) for engine in engines)) <= 1e-10


@pytest.mark.slow
def test_step_is_compiled_again_for_another_precision_and_batch_size():
    case = Case()
    single, double = (case.engine(GENTLE, compiles=compiles) for compiles in (True, False))
    single.network.float()
    single.engine.trace(single.optimizer, num_samples=5).load()
    single.network.double()
    assert single.take(case.part(0, 20)) == pytest.approx(double.take(case.part(0, 20)), rel=1e-5)
