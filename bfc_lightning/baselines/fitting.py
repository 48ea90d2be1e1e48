"""Draws the samples of a problem of `bfc fit`, fits a baseline to them and scores it."""

import time

import torch

from bfc_lightning.baselines.base import Baseline, Task
from bfc_lightning.baselines.scores import error_of, measures_of
from bfc_lightning.data import HierarchicalData
from bfc_lightning.labels import Regression
from bfc_lightning.networks import DenseNet
from bfc_lightning.runs.folder import RunError
from bfc_lightning.stream import FiniteStream
from bfc_lightning.types import Batch

# Of the learner and the samples of `bfc fit`, for each `trainer.precision`.
SAMPLE_DTYPES = {"32-true": torch.float32, "64-true": torch.float64, "bf16-mixed": torch.float32}
_NUM_MEASURED = 2**14


def draw_samples(data: HierarchicalData, dtype: torch.dtype) -> dict[str, Batch]:
    """Draws the samples `train`, `val` and `test` of a problem, stored as float64.

    Args:
        data: the problem.
        dtype: that of the samples of `bfc fit`.

    Raises:
        RunError: if there is no fixed training set, or the labels are classes.
    """
    if data.num_train_samples is None:
        raise RunError("data.num_train_samples must be given: a baseline fits a fixed set.")
    if not isinstance(data.labels, Regression):
        name = type(data.labels).__name__
        raise RunError(f"labels must be Regression for a baseline, got {name}.")
    stream = data.make_stream("cpu", dtype)
    assert isinstance(stream, FiniteStream)

    drawn = {"train": [stream.train_set]}
    for requests in (data.val_dataloader(), data.test_dataloader()):
        size, indices = data.eval_batch_size, range(len(requests))
        drawn[requests.split] = [stream.batch(requests.split, index, size) for index in indices]
    return {
        name: Batch(*(torch.cat(column).double() for column in zip(*parts, strict=True)))
        for name, parts in drawn.items()
    }


def baseline_init_scale(given: float | None) -> float:
    """`model.init_scale` for a baseline, 1 unless given; learners that are trained have another."""
    return 1.0 if given is None else given


@torch.no_grad()
def fit_and_score(
    baseline: Baseline,
    data: HierarchicalData,
    network: DenseNet,
    seed: int,
    *,
    is_measured: bool = True,
) -> tuple[dict[str, float], float]:
    """Fits a baseline to the training set of a problem and scores it on fresh samples.

    Args:
        baseline: the baseline, fitted in place.
        data: the problem.
        network: the learner at its initialization, with which the baseline is compared, in the
            dtype of the samples of `bfc fit`.
        seed: the seed of the random choices of the baseline.
        is_measured: whether levels and features are measured, on 2^14 further points.

    Returns:
        The metrics by name, and the wall-clock time of the fit in seconds. The metrics are
        `train/nmse`, `val/nmse`, `test/nmse`, `baseline/*` for the settings that the baseline
        chose, and, if measured, `levels/*` and `features/*`.

    Raises:
        RunError: if the target has vector values and the baseline fits numbers only.
    """
    if data.target.output_shape and not baseline.fits_vectors:
        name, target = type(baseline).__name__, type(data.target).__name__
        raise RunError(f"baseline {name} needs a target with scalar values, got {target}.")
    samples = draw_samples(data, next(network.parameters()).dtype)
    task = Task(samples["train"], samples["val"], network.double(), seed)
    started = time.perf_counter()
    baseline.fit(task)
    seconds = time.perf_counter() - started
    exact = data.make_sample_stream("cpu", torch.float64)
    variance = exact.target.variance
    named = {f"{name}/nmse": error_of(baseline, s, variance) for name, s in samples.items()}
    if is_measured:
        points = exact.batch("measure", 0, _NUM_MEASURED - _NUM_MEASURED % data.num_shards).inputs
        named.update(measures_of(baseline, exact.target, points))
    named.update({f"baseline/{name}": value for name, value in baseline.chosen().items()})
    return named, seconds
