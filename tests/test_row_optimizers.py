"""Optimizers in rows: the steps of PyTorch's own, of many networks at once."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from bfc_lightning import DenseNet
from bfc_lightning.gradients import FlatParameters
from bfc_lightning.row_optimizers import RowOptimizer, why_not_in_rows

RATES, DECAYS = (1e-2, 3e-3, 0.1), (0.0, 0.02, 0.3)
NUM_STEPS = 6
KINDS = {
    "SGD": (SGD, {}),
    "SGD with momentum": (SGD, {"momentum": 0.9}),
    "SGD with dampening": (SGD, {"momentum": 0.8, "dampening": 0.4}),
    "SGD of Nesterov": (SGD, {"momentum": 0.7, "nesterov": True}),
    "Adam": (Adam, {"betas": (0.9, 0.95)}),
    "Adam with decoupled decay": (Adam, {"decoupled_weight_decay": True}),
    "AdamW": (AdamW, {"eps": 1e-6}),
}
every_kind = pytest.mark.parametrize("name", KINDS)


def make_networks() -> list[DenseNet]:
    return [DenseNet(4, [3, 2], linear_readout=True, seed=seed).double() for seed in range(3)]


def make_optimizers(networks, name: str, decays=DECAYS) -> list:
    kind, arguments = KINDS[name]
    return [
        kind(
            [p for p in network.parameters() if p.requires_grad],
            lr=rate,
            weight_decay=decay,
            **arguments,
        )
        for network, rate, decay in zip(networks, RATES, decays, strict=True)
    ]


def gradient(network: int, parameter: nn.Parameter, place: int, step: int) -> Tensor:
    """The same for the rows and the reference, and another one at every step."""
    random = torch.Generator().manual_seed(1000 * network + 50 * step + place)
    return torch.randn(parameter.shape, generator=random, dtype=torch.float64)


def set_gradients(networks, step: int) -> None:
    for number, network in enumerate(networks):
        for place, parameter in enumerate(network.parameters()):
            if parameter.requires_grad:
                drawn = gradient(number, parameter, place, step)
                if parameter.grad is None:
                    parameter.grad = drawn
                else:
                    parameter.grad.copy_(drawn)


def take_steps(networks, steps: range, step_all, optimizers) -> None:
    """Steps at rates that change in the middle, as a schedule changes them."""
    for step in steps:
        set_gradients(networks, step)
        for optimizer, rate in zip(optimizers, RATES, strict=True):
            optimizer.param_groups[0]["lr"] = rate / (1 + step)
        step_all()


def reference(name: str, decays=DECAYS, trained=(1, 2), steps: int = NUM_STEPS) -> tuple:
    """PyTorch's own optimizers, one after another, a tensor at a time."""
    networks = make_networks()
    for network in networks:
        network.train_layers(trained)
    optimizers = make_optimizers(networks, name, decays)
    for optimizer in optimizers:
        optimizer.param_groups[0]["foreach"] = False

    def step_all() -> None:
        for optimizer in optimizers:
            optimizer.step()

    take_steps(networks, range(steps), step_all, optimizers)
    return networks, optimizers


def in_rows(networks, name: str, decays=DECAYS) -> tuple[RowOptimizer, FlatParameters, list]:
    optimizers = make_optimizers(networks, name, decays)
    parameters = FlatParameters(networks)
    parameters.attach()
    return RowOptimizer(optimizers, parameters), parameters, optimizers


def assert_close(networks, others, tolerance: float = 1e-12) -> None:
    for network, other in zip(networks, others, strict=True):
        for (name, value), wanted in zip(
            network.named_parameters(), other.parameters(), strict=True
        ):
            assert torch.allclose(value, wanted, rtol=tolerance, atol=tolerance), name


@every_kind
@pytest.mark.parametrize("decays", [DECAYS, (0.0, 0.0, 0.0)])
def test_rows_take_the_steps_of_pytorch(name, decays):
    networks = make_networks()
    rows, _, optimizers = in_rows(networks, name, decays)
    take_steps(networks, range(NUM_STEPS), rows.step, optimizers)
    assert_close(networks, reference(name, decays)[0])


