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
from bfc_lightning.cli.complaints import one_line
from bfc_lightning.cli.console import say_from_any
from bfc_lightning.cli.peers import WORD_VARIABLE, Peers
from bfc_lightning.cli.processes import FIRST_VARIABLE, FOLDER_VARIABLE, is_orphan, rank
from bfc_lightning.experiments.plan import num_cores
from bfc_lightning.runs.folder import RunError

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
        if is_orphan():
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
        environment, word = self.cluster_environment, self.peers.share_word()
        shared = {
            **os.environ,
            "MASTER_ADDR": environment.main_address,
            "MASTER_PORT": str(environment.main_port),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(self.num_processes),
            FOLDER_VARIABLE: self.folder or "",
            FIRST_VARIABLE: str(os.getpid()),
            WORD_VARIABLE: str(word),
        }
        command = [sys.executable, "-P", "-m", "bfc_lightning", *self.words]
        self.procs = [
            subprocess.Popen(command, env={**shared, "LOCAL_RANK": str(number)}, pass_fds=[word])
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
                if self.peers.takes_the_word():
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
    # Lightning's handlers would stop without a checkpoint, and broadcast in the middle of a step;
    # for the sake of them it lets several processes wait for each other at every batch.
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False  # would save in the middle of a step, beside our files
    if not isinstance(strategy, DDPStrategy):
        return
    if not isinstance(environment, _LAUNCHERS):
        name = type(environment).__name__
        raise RunError(f"several processes must be started by bfc, torchrun or srun, got {name}.")
    if isinstance(environment, SLURMEnvironment) and peers.launcher != "srun":
        raise RunError(
            "trainer.devices must be 1 and trainer.strategy auto in a job of SLURM where srun does "
            f"not start bfc, got {strategy.num_processes} and {type(strategy).__name__}."
        )
    if trainer.global_rank != rank():
        raise RunError(
            "NODE_RANK and GROUP_RANK must be unset where bfc starts the processes, as they make "
            f"the one with number {rank()} number {trainer.global_rank}."
        )
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
    """Makes a `LostProcess` of what PyTorch raises when another process is gone.

    Whatever the block raises goes on only after the processes that bfc has started have ended: they
    are given some seconds, and then killed.

    Args:
        trainer: that runs inside the `with` block.
    """
    try:
        yield
    except BaseException as failed:
        lost = _whom(trainer, failed) if is_broken_link(failed) else None
        if isinstance(trainer.strategy.launcher, Launcher):
            trainer.strategy.launcher.dismiss()
        if lost is None:
            raise
        raise lost from failed


def is_broken_link(failed: BaseException) -> bool:
    """Whether an error says that another process does not answer."""
    if isinstance(failed, torch.distributed.DistError):
        return True
    return isinstance(failed, RuntimeError) and "gloo" in str(failed)


def _whom(trainer: Trainer, failed: BaseException) -> LostProcess:
    """Who is gone; the launcher learns of it a little later than the connection."""
    launcher, here = trainer.strategy.launcher, trainer.global_rank
    cause = f"the run stops: {one_line(str(failed))}"
    unknown = LostProcess(f"process {here} of {trainer.world_size} lost another one, {cause}")
    if not isinstance(launcher, Launcher) or not launcher.is_ours:
        return unknown
    # A process that fails tells why, and may take long over its end; the first one does not end.
    deadline = time.monotonic() + (_NOTICE_SECONDS if here > 0 else _GRACE_SECONDS)
    lost = launcher.lost()
    while lost is None and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS / 5)
        lost = launcher.lost()
    launcher.end_children()
    is_closed = not isinstance(failed, torch.distributed.DistError)
    return lost or (LostProcess("") if here > 0 and is_closed else unknown)


def _nothing() -> None:
    """What is left of Lightning's handlers of signals."""
