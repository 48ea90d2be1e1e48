"""What a layer adds to f against what a level adds to G: by hand, and against slow versions."""

import numpy as np
import pytest
import torch
from reference import residual_off_polynomials

from bfc_lightning import DenseNet, Gaussian, GaussianMixture, HierarchicalTarget, Regression
from bfc_lightning.labels import Classification
from bfc_lightning.linearized import LinearizedDenseNet
from bfc_lightning.measures.battery import function_measures, take_sample, take_snapshot
from bfc_lightning.measures.functions import Polynomials, function_error
from bfc_lightning.seeds import generator

NAMES = [
    "features/form_error_1",
    "levels/function_error_1",
    "levels/function_error_2",
    "levels/function_error_projected_1",
    "levels/function_error_projected_2",
]


def points(inputs, count=2**14):
    return inputs.sample(count, generator(0, "functions test"))


def measured(network, target, labels=None):
    labels = Regression(target.inputs) if labels is None else labels
    sample = take_sample(points(target.inputs), target, labels, network)
    return function_measures(take_snapshot(network, sample))


def test_function_error_by_hand():
    learned, wanted = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.0, 4.0])
    assert float(function_error(learned, wanted)) == pytest.approx(0.25)
    assert float(function_error(learned + 7, learned)) == pytest.approx(0.0, abs=1e-12)
    assert float(function_error(torch.ones(3), wanted)) == pytest.approx(1.0)


MIXTURE = GaussianMixture([Gaussian(3, mean=1.0, condition_number=5), Gaussian(3)])


@pytest.mark.parametrize("degree", [1, 2, 4])
@pytest.mark.parametrize(
    "inputs", [Gaussian(3), Gaussian(3, mean=2.0, condition_number=10), MIXTURE]
)
def test_projection_is_least_squares_on_all_monomials(inputs, degree):
    x = points(inputs, 4096)
    learned, wanted = x.sin().sum(dim=1), (x[:, 0] * x[:, 1] + x[:, 2]) ** 4
    polynomials = Polynomials.on(x, degree=degree)
    error = polynomials.function_error(learned, wanted)
    rests = [
        residual_off_polynomials(x.numpy(), values.numpy(), degree)
        for values in (learned - wanted, wanted)
    ]
    assert float(error) == pytest.approx(rests[0] / rests[1], rel=1e-6)


def test_polynomials_that_lower_layers_can_carry_do_not_count():
    x = points(Gaussian(5))
    wanted = (x[:, 0] ** 2 + x[:, 1]) ** 2
    lower = 3 * x[:, 2] * x[:, 3] - x[:, 4] + 7
    polynomials = Polynomials.on(x, degree=2)
    assert float(polynomials.function_error(wanted + lower, wanted)) < 1e-9
    assert float(function_error(wanted + lower, wanted)) > 0.1
    # x_1^4 has the part He_4 beyond degree 2, of variance 24, and is twice too large
    error = polynomials.function_error(2 * x[:, 0] ** 4, x[:, 0] ** 4)
    assert float(error) == pytest.approx(1.0, rel=1e-6)


def test_coordinate_that_is_constant_or_a_copy_of_another_changes_nothing():
    x = points(Gaussian(3))
    wanted, learned = x[:, 0] ** 3, x[:, 0] ** 3 + 0.1 * x[:, 1] ** 3
    alone = float(Polynomials.on(x, degree=2).function_error(learned, wanted))
    more = torch.cat([x, x[:, :1], torch.ones_like(x[:, :1])], dim=1)
    assert float(Polynomials.on(more, degree=2).function_error(learned, wanted)) == pytest.approx(
        alone, rel=1e-3
    )


def test_level_that_lower_layers_can_carry_has_no_projected_error():
    x = points(Gaussian(3))
    assert Polynomials.on(x, degree=2).function_error(x[:, 0] ** 3, x[:, 0] ** 2).isnan()


def test_too_many_monomials_are_left_out():
    assert Polynomials.on(points(Gaussian(70), 100), degree=2) is None
    assert Polynomials.on(points(Gaussian(32), 100), degree=4) is None


def copy_of(target, *, noise=0.0):
    """A learner that computes the raw target x -> level 1 + level 2, layer by layer."""
    network = DenseNet(target.input_dim, target.widths, positive_readout=True).double()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for level, layer in enumerate(network.dense_layers(), start=1):
            layer.weight.zero_()
            for source in target.sources[level - 1]:
                layer.block(source).copy_(target.weight(level, source))
            layer.weight += noise * torch.randn(layer.weight.shape, generator=random).double()
            layer.readout.copy_(target._level("readout", level) / network.scales[level - 1])
    return network


def test_errors_are_those_of_the_outputs_of_layers_and_levels():
    target = HierarchicalTarget(Gaussian(6, mean=0.5), [3, 2], normalize=False, seed=1)
    network = copy_of(target, noise=0.1)
    errors = measured(network, target)
    x = points(target.inputs)
    levels = target.level_outputs(x).numpy()
    features = network.features(x)
    for level, layer in enumerate(network.dense_layers(), start=1):
        with torch.no_grad():
            learned = (network.scales[level - 1] * features[level - 1] @ layer.readout).numpy()
        wanted = levels[:, level - 1]
        whole = np.var(learned - wanted) / np.var(wanted)
        assert errors[f"levels/function_error_{level}"] == pytest.approx(whole, rel=1e-9)
        rows = slice(0, 4096)
        rests = [
            residual_off_polynomials(x[rows].numpy(), values[rows], 2 ** (level - 1))
            for values in (learned - wanted, wanted)
        ]
        name = f"levels/function_error_projected_{level}"
        assert errors[name] == pytest.approx(rests[0] / rests[1], rel=1e-6)


def test_form_error_is_what_is_left_of_the_hessians():
    target = HierarchicalTarget(Gaussian(6), [3, 2], seed=1)
    network = DenseNet(6, [9, 4], level_scales=target.level_scales, seed=2).double()
    network.active_depth = 1
    zero = torch.zeros(6, dtype=torch.float64)
    learned = torch.autograd.functional.hessian(lambda x: network(x[None])[0], zero)
    wanted = torch.autograd.functional.hessian(lambda x: target.level_outputs(x[None])[0, 0], zero)
    expected = float((learned - wanted).square().sum() / wanted.square().sum())
    network.active_depth = 2
    assert measured(network, target)["features/form_error_1"] == pytest.approx(expected, rel=1e-9)


def test_function_measures_are_absent_where_they_mean_nothing():
    target = HierarchicalTarget(Gaussian(6), [3, 2], seed=1)
    classes = Classification(Gaussian(6), seed=1)
    classified = HierarchicalTarget(classes.target_distribution, [3, 2], seed=1)
    network = DenseNet(6, [4, 4], seed=1).double()
    assert measured(network, classified, classes) == {}
    assert measured(LinearizedDenseNet(6, [4, 4], seed=1).double(), target) == {}
    relu = DenseNet(6, [4, 4], activation=torch.nn.ReLU(), seed=1).double()
    assert sorted(measured(relu, target)) == NAMES[1:]
    network.active_depth = 1
    assert sorted(measured(network, target)) == [NAMES[0], NAMES[1], NAMES[3]]
