"""Products by oneDNN against PyTorch's own choice, and when they are taken."""

from types import SimpleNamespace

import pytest
import torch

from bfc_lightning import products
from bfc_lightning.callbacks.checkpoints import environment
from bfc_lightning.networks import DenseNet
from bfc_lightning.products import (
    add_input_gradient,
    add_input_gradient_by_onednn,
    affine,
    affine_by_onednn,
    gains_by_onednn,
    transpose,
    weight_gradient,
    weight_gradient_by_onednn,
)
from tests.fast_paths import ByHand

need_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)


@pytest.fixture
def held_back(monkeypatch):
    """A processor on which every product is faster by oneDNN."""
    monkeypatch.setattr(products, "_is_held_back", lambda: True)
    monkeypatch.setattr(products, "_FEWEST", 1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def turned(x):
    out = torch.empty(x.shape[1], x.shape[0])
    transpose(x, out=out)
    return out


@pytest.mark.parametrize("most_copied", [2**21, 300, 1])
def test_transposes_of_views(monkeypatch, most_copied):
    monkeypatch.setattr(products, "_MOST_COPIED", most_copied)
    x = random(40, 30)[:, 5:22]
    assert torch.equal(turned(x), x.T)


@need_onednn
@pytest.mark.parametrize("most_copied", [2**21, 300])
def test_products_of_views_are_those_of_double_precision(monkeypatch, most_copied):
    monkeypatch.setattr(products, "_MOST_COPIED", most_copied)
    x, weight = random(40, 30)[:, :17], random(9, 25, seed=1)[:, 8:]
    bias, gradient = random(20, seed=2)[5:14], random(40, 12, seed=3)[:, 3:]
    exact = [each.double() for each in (x, weight, bias, gradient)]
    for multiply in (affine, affine_by_onednn):
        out = torch.empty(40, 9)
        multiply(bias, x, weight, out=out)
        torch.testing.assert_close(out, (exact[0] @ exact[1].T + exact[2]).float())
    expected = (exact[3].T @ exact[0]).float()
    out = torch.empty(9, 17)
    weight_gradient(gradient, x, out=out)
    torch.testing.assert_close(out, expected)
    out = torch.empty(9, 17)
    weight_gradient_by_onednn(turned(gradient), turned(x), out=out)
    torch.testing.assert_close(out, expected)
    for add in (add_input_gradient, add_input_gradient_by_onednn):
        total = random(40, 30, seed=4)[:, 2:19]
        expected = total.double() + exact[3] @ exact[1]
        add(total, gradient, weight)
        torch.testing.assert_close(total, expected.float())


@need_onednn
def test_product_is_the_same_each_time():
    x, gradient, out = random(192, 512), random(128, 512, seed=1), torch.empty(128, 192)
    seen = []
    for _ in range(50):
        weight_gradient_by_onednn(gradient, x, out=out)
        seen.append(out.clone())
    assert all(torch.equal(each, seen[0]) for each in seen)


@need_onednn
def test_only_large_products_in_single_precision_are_taken(held_back, monkeypatch):
    monkeypatch.setattr(products, "_FEWEST", 60)
    weight = torch.empty(4, 5)
    assert gains_by_onednn(weight, 3)
    assert not gains_by_onednn(weight[1:], 3)
    assert not gains_by_onednn(weight.double(), 3)
    assert not gains_by_onednn(weight.expand(2, 4, 5), 3)
    torch._C._set_mkldnn_enabled(False)
    try:
        assert not gains_by_onednn(weight, 3)
    finally:
        torch._C._set_mkldnn_enabled(True)
    monkeypatch.setattr(products, "_is_held_back", lambda: False)
    assert not gains_by_onednn(weight, 3)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_f": True, "avx512_vp2intersect": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_f": True, "avx512_vp2intersect": False}, False),
        ({"cpu_name": "AMD EPYC 7763 64-Core Processor", "avx512_f": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_vp2intersect": True}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_processors_with_wide_vectors_that_mkl_does_not_use(monkeypatch, known, expected):
    for library in (torch.backends.mkldnn, torch.backends.mkl):
        monkeypatch.setattr(library, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert products._is_held_back.__wrapped__() is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not products._is_held_back.__wrapped__()


@need_onednn
def test_gradients_by_onednn_are_those_of_the_other_products(held_back, monkeypatch):
    called = []
    multiply = products.linear_by_onednn
    monkeypatch.setattr(
        products, "linear_by_onednn", lambda *given: called.append(given) or multiply(*given)
    )
    network = DenseNet(11, [7, 5, 6], level_scales=[1.0, 0.5, 0.25], seed=3)
    x, slope = random(33, 11), random(33, seed=1)
    by_hand = ByHand(network, 33)
    output, gradients = by_hand.forward(x), by_hand.backward(slope)
    assert len(called) == 3 + 2 + 3  # forward, by features, by weights
    exact = DenseNet(11, [7, 5, 6], level_scales=[1.0, 0.5, 0.25], seed=3).double()
    exact.load_state_dict({name: value.double() for name, value in network.state_dict().items()})
    (exact(x.double()) * slope.double()).sum().backward()
    torch.testing.assert_close(output, exact(x.double()).detach().float())
    for name, parameter in exact.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad.float(), msg=name)


@need_onednn
def test_evaluation_by_onednn_is_that_of_the_other_products(held_back):
    network = DenseNet(11, [7, 5, 6], level_scales=[1.0, 0.5, 0.25], seed=3)
    x = random(33, 11)
    torch.testing.assert_close(network.evaluate(x), network(x))


@need_onednn
@pytest.mark.parametrize("is_plain", [True, False])
def test_record_of_a_run_says_who_multiplies(held_back, is_plain):
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(strategy=strategy, world_size=1)
    module = SimpleNamespace(automatic_optimization=is_plain)
    assert environment(trainer, module)["large_products"] == "onednn"  # validation is on both paths
