"""Checks the shapes in the mathematics' signatures; the hook precedes imports of the package."""

import importlib
import inspect
import os
from typing import get_args

# The networks of the tests are tiny: a second thread would only wait for the first, and where
# something else runs on the machine, wait long. Before torch is imported; also for subprocesses.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from beartype import beartype
from jaxtyping import AbstractArray, config, install_import_hook

_MODULES = (
    "activations",
    "distilled",
    "distilled_settings",
    "engine",
    "formulas",
    "gradients",
    "inputs",
    "kernels",
    "labels",
    "learners",
    "linearized",
    "matmul",
    "measures",
    "networks",
    "objectives",
    "stacked",
    "targets",
)


def check_shapes(function):
    """Beartype for the annotations that hold a shape.

    The others are mypy's business: constructors refuse a user's wrong words with a ValueError of
    their own, and tests must be able to see it.
    """
    function.__annotations__ = {
        name: hint for name, hint in function.__annotations__.items() if _holds_a_shape(hint)
    }
    return beartype(function)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Checks no shapes in whole runs, which repeat the same steps, but for those that are slow."""
    is_whole_run = "tmp_path_factory" in item.fixturenames  # a run needs a folder
    is_slow = item.get_closest_marker("slow") is not None
    config.update("jaxtyping_disable", is_whole_run and not is_slow)


def _holds_a_shape(hint):
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(_holds_a_shape(part) for part in get_args(hint))


@pytest.fixture
def few_moments(monkeypatch):
    """Moments from a few samples, for tests of many targets in which they do not matter."""
    base = importlib.import_module("bfc_lightning.targets.base")
    monkeypatch.setattr(base, "MOMENT_SAMPLES", 256)
    monkeypatch.setattr(base, "MOMENT_CHUNK", 256)


# Some of torch's warnings come once a process; always, they fail every test that earns them.
torch.set_warn_always(True)
install_import_hook([f"bfc_lightning.{name}" for name in _MODULES], f"{__name__}.check_shapes")
