"""Starting the other processes of a run on this machine, and noticing when one of them is gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from bfc_lightning.callbacks.stops import LostProcess
from bfc_lightning.cli.console import say_from_any
from bfc_lightning.cli.peers import Peers
from bfc_lightning.experiments.plan import num_cores
from bfc_lightning.runs.folder import RunError

# The first process tells those that it starts where the run lives.
FOLDER_VARIABLE = "BFC_RUN_FOLDER"
_LOOK_SECONDS = 0.5
_NOTICE_SECONDS = 5.0
_GRACE_SECONDS = 20.0
_LAUNCHERS = (LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment)


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher, with children that run the same command and that are watched.

    Lightning's own runs `sys.argv` again, which is another program where `main` was called from
    Python, and when a child ends it kills everything without a word, even where all were about to
    end.

    Args:
        cluster_environment: Lightning's.
        num_processes: on this machine.
        num_nodes: machines.
        words: the command, after `bfc`.
        folder: of the run, where it has one.
        threads: of each process, where the user has chosen.
        peers: the processes that were started together with this one.
    """

    def __init__(
        self,
        cluster_environment: ClusterEnvironment,
        num_processes: int,
        num_nodes: int,
        *,
        words: Sequence[str],
        folder: str | None,
        threads: int | None,
        peers: Peers,
    ) -> None:
        super().__init__(cluster_environment, num_processes, num_nodes)
        self.words = list(words)
        self.folder = folder
        self.threads = threads
        self.peers = peers
        self._parent = os.getppid()
        self._names = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]

    @property
    def is_ours(self) -> bool:
        """Whether bfc has started the processes, and not torchrun or srun."""
        return isinstance(self.cluster_environment, LightningEnvironment)

    def launch(
        self,
        function: Callable[..., object],
        *args: object,
        trainer: Trainer | None = None,
        **kwargs: object,
    ) -> object:
        """Starts the other processes, unless a launcher has, and does this one's part.

        Args:
            function: what to do.
            *args: of the function.
            trainer: Lightning's.
            **kwargs: of the function.

        Returns:
            What the function does.
        """
        environment = self.cluster_environment
        environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not environment.creates_processes_externally:
            self._call_children_scripts()
        elif trainer is not None:
            self._connect(trainer)
        ended = threading.Event()
        if self.is_ours:
            self._share_threads()
            watch = threading.Thread(target=self._watch, args=(ended,), daemon=True, name="watch")
            watch.start()
        try:
            result = function(*args, **kwargs)
            self.dismiss()
        finally:
            ended.set()
        return result

    def lost(self) -> LostProcess | None:
        """Which process of this run is gone, if one is.

        Returns:
            The first process tells; the others have something to tell only if it is gone.
        """
        for number, child in enumerate(self.procs, start=1):
            status = child.poll()
            if status:
                how = f"exit status {status}" if status > 0 else signal.Signals(-status).name
                told = f"process {number} of {self.num_processes} ended by {how}: the run stops."
                return LostProcess(told, exit_status=max(status, 1))
        is_child = self.cluster_environment.local_rank() > 0
        if self.is_ours and is_child and os.getppid() != self._parent:
            return LostProcess(f"the first of {self.num_processes} processes ended: the run stops.")
        return None

    def end_children(self) -> None:
        """Kills those that are left: they may wait for one that is gone."""
        for child in self.procs:
            child.kill()
        for child in self.procs:
            child.wait()

    def dismiss(self) -> None:
        """Waits for the others, and leaves nothing behind that a further run would stumble over.

        Only after the Trainer has let go of the model: as the last owner of the process group, that
        would wait for PyTorch's thread while it holds the lock that the thread waits for.
        """
        if sys.exception() is not None:
            self._disconnect()  # the others may be waiting
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline and any(child.poll() is None for child in self.procs):
            time.sleep(_LOOK_SECONDS / 10)
        self.end_children()
        self._disconnect()
        for name in self._names:
            os.environ.pop(name, None)

    def _connect(self, trainer: Trainer) -> None:
        """Makes the process group before Lightning does, in a store without words of the dead."""
        store, strategy = self.peers.group_store(), trainer.strategy
        assert isinstance(strategy, DDPStrategy)
        if store is None or torch.distributed.is_initialized():
            return
        device = strategy.root_device
        trainer.accelerator.setup_device(device)
        torch.distributed.init_process_group(
            strategy._get_process_group_backend(),
            store=store,
            rank=self.peers.rank,
            world_size=self.peers.size,
            timeout=strategy._timeout,
            device_id=None if device.type == "cpu" else device,
        )

    def _disconnect(self) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    def _call_children_scripts(self) -> None:
        environment = self.cluster_environment
        shared = {
            **os.environ,
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(self.num_processes),
            FOLDER_VARIABLE: self.folder or "",
        }
        command = [sys.executable, "-P", "-m", "bfc_lightning", *self.words]
        self.procs = [
            subprocess.Popen(command, env={**shared, "LOCAL_RANK": str(number)})
            for number in range(1, self.num_processes)
        ]

    def _share_threads(self) -> None:
        """Lets the processes of a machine share its cores, unless the user has."""
        if self.threads is None and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, num_cores() // self.num_processes))

    def _watch(self, ended: threading.Event) -> None:
        """Ends this process when another is gone and nothing else notices: it may wait for it."""
        while not ended.wait(_LOOK_SECONDS):
            lost = self.lost()
            if lost is not None and not ended.wait(_GRACE_SECONDS):
                say_from_any(f"error: {lost}")
                self.end_children()
                os._exit(lost.exit_status)


