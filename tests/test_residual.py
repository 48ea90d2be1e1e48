"""ReLU networks with vector outputs: formulas, gradients, engines, rivals, errors."""

import pytest
import torch

from bfc_lightning import ChainNet, Hypercube, NestedParities, Regression, ResidualNet, load_run
from bfc_lightning.baselines import KernelRidge, RandomFeatures, ReLUChainNTK, Task
from bfc_lightning.cli import main
from bfc_lightning.measures.vectors import vector_measures
from bfc_lightning.objectives import RegressionObjective
from bfc_lightning.types import Batch
from tests.engines import gap
from tests.launches import trained
from tests.reference import finite_differences
from tests.runs import DOUBLE, checkpoint, error_line, summary

CONFIG = "tests/configs/resnet.yaml"
RIVALS = [KernelRidge(ridge=1e-3), RandomFeatures(width=30, ridge=1e-3), ReLUChainNTK(depth=2)]


def make_net(kind, depth=2):
    network = kind(5, (3,), width=7, depth=depth).double()
    random = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, generator=random)
    return network


def by_hand(network, x):
    """The formula of both networks, with the weights and biases of every layer taken apart."""
    a, value, output = network.readout, x, 0.0
    for layer in network.layers:
        v = (layer.initial + layer.change).detach()
        neurons = torch.clamp(value @ v[:, :-1].T + v[:, -1], min=0)
        output = output + neurons @ a.T
        value = output if network.reads_output else neurons
    return output if network.reads_output else value @ a.T


@pytest.mark.parametrize("kind", [ResidualNet, ChainNet])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_network_is_its_formula(kind, depth):
    network, x = make_net(kind, depth), torch.randn(9, 5, dtype=torch.float64)
    torch.testing.assert_close(network.evaluate(x), by_hand(network, x))


def test_initialization_has_the_published_scales():
    network = ResidualNet(30, (8,), width=2000, seed=1)
    first, second = network.layers
    for drawn, variance in ((network.readout, 2000), (second.initial, 2000), (first.initial, 30)):
        assert float(drawn.std()) == pytest.approx(variance**-0.5, rel=0.03)
    assert not first.change.any()


@pytest.mark.parametrize("kind", [ResidualNet, ChainNet])
def test_gradients_of_the_loss_are_those_of_finite_differences(kind):
    objective = RegressionObjective(NestedParities(Hypercube(16)), Regression(Hypercube(16)))
    network = make_net(kind)
    x, y = torch.randn(9, 5, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    parameters = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    trained = dict(network.named_parameters())
    prediction, vjp = network.output_and_vjp(parameters, x, trained)
    loss, grad = objective.loss_and_grad(prediction, y, 2.0)
    expected = (prediction - y).square().sum(dim=1).mean() / (3 * 2.0)
    torch.testing.assert_close(loss, expected)
    found = vjp(grad)
    with torch.no_grad():
        slopes = finite_differences(
            lambda: objective.loss_and_grad(network(x), y, 2.0)[0], trained.values()
        )
    for name, slope in zip(trained, slopes, strict=True):
        torch.testing.assert_close(found[name], slope, rtol=1e-5, atol=1e-8)


def test_measures_say_which_level_is_learned():
    target = NestedParities(Hypercube(16), beta=0.2)
    x = target.inputs.sample(4096, torch.Generator().manual_seed(0))
    levels = target.level_outputs(x)
    named = vector_measures(levels[:, 0], levels)
    assert named["levels/mse"] == pytest.approx(0.72)
    assert named["levels/residual_1"] == pytest.approx(0, abs=1e-2)
    assert named["levels/residual_2"] == pytest.approx(1, abs=0.1)
    named = vector_measures(levels.sum(dim=1), levels)
    assert max(named.values()) == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: type(rival).__name__)
def test_rival_fits_every_entry_as_a_target_of_its_own(rival):
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, 3, dtype=torch.float64)
    new = torch.randn(6, 5, dtype=torch.float64)

    def predict(labels):
        samples = Batch(x, labels, labels)
        rival.fit(Task(samples, samples, make_net(ResidualNet), seed=0))
        return rival.predict(new)

    together = predict(y)
    apart = torch.stack([predict(column) for column in y.T], dim=1)
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize(
    ("engine", "network"),
    [
        *(("autograd", "residual"), ("autograd", "chain")),
        pytest.param("compiled", "residual", marks=pytest.mark.slow),
    ],
)
def test_engines_and_replicas_take_the_same_steps(tmp_path, engine, network):
    argv = [*DOUBLE, "--model.relu_network", network]
    eager, other = (trained(CONFIG, tmp_path, name, *argv) for name in ("eager", engine))
    assert gap(eager, other) <= 1e-10
    assert load_run(tmp_path / "eager", "last").network.evaluate(
        torch.ones(4, 17).double()
    ).shape == (4, 8)
    if engine == "autograd":
        both = ["--run.root", str(tmp_path), "--run.name", "both", "--model.num_replicas", "2"]
        assert main(["fit", "-c", CONFIG, *argv, *both]) == 0
        name = "network.layers.0.change"
        own = checkpoint(tmp_path / "both")["state_dict"][f"learners.0.{name}"]
        torch.testing.assert_close(own, eager[name])
        ours, alone = summary(tmp_path / "both")["replicas"][0], summary(tmp_path / "eager")
        assert ours["metrics"]["levels/mse"] == pytest.approx(alone["metrics"]["levels/mse"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model.relu_network", "null"], "relu_network must be given"),
        (["--model.linear_readout", "true"], "linear_readout must keep its default"),
        (["--model.width", "[3, 4]"], "width and depth must be one number each"),
        (["--target", "Staircase"], "relu_network requires a target with vector values"),
        (["--scheme", "Progressive", "--scheme.control", "taught_levels"], "need a DenseNet"),
        (["--measures+", "tests.interventions.DuplicateMeasure"], "measures must be empty"),
    ],
)
def test_settings_refused(tmp_path, capsys, argv, message):
    assert main(["fit", "-c", CONFIG, "--run.root", str(tmp_path), *argv]) == 2
    assert message in error_line(capsys.readouterr().err)


def test_baseline_for_numbers_refuses_vectors(tmp_path, capsys):
    argv = ["baseline", "-c", CONFIG, "--run.root", str(tmp_path), "--baseline"]
    assert main([*argv, "KernelRidge"]) == 0
    assert main([*argv, "ThreeLayer", "--run.overwrite", "true"]) == 2
    assert "ThreeLayer needs a target with scalar values" in error_line(capsys.readouterr().err)
