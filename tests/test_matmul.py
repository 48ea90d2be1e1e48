"""Products by oneDNN against PyTorch's own choice, and when they are taken."""

import pytest
import torch

import bfc_lightning.matmul as module
from bfc_lightning.matmul import _linear, fusable, matmul
from bfc_lightning.networks import DenseNet

need_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch has no oneDNN"
)


@pytest.fixture
def calls(monkeypatch):
    """Counts the products of a processor on which every product is faster by oneDNN."""
    called = []

    def count(*given):
        called.append(given)
        return _linear(*given)

    monkeypatch.setattr(module, "LIBRARY", "onednn")
    monkeypatch.setattr(module, "_FEWEST", 1)
    monkeypatch.setattr(module, "_linear", count)
    return called


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@need_onednn
@pytest.mark.parametrize("bias", [None, random(9, seed=2)])
def test_products_of_views_are_those_of_double_precision(calls, bias):
    x, weight = random(40, 30)[:, :17], random(25, 9, seed=1)[8:].T
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    torch.testing.assert_close(matmul(x, weight.T, bias), expected.float())
    assert len(calls) == 1


@need_onednn
@pytest.mark.parametrize("product", [matmul, fusable(matmul)])
def test_matrix_is_added_to_a_product(calls, product):
    x, weight, addend = random(40, 17), random(17, 9, seed=1), random(40, 12, seed=2)[:, :9]
    expected, before = addend.double() + x.double() @ weight.double(), addend.clone()
    torch.testing.assert_close(product(x, weight, addend), expected.float())
    assert torch.equal(addend, before)
    assert len(calls) == 1


@need_onednn
def test_product_is_the_same_each_time(calls):
    x, weight = random(128, 512), random(192, 512, seed=1)
    seen = [matmul(x, weight.T) for _ in range(50)]
    assert all(torch.equal(each, seen[0]) for each in seen)


@need_onednn
def test_only_large_products_in_single_precision_are_taken(calls, monkeypatch):
    monkeypatch.setattr(module, "_FEWEST", 60)
    for x, weight, taken in (
        (random(3, 5), random(4, 5), 1),
        (random(3, 5), random(3, 5), 0),
        (random(3, 5).double(), random(4, 5).double(), 0),
    ):
        calls.clear()
        matmul(x, weight.T)
        assert len(calls) == taken


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_f": True, "avx512_vp2intersect": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_f": True, "avx512_vp2intersect": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_vp2intersect": True}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_processors_with_wide_vectors_that_mkl_does_not_use(monkeypatch, known, expected):
    for library in (torch.backends.mkldnn, torch.backends.mkl):
        monkeypatch.setattr(library, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert module._mkl_is_held_back() is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not module._mkl_is_held_back()


@need_onednn
def test_gradients_by_onednn_are_those_of_double_precision(calls):
    network = DenseNet(11, [7, 5, 6], level_scales=[1.0, 0.5, 0.25], seed=3)
    x, grad = random(33, 11), random(33, seed=1)
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    output, vjp = network.output_and_vjp(parameters, x, list(parameters))
    gradients = vjp(grad)
    assert len(calls) == 3 + 2 + 3  # forward, by features, by weights
    exact = DenseNet(11, [7, 5, 6], level_scales=[1.0, 0.5, 0.25], seed=3).double()
    exact.load_state_dict({name: value.double() for name, value in network.state_dict().items()})
    (exact(x.double()) * grad.double()).sum().backward()
    torch.testing.assert_close(output, exact(x.double()).detach().float())
    for name, parameter in exact.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad.float(), msg=name)