def prepare_launch(
    trainer: Trainer,
    words: Sequence[str],
    *,
    folder: str | None,
    threads: int | None,
    peers: Peers,
) -> None:
    """Gives a Trainer our launcher, where it trains with several processes.

    Args:
        trainer: already built.
        words: the command, after `bfc`.
        folder: of the run, where it has one.
        threads: of each process, where the user has chosen.
        peers: the processes that were started together with this one.

    Raises:
        RunError: if something else than bfc, torchrun or srun started the processes.
    """
    strategy, environment = trainer.strategy, trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False  # would save in the middle of a step, beside our files
    if not isinstance(strategy, DDPStrategy):
        return
    if not isinstance(environment, _LAUNCHERS):
        name = type(environment).__name__
        raise RunError(f"several processes must be started by bfc, torchrun or srun, got {name}.")
    strategy._launcher = Launcher(
        environment,
        strategy.num_processes,
        strategy.num_nodes,
        words=words,
        folder=folder,
        threads=threads,
        peers=peers,
    )


@contextmanager
def noticing_losses(trainer: Trainer) -> Iterator[None]:
    """Makes one clear word of what PyTorch says when another process is gone.

    At any other end the other processes come to theirs first.

    Args:
        trainer: that runs inside the `with` block.

    Raises:
        LostProcess: if one is.
        RuntimeError: if something else fails.
    """
    try:
        yield
    except RuntimeError as failed:
        if not is_broken_link(failed):
            raise
        lost = _whom(trainer)
        raise LostProcess(str(lost), lost.exit_status) from failed
    except BaseException:
        launcher = trainer.strategy.launcher
        if isinstance(launcher, Launcher):
            launcher.dismiss()
        raise


def is_broken_link(failed: RuntimeError) -> bool:
    """Whether an error says that another process does not answer."""
    return isinstance(failed, torch.distributed.DistError) or "gloo" in str(failed)


def _whom(trainer: Trainer) -> LostProcess:
    """Who is gone; the launcher learns of it a little later than the connection."""
    launcher, rank = trainer.strategy.launcher, trainer.global_rank
    unknown = f"process {rank} of {trainer.world_size} lost another one: the run stops."
    if not isinstance(launcher, Launcher) or not launcher.is_ours:
        return LostProcess(unknown)
    started = time.monotonic()
    lost = launcher.lost()
    while lost is None and time.monotonic() < started + _NOTICE_SECONDS:
        time.sleep(_LOOK_SECONDS / 5)
        lost = launcher.lost()
    launcher.end_children()
    if lost is not None:
        return lost
    return LostProcess("" if rank > 0 else unknown)
