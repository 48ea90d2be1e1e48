"""The data module without a Trainer: sizes, state, and whose checkpoint it takes."""

import itertools

import pytest
import torch

from bfc_lightning import Gaussian, HierarchicalData, HierarchicalTarget, Regression
from bfc_lightning.data import check_same_tensors


def data(seed: int = 0, **arguments) -> HierarchicalData:
    inputs = Gaussian(6)
    target = HierarchicalTarget(inputs, [3, 2], seed=seed)
    return HierarchicalData(target, Regression(inputs), **arguments)


def test_state_of_the_same_target_is_taken_with_its_tensors_and_position():
    one, other = data(), data()
    one.position = 17
    state = one.state_dict()
    state["problem"]["0.input_weight"] = state["problem"]["0.input_weight"] * (1 + 1e-7)
    other.load_state_dict(state)
    assert other.position == 17
    assert torch.equal(other.target.input_weight, state["problem"]["0.input_weight"])


def test_tensors_must_agree_but_for_rounding():
    check_same_tensors({"mean": torch.tensor(3e-16)}, {"mean": torch.tensor(-1e-16)})
    for stored in ({}, {"a": torch.ones(3)}, {"a": torch.tensor([1.0, float("nan")])}):
        with pytest.raises(ValueError, match=r"another target: a (does not fit|differs by nan)"):
            check_same_tensors(stored, {"a": torch.ones(2)})


def test_evaluation_sets_are_rounded_up_to_whole_batches():
    requests = data(num_val_samples=1000, eval_batch_size=256).val_dataloader()
    assert len(requests) == 4
    assert [request.position for request in requests] == [0, 1, 2, 3]


def test_streams_of_two_precisions_have_the_same_problem():
    module = data()
    single, double = (module.make_stream("cpu", dtype) for dtype in (torch.float32, torch.float64))
    assert single.batch("val", 0, 8).inputs.dtype == torch.float32
    x = double.batch("val", 0, 8).inputs
    assert torch.allclose(single.target(x.float()).double(), double.target(x), rtol=1e-4)
    assert module.target.mean.dtype == torch.float64


def samples_in_chunks(sizes, **arguments) -> tuple[torch.Tensor, torch.Tensor, int]:
    module = data(**arguments)
    module.place_stream(torch.device("cpu"), torch.float64)
    chunks, taken = [], 0
    while taken < 40:
        chunks.append(module.draw_chunk(next(sizes), range(4)))
        taken += len(chunks[-1].labels)
        assert module.position == taken
    x, y = (torch.cat(column) for column in zip(*chunks, strict=True))
    return x[:40], y[:40], len(chunks)


@pytest.mark.parametrize("num_train_samples", [None, 100])
def test_chunks_of_any_size_are_the_same_samples_bit_for_bit(num_train_samples):
    arguments = {"batch_size": 1024, "num_train_samples": num_train_samples}  # blocks of 8 batches
    whole = samples_in_chunks(itertools.repeat(1000), **arguments)
    assert whole[2] == 5
    for sizes in ([1], [3], [7, 1, 2], [8, 5]):
        x, y, _ = samples_in_chunks(itertools.cycle(sizes), **arguments)
        assert torch.equal(x, whole[0])
        assert torch.equal(y, whole[1])
