"""Several processes: Lightning's launcher starts them, or torchrun or srun have started them."""

import os
from typing import Any

from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from bfc_lightning.cli.checks import as_list


def fill_processes(options: dict[str, Any]) -> None:
    """Fills in the Trainer's devices, nodes and strategy for processes that are started already.

    A job script of SLURM that calls bfc without srun is one process, whatever its job may use.
    """
    size, per_node = _external_processes()
    if size > 1:
        options["num_nodes"] = size // per_node
        if options["devices"] == "auto":
            options["devices"] = per_node
        if options["strategy"] == "auto":
            options["strategy"] = "ddp"
    elif SLURMEnvironment.detect():
        options["plugins"] = [*as_list(options["plugins"]), LightningEnvironment()]


def _external_processes() -> tuple[int, int]:
    """How many processes torchrun or srun has started, and how many on this node."""
    if TorchElasticEnvironment.detect():
        return int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if "SLURM_STEP_NUM_TASKS" in os.environ and SLURMEnvironment.detect():
        size = int(os.environ["SLURM_STEP_NUM_TASKS"])
        return size, size // int(os.environ.get("SLURM_NNODES", 1))
    return 1, 1
