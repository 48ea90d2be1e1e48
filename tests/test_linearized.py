"""The linearized learner against Jacobians, kernel regression, and whole runs."""

import pytest
import torch
from torch.func import functional_call, jacrev

from bfc_lightning import DenseNet, LinearizedDenseNet
from bfc_lightning.measures.ntk import empirical_ntk
from bfc_lightning.runs.loading import load_run
from tests.reference import tangent_kernel
from tests.runs import checkpoint, fit, summary
from tests.tensors import draw

LINEARIZED = ["--model.linearized", "true"]


def pair(**settings) -> tuple[DenseNet, LinearizedDenseNet]:
    """The same start, as it is and linearized."""
    arguments = {"level_scales": (1.0, 0.5), "linear_readout": True, "seed": 3, **settings}
    one, other = (kind(5, [6, 4], **arguments).double() for kind in (DenseNet, LinearizedDenseNet))
    return one, other


def move(network: LinearizedDenseNet) -> dict[str, torch.Tensor]:
    """Random moves, by the names of the parameters that they belong to."""
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in network.moves.values():
            value.copy_(torch.randn(value.shape, generator=random, dtype=torch.float64))
    return {name.replace("/", "."): value.detach() for name, value in network.moves.items()}


@pytest.mark.parametrize("activation", [None, torch.nn.Tanh(), torch.nn.PReLU(init=0.3)])
@pytest.mark.parametrize("depth", [1, 2])
def test_equals_the_jacobian_formula(activation, depth):
    original, linearized = pair(activation=activation)
    original.active_depth = linearized.active_depth = depth
    x, moves = draw(7, 5), move(linearized)
    start = {name: value.detach() for name, value in original.named_parameters()}
    jacobian = jacrev(lambda parameters: functional_call(original, parameters, (x,)))(start)
    assert jacobian.keys() == moves.keys()
    expected = original(x) + sum(
        jacobian[name].reshape(7, -1) @ moves[name].flatten() for name in moves
    )
    torch.testing.assert_close(linearized(x), expected, rtol=1e-12, atol=1e-12)
    features = linearized.features(x)
    torch.testing.assert_close(linearized.read_out(x, features), expected, rtol=1e-12, atol=1e-12)


def test_kernel_and_features_do_not_move():
    original, linearized = pair()
    x = draw(6, 5)
    kernel, features = empirical_ntk(original, x), original.features(x)
    move(linearized)
    slopes = tangent_kernel(linearized(x), list(linearized.moves.values()))
    torch.testing.assert_close(torch.from_numpy(slopes), kernel, rtol=1e-12, atol=1e-12)
    assert torch.equal(empirical_ntk(linearized, x), kernel)
    for one, other in zip(linearized.features(x), features, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("trains", "levels"), [(True, {1, 2}), (True, {2}), (False, {1})])
def test_the_same_parameters_train_as_of_the_network_and_nothing_else(trains, levels):
    original, linearized = pair(train_readout=trains)
    original.train_layers(levels)
    linearized.train_layers(levels)
    wanted = {name for name, value in original.named_parameters() if value.requires_grad}
    trained = {name for name, value in linearized.named_parameters() if value.requires_grad}
    assert trained == {f"moves.{name.replace('.', '/')}" for name in wanted}


def test_gradient_descent_ends_at_kernel_regression_with_the_tangent_kernel():
    """f_0 + K(x, X) K(X, X)^(-1) (y - f_0(X)), to 1e-6 after 400 steps on all samples."""
    original, linearized = pair()
    random = torch.Generator().manual_seed(5)
    x, new = draw(12, 5).split([6, 6])
    y = torch.randn(6, generator=random, dtype=torch.float64)
    kernel = empirical_ntk(original, torch.cat([x, new]))
    rate = 1 / float(torch.linalg.eigvalsh(kernel[:6, :6])[-1])
    optimizer = torch.optim.SGD(linearized.moves.parameters(), lr=rate, momentum=0.9)
    for _ in range(400):
        optimizer.zero_grad()
        ((linearized(x) - y).square().sum() / 2).backward()
        optimizer.step()
    with torch.no_grad():
        weights = torch.linalg.solve(kernel[:6, :6], y - original(x))
        expected = original(new) + kernel[6:, :6] @ weights
        torch.testing.assert_close(linearized(x), y, rtol=0, atol=1e-6)
        torch.testing.assert_close(linearized(new), expected, rtol=0, atol=1e-6)


def test_run_learns_keeps_its_features_and_is_read_back(tmp_path):
    words = [*LINEARIZED, "--trainer.max_steps", "300", "--trainer.val_check_interval", "300"]
    assert fit(tmp_path, *words, "--num_measures", "2") == 0
    metrics = summary(tmp_path / "tiny")["metrics"]
    assert metrics["val/nmse"] < 0.2
    assert metrics["ntk/drift"] == 0
    for level in (1, 2):
        start = metrics[f"features/residual_{level}_untrained"]
        assert metrics[f"features/residual_{level}"] == pytest.approx(start, rel=1e-9)
    state = checkpoint(tmp_path / "tiny")["state_dict"]
    run = load_run(tmp_path / "tiny", checkpoint="last")
    assert isinstance(run.network, LinearizedDenseNet)
    for name, value in run.network.state_dict().items():
        assert torch.equal(value, state[f"network.{name}"])


def test_classes_are_learned_and_figures_drawn_but_for_the_form_of_the_start(tmp_path):
    words = [*LINEARIZED, "--labels", "Classification", "--model.linear_readout", "true"]
    assert fit(tmp_path, *words, "--run.figures", "true", "--num_measures", "2") == 0
    assert summary(tmp_path / "tiny")["metrics"]["val/error"] < 0.3
    figures = {path.stem for path in (tmp_path / "tiny" / "figures").iterdir()}
    assert "learning_curves" in figures
    assert "quadratic_form" not in figures
