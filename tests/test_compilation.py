"""Compiled functions against the functions themselves, and what the cache distinguishes."""

import multiprocessing

import pytest
import torch

from bfc_lightning import matmul
from bfc_lightning.compilation import CompiledFunction, cache_folder


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))


def names(*functions):
    return [CompiledFunction(each, [torch.ones(3, 2)])._path for each in functions]


def test_equal_functions_share_a_file_and_others_do_not():
    def scaled(factor, constant):
        return lambda x: ((x * factor).sum(0) + constant,)

    zeros = torch.zeros(2)
    same = names(scaled(2.0, zeros), scaled(2.0, torch.zeros(2)))
    others = names(scaled(2.0 + 1e-15, zeros), scaled(2.0, zeros + 1e-30), lambda x: (x.sum(0),))
    assert same[0] == same[1]
    assert len({same[0], *others}) == 4


@pytest.mark.parametrize(
    "argument", [torch.ones(2, 3), torch.ones(3, 2).double(), torch.ones(2, 3).T], ids=str
)
def test_file_depends_on_shape_dtype_and_stride(argument):
    [plain] = names(lambda x: (x * x,))
    assert CompiledFunction(lambda x: (x * x,), [argument])._path != plain


def test_function_that_reads_a_tensor_cannot_be_traced():
    with pytest.raises(Exception, match="data-dependent"):
        names(lambda x: (x * float(x.sum()),))


@pytest.mark.slow
def test_machine_code_computes_the_function_and_is_found_again(monkeypatch):
    def function(x, y):
        return torch.func.grad(lambda z: (z @ y).sin().sum())(x), x.exp()

    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    compiled = CompiledFunction(function, [x, y])
    assert not compiled.is_cached
    for found, expected in zip(compiled.load()([x, y]), function(x, y), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    again = CompiledFunction(function, [x, y])
    assert again.is_cached
    monkeypatch.setattr(again, "_compile", None)
    assert torch.equal(again.load()([x, y])[1], compiled.load()([x, y])[1])


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="there is no oneDNN")
def test_product_by_onednn_is_called_from_machine_code(monkeypatch):
    monkeypatch.setattr(matmul, "LIBRARY", "onednn")
    x, weight = torch.randn(256, 256), torch.randn(256, 256)
    compiled = CompiledFunction(lambda x, w: (matmul.matmul(x, w) + 1,), [x, weight])
    assert "bfc_lightning.linear" in compiled._graph.code
    torch.testing.assert_close(
        compiled.load()([x, weight])[0], x @ weight + 1, rtol=1e-4, atol=1e-4
    )
    assert CompiledFunction(lambda x, w: (matmul.matmul(x, w) + 1,), [x, weight]).is_cached


def load(folder, queue):
    compiled = CompiledFunction(lambda x: (x.cos(),), [torch.zeros(4)])
    compiles, compiled._compile = compiled._compile, lambda: (queue.put("compiled"), compiles())
    queue.put(float(compiled.load()([torch.zeros(4)])[0].sum()))


@pytest.mark.slow
def test_one_of_several_processes_compiles(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=load, args=(cache_folder(), queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=100) for _ in range(3)]
    for worker in workers:
        worker.join()
    assert sorted(map(str, found)) == ["4.0", "4.0", "compiled"]
