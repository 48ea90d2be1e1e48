"""Processes that torchrun or srun started together: what they agree on before training."""

import os
import signal
import time
import uuid
from collections.abc import Iterable
from datetime import timedelta

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from bfc_lightning.callbacks.stops import LostProcess
from bfc_lightning.runs.folder import RunError

_PATIENCE_SECONDS = 300.0
_LEAVING_SECONDS = 30.0
_PAUSE_SECONDS = 0.05
_COMPLAINT = "complaint"


class Peers:
    """All processes of a run that were started from outside, and the one word that they share.

    A process that finds a mistake tells it to all, so that none waits for one that has gone. They
    share a key-value store: torchrun's own, or one that the first process keeps where srun's
    variables say.

    Args:
        launcher: what started them.
        rank: of this process.
        size: how many there are.
        num_nodes: on how many machines.
        store: that all of them reach, and nothing else uses; None where there is one process.
    """

    def __init__(
        self,
        launcher: str = "bfc",
        *,
        rank: int = 0,
        size: int = 1,
        num_nodes: int = 1,
        store: Store | None = None,
    ) -> None:
        self.launcher = launcher
        self.rank = rank
        self.size = size
        self.num_nodes = num_nodes
        self._store = store

    def meet(self, where: str) -> None:
        """Waits until every process is here, or one of them has found a mistake.

        Args:
            where: a name for this point of the program.
        """
        if self._store is not None:
            self._store.set(f"{where}/{self.rank}", "")
            self._wait_for(f"{where}/{rank}" for rank in range(self.size))

    def tell(self, topic: str, word: str) -> None:
        """Says something to all; the first process does.

        Args:
            topic: what it is about.
            word: what is said.
        """
        if self._store is not None:
            self._store.set(topic, word)

    def hear(self, topic: str) -> str:
        """What the first process says.

        Args:
            topic: what it is about.

        Returns:
            The word.
        """
        assert self._store is not None
        self._wait_for([topic])
        return self._store.get(topic).decode()

    def group_store(self) -> Store | None:
        """Where the process group of this start of the processes may meet; None for one process."""
        return None if self._store is None else PrefixStore("group", self._store)

    def complain(self, mistake: str) -> None:
        """Tells all of a mistake; the first one counts.

        Args:
            mistake: in one line.
        """
        if self._store is not None:
            self._store.compare_set(_COMPLAINT, "", mistake)

    def leave(self) -> None:
        """Waits until all have come to their end: a launcher stops the rest as soon as one has."""
        if self._store is None:
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        keys = [f"left/{rank}" for rank in range(self.size)]
        try:
            self._store.set(keys[self.rank], "")
            deadline = time.monotonic() + _LEAVING_SECONDS
            while time.monotonic() < deadline and not self._store.check(keys):
                time.sleep(_PAUSE_SECONDS)
            if self.rank == 0:  # may keep the store, which the others ask once more
                time.sleep(4 * _PAUSE_SECONDS)
        except DistError:  # whoever kept the store has seen everybody here
            return

    def _wait_for(self, keys: Iterable[str]) -> None:
        """Waits for words of the others.

        Raises:
            RunError: if one of them has found a mistake.
            LostProcess: if one of them does not come.
        """
        assert self._store is not None
        wanted = list(keys)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        try:
            while not self._store.check(wanted):
                if self._store.check([_COMPLAINT]):
                    raise RunError(self._store.get(_COMPLAINT).decode())
                if time.monotonic() > deadline:
                    raise LostProcess(
                        f"all {self.size} processes must start within {_PATIENCE_SECONDS:.0f} "
                        f"seconds, and one of them did not come to process {self.rank}."
                    )
                time.sleep(_PAUSE_SECONDS)
        except DistError as broken:
            raise LostProcess(f"process {self.rank} lost the first of {self.size}.") from broken


def find_peers() -> Peers:
    """The processes that were started together with this one.

    Returns:
        All of them, where torchrun or srun started several; else this one alone.

    Raises:
        RunError: if the launcher has not said enough.
    """
    environment: ClusterEnvironment
    try:
        if TorchElasticEnvironment.detect():
            launcher, environment = "torchrun", TorchElasticEnvironment()
            per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        elif SLURMEnvironment.detect():
            launcher, environment = "srun", SLURMEnvironment()
            per_node = int(os.environ.get("SLURM_NTASKS_PER_NODE", 1))
        else:
            return Peers()
    except RuntimeError as refused:
        raise RunError(str(refused)) from refused
    rank, size = environment.global_rank(), environment.world_size()
    if size == 1:
        return Peers(launcher)
    if size % per_node:
        raise RunError(f"{launcher} must start as many processes on every node, got {size} in all.")
    store = _reach_store(environment, rank, size)
    return Peers(launcher, rank=rank, size=size, num_nodes=size // per_node, store=store)


def _reach_store(environment: ClusterEnvironment, rank: int, size: int) -> Store:
    """Torchrun keeps a store for its processes; else the first of them does.

    Raises:
        LostProcess: if it cannot be reached.
    """
    is_kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = TCPStore(
            environment.main_address,
            environment.main_port,
            is_master=rank == 0 and not is_kept,
            timeout=timedelta(seconds=_PATIENCE_SECONDS),
            wait_for_workers=False,
            multi_tenant=True,  # the process group will keep its own at the same place
        )
    except DistError as unreachable:
        raise LostProcess(
            f"process {rank} could not reach the first one at {environment.main_address}, port "
            f"{environment.main_port}."
        ) from unreachable
    return PrefixStore(f"bfc/{_name_of_this_start(store, rank, size)}", store)


def _name_of_this_start(store: Store, rank: int, size: int) -> str:
    """A name that only the processes know which are there now.

    A launcher that starts processes again keeps its store, with the words of those that are gone:
    among them the addresses at which PyTorch's process group would look for them. Torchrun's count
    of restarts tells them apart on one machine only. So each process shows a name of its own; the
    first one lists the names that it sees, and the list counts once every process has signed it.

    Raises:
        LostProcess: if they do not come together.
    """
    own = uuid.uuid4().hex
    ranks = range(size)
    shown, signed = ([f"{word}/{each}" for each in ranks] for word in ("shown", "signed"))
    deadline = time.monotonic() + _PATIENCE_SECONDS
    try:
        store.set(shown[rank], own)
        while time.monotonic() < deadline:
            if rank == 0 and store.check(shown):
                store.set("list", ",".join(store.get(key).decode() for key in shown))
            names = _read(store, "list")
            if names.split(",")[rank:][:1] == [own]:
                store.set(signed[rank], names)
                if rank == 0 and all(_read(store, key) == names for key in signed):
                    store.set("settled", names)
                if _read(store, "settled") == names:
                    return names.split(",")[0]
            time.sleep(_PAUSE_SECONDS)
    except DistError as broken:
        raise LostProcess(f"process {rank} lost the first of {size}.") from broken
    raise LostProcess(
        f"all {size} processes must start within {_PATIENCE_SECONDS:.0f} seconds; process {rank} "
        "waited for the others in vain."
    )


def _read(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""