@every_kind
def test_state_handed_back_is_that_of_pytorch(name):
    networks = make_networks()
    rows, _, optimizers = in_rows(networks, name)
    take_steps(networks, range(NUM_STEPS), rows.step, optimizers)
    rows.hand_back()
    for mine, theirs in zip(optimizers, reference(name)[1], strict=True):
        wanted = theirs.state_dict()["state"]
        for place, state in wanted.items():
            for key, value in state.items():
                if value is None:  # SGD without momentum
                    continue
                kept = mine.state_dict()["state"][place][key]
                assert torch.allclose(kept, value, rtol=1e-12, atol=1e-12), (place, key)


@every_kind
def test_state_loaded_again_goes_on_bit_for_bit(name):
    whole = make_networks()
    rows, _, optimizers = in_rows(whole, name)
    take_steps(whole, range(NUM_STEPS), rows.step, optimizers)
    first = make_networks()
    rows, _, optimizers = in_rows(first, name)
    take_steps(first, range(3), rows.step, optimizers)
    rows.hand_back()
    second = copy.deepcopy(first)
    fresh = make_optimizers(second, name)
    for optimizer, saved in zip(fresh, optimizers, strict=True):
        optimizer.load_state_dict(copy.deepcopy(saved.state_dict()))
    parameters = FlatParameters(second)
    parameters.attach()
    take_steps(second, range(3, NUM_STEPS), RowOptimizer(fresh, parameters).step, fresh)
    assert_close(second, whole, tolerance=0)


@every_kind
def test_what_is_not_trained_stays_bit_identical(name):
    networks = make_networks()
    for network in networks:
        network.train_layers([2])
    before = [network.layers[0].weight.clone() for network in networks]
    rows, _, optimizers = in_rows(networks, name)
    take_steps(networks, range(NUM_STEPS), rows.step, optimizers)
    for network, weight in zip(networks, before, strict=True):
        assert torch.equal(network.layers[0].weight, weight)
    assert_close(networks, reference(name, trained=(2,))[0])


@every_kind
def test_row_that_is_not_a_number_leaves_the_others_bit_identical(name):
    results = []
    for poison in (1.0, float("nan")):
        networks = make_networks()
        rows, parameters, optimizers = in_rows(networks, name)
        parameters.values[1] *= poison
        take_steps(networks, range(NUM_STEPS), rows.step, optimizers)
        results.append(parameters.values)
    assert torch.equal(results[0][::2], results[1][::2])
    assert results[1][1].isnan().all()


def pair(first, second) -> list:
    networks = make_networks()[:2]
    return [
        kind(network.parameters(), lr=0.1, **arguments)
        for network, (kind, arguments) in zip(networks, (first, second), strict=True)
    ]


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ((RMSprop, {}), (RMSprop, {}), "RMSprop"),
        ((SGD, {}), (Adam, {}), "Adam and SGD"),
        ((Adam, {"amsgrad": True}), (Adam, {"amsgrad": True}), "amsgrad"),
        ((SGD, {"maximize": True}), (SGD, {}), "maximize"),
        ((Adam, {"betas": (0.9, 0.99)}), (Adam, {}), "different betas"),
        ((SGD, {"momentum": 0.9}), (SGD, {}), "different momentum"),
        (
            (Adam, {"decoupled_weight_decay": True}),
            (Adam, {}),
            "different decoupled_weight_decay",
        ),
    ],
)
def test_optimizers_that_cannot_share_rows_are_refused(first, second, reason):
    optimizers = pair(first, second)
    assert why_not_in_rows(optimizers) == reason
    networks = make_networks()[:2]
    with pytest.raises(ValueError, match=f"must be compatible with each other, got {reason}"):
        RowOptimizer(optimizers, FlatParameters(networks))


def test_several_groups_of_parameters_are_refused():
    network = make_networks()[0]
    groups = [{"params": [network.constant]}, {"params": [network.linear]}]
    reason = why_not_in_rows([SGD(groups, lr=0.1)])
    assert reason == "several groups of parameters"
