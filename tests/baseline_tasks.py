"""Small problems for baselines, and the slow versions of what they compute."""

import itertools

import numpy as np
import torch

from bfc_lightning import DenseNet
from bfc_lightning.baselines import Task
from bfc_lightning.types import Batch


def make_task(function, *, num_samples: int, input_dim: int, depth: int = 1, seed: int = 0) -> Task:
    """Gaussian inputs, labels without noise, a holdout of 512 samples."""
    random = torch.Generator().manual_seed(seed)

    def batch(size: int) -> Batch:
        x = torch.randn(size, input_dim, generator=random, dtype=torch.float64)
        return Batch(x, function(x), function(x))

    learner = DenseNet(input_dim, [4] * depth).double()
    return Task(batch(num_samples), batch(512), learner, seed)


def error(baseline, task: Task) -> float:
    """E(f - y)^2 / Var y on the holdout."""
    x, y, _ = task.holdout
    return float((baseline.predict(x) - y).square().mean() / y.var())


def monomials(z, degree):
    """Every product of at most `degree` variables, sample by sample, the constant first."""
    k = z.shape[1]
    powers = [
        chosen
        for size in range(degree + 1)
        for chosen in itertools.combinations_with_replacement(range(k), size)
    ]
    return np.array([[np.prod([row[i] for i in chosen]) for chosen in powers] for row in z])


def polynomial_ridge(z, y, *, degree, ridge):
    """Coefficients of the ridge regression on monomials, from centered and standardized columns."""
    columns = monomials(z, degree)[:, 1:]
    means, stds = columns.mean(axis=0), columns.std(axis=0)
    standard = (columns - means) / stds
    normal = standard.T @ standard + len(y) * ridge * np.eye(len(stds))
    slopes = np.linalg.solve(normal, standard.T @ (y - y.mean())) / stds
    return np.concatenate([[y.mean() - means @ slopes], slopes])


def polynomial(degree):
    """(1 + <x, y> / d)^degree."""
    return lambda x, y: (1 + x @ y.T / x.shape[1]) ** degree


def rbf(bandwidth):
    """exp(-|x - y|^2 / (2 d bandwidth^2))."""
    return lambda x, y: torch.exp(-(torch.cdist(x, y) ** 2) / (2 * x.shape[1] * bandwidth**2))


def kernel_ridge(kernels, task: Task, ridges, new) -> np.ndarray:
    """(K + n ridge) c = y - mean(y), solved as it stands; a further kernel fits what is left."""
    x, y = task.train.inputs, task.train.labels.numpy()
    residual, prediction = y - y.mean(), np.full(len(new), y.mean())
    for kernel, ridge in zip(kernels, ridges, strict=True):
        gram = kernel(x, x).numpy()
        weights = np.linalg.solve(gram + len(y) * ridge * np.eye(len(y)), residual)
        residual = residual - gram @ weights
        prediction = prediction + kernel(new, x).numpy() @ weights
    return prediction
