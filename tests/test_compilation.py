"""Compiled functions against the functions themselves, and what the cache distinguishes."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from bfc_lightning import matmul
from bfc_lightning.compilation import CompiledFunction


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


def test_digest_distinguishes_operations_constants_and_arguments():
    def path(factor=2.0, offset=0.0, x=None):
        x, constant = torch.ones(3, 2) if x is None else x, torch.full((2,), offset)
        return CompiledFunction(lambda x: ((x * factor).sum(0) + constant,), [x])._path

    assert path() == path()
    others = path(factor=2 + 1e-15), path(offset=1e-30), path(x=torch.ones(4, 2))
    others += path(x=torch.ones(2, 3).T), path(x=torch.ones(3, 2).double())
    assert len({path(), *others}) == 6


@pytest.mark.slow
def test_machine_code_computes_the_function_and_is_found_again(monkeypatch):
    def function(x, y):
        return torch.func.grad(lambda z: (z @ y).sin().sum())(x), x.exp()

    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    compiled = CompiledFunction(function, [x, y])
    assert not compiled.is_cached
    for found, expected in zip(compiled.load()([x, y]), function(x, y), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    monkeypatch.setattr(CompiledFunction, "_compile", None)
    assert CompiledFunction(function, [x, y]).load()([x, y])[1].equal(compiled.load()([x, y])[1])


@pytest.mark.slow
def test_functions_that_differ_in_a_constant_have_their_own_libraries():
    x, scaled = torch.ones(3), lambda constant, x: (x * constant,)
    functions = [CompiledFunction(partial(scaled, torch.tensor(c)), [x]) for c in (0.5, 0.25)]
    assert functions[0]._graph.code == functions[1]._graph.code
    values = [each.load()([x])[0] for each in functions]
    assert [float(value[0]) for value in values] == [0.5, 0.25]
    assert len({each._path.resolve() for each in functions}) == 2


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="there is no oneDNN")
def test_product_by_onednn_is_called_from_machine_code(monkeypatch):
    monkeypatch.setattr(matmul, "LIBRARY", "onednn")
    x, weight, product = torch.randn(256, 256), torch.randn(256, 256), matmul.fusable(matmul.matmul)
    compiled = CompiledFunction(lambda x, w: (product(x, w, x),), [x, weight])
    assert "bfc_lightning.linear" in compiled._graph.code
    assert torch.allclose(compiled.load()([x, weight])[0], x @ weight + x, atol=1e-3)


@pytest.mark.slow
def test_one_of_several_workers_compiles(monkeypatch):
    compiles, compiled = CompiledFunction._compile, []
    monkeypatch.setattr(CompiledFunction, "_compile", lambda own: compiled.append(compiles(own)))
    functions = [CompiledFunction(lambda x: (x.cos(),), [torch.zeros(4)]) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda each: each.load()([torch.zeros(4)])[0].tolist(), functions)
    assert list(results) == [[1.0] * 4] * 2
    assert len(compiled) == 1
