"""What bit-for-bit repetition depends on beside the settings."""

import functools
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from lightning import LightningModule, Trainer

from bfc_lightning.products import library_of_large_products


@functools.cache
def versions() -> Mapping[str, str]:
    """Versions of Python and of the packages that a result depends on; looked up once."""
    packages = ("bfc_lightning", "torch", "lightning", "jsonargparse")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def environment(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Machine, software, devices, threads and training path of a run.

    Args:
        trainer: knows the devices.
        module: the learner.

    Returns:
        Plain data, for checkpoints.
    """
    device, path = trainer.strategy.root_device.type, training_path(module)
    return {
        **versions(),
        "machine": platform.node(),
        "device": device,
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "training_path": path,
        "large_products": library_of_large_products() if device == "cpu" else "default",
    }


def training_path(module: LightningModule) -> str:
    """How steps are taken.

    Args:
        module: the learner.

    Returns:
        `fast` or `plain`.
    """
    return "plain" if module.automatic_optimization else "fast"
