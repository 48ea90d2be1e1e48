"""Several processes: started by Lightning's launcher with the given command, torchrun or srun."""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from bfc_lightning.cli.checks import as_list
from bfc_lightning.cli.errors import CHILD_VARIABLE

_TIMEOUT = timedelta(minutes=5)
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
_STORES: list[TCPStore] = []


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher, whose children run the same bfc command.

    Lightning's own runs `sys.argv`, which is another program if `main` is called from Python.
    """

    argv: Sequence[str] = ()
    folder = ""

    def _call_children_scripts(self) -> None:
        """Starts the other processes; their variables do not stay in this one."""
        environment = {
            **os.environ,
            "MASTER_ADDR": self.cluster_environment.main_address,
            "MASTER_PORT": str(self.cluster_environment.main_port),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(self.num_processes),
            CHILD_VARIABLE: self.folder,
        }
        command = [sys.executable, "-m", "bfc_lightning", *self.argv]
        self.procs = [
            subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(rank)})
            for rank in range(1, self.num_processes)
        ]


def use_launcher(trainer: Trainer, argv: Sequence[str], folder: Path | None) -> None:
    """Replaces Lightning's launcher, if there is one, by ours."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        ours = Launcher(launcher.cluster_environment, launcher.num_processes, launcher.num_nodes)
        ours.argv, ours.folder = argv, str(folder or "")
        trainer.strategy._launcher = ours


def close_processes(trainer: Trainer) -> None:
    """Ends the children and forgets the process group, so that another run can follow."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, Launcher):
        for process in launcher.procs:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
        if launcher.procs:
            for name in _ADDRESS:
                os.environ.pop(name, None)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def external_processes() -> tuple[int, int, int]:
    """Rank, number and number per node of the processes that torchrun or srun has started."""
    env = os.environ
    if TorchElasticEnvironment.detect():
        return int(env["RANK"]), int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"])
    if "SLURM_STEP_NUM_TASKS" in env and SLURMEnvironment.detect():
        size, nodes = int(env["SLURM_STEP_NUM_TASKS"]), int(env.get("SLURM_NNODES", 1))
        return int(env["SLURM_PROCID"]), size, size // nodes
    return 0, 1, 1


def fill_processes(options: dict[str, Any]) -> None:
    """Fills in the Trainer's devices, nodes and strategy for processes that are started already.

    A job script of SLURM that calls bfc without srun is one process, whatever its job may use.
    """
    _, size, per_node = external_processes()
    plugins = as_list(options["plugins"])
    is_given = any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if size == 1 and SLURMEnvironment.detect() and not is_given:
        options["plugins"] = [*plugins, LightningEnvironment()]
    if size > 1:
        options["num_nodes"] = size // per_node
        if options["devices"] == "auto":
            options["devices"] = per_node
        if options["strategy"] == "auto":
            options["strategy"] = "ddp"


def share_folder(path: Path | None) -> Path:
    """Passes the folder that the first process has reserved to those of torchrun or srun."""
    rank, _, _ = external_processes()
    is_torchrun = TorchElasticEnvironment.detect()
    environment = TorchElasticEnvironment() if is_torchrun else SLURMEnvironment()
    has_server = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        environment.main_address,
        environment.main_port,
        is_master=rank == 0 and not has_server,
        timeout=_TIMEOUT,
        wait_for_workers=False,
        multi_tenant=True,
    )
    _STORES.append(store)  # the first process serves it until it ends
    key = f"bfc/folder/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    if path is not None:
        store.set(key, str(path))
    return Path(store.get(key).decode())
