"""Several processes: Lightning's launcher starts them, or torchrun or srun have started them."""

import os
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from bfc_lightning.cli.checks import as_list
from bfc_lightning.private import Launcher


def close_processes(trainer: Trainer) -> None:
    """Ends the children and forgets the process group, so that another run can follow."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, Launcher) and launcher.procs:
        launcher.close()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def fill_processes(options: dict[str, Any]) -> None:
    """Fills in the Trainer's devices, nodes and strategy for processes that are started already.

    A job script of SLURM that calls bfc without srun is one process, whatever its job may use.
    """
    size = per_node = 1
    if TorchElasticEnvironment.detect():
        size, per_node = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    elif "SLURM_STEP_NUM_TASKS" in os.environ and SLURMEnvironment.detect():
        size = int(os.environ["SLURM_STEP_NUM_TASKS"])
        per_node = size // int(os.environ.get("SLURM_NNODES", 1))
    if size > 1:
        options["num_nodes"] = size // per_node
        if options["devices"] == "auto":
            options["devices"] = per_node
        if options["strategy"] == "auto":
            options["strategy"] = "ddp"
    elif SLURMEnvironment.detect():
        options["plugins"] = [*as_list(options["plugins"]), LightningEnvironment()]
