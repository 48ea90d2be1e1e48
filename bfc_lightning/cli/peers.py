"""Processes that were started together: what they agree on before training and at the end."""

import os
import signal
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import DistError, PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from bfc_lightning.callbacks.stops import MISTAKE, LostProcess
from bfc_lightning.cli.complaints import one_line
from bfc_lightning.cli.processes import SHELLS, is_orphan, launcher, num_started, rank
from bfc_lightning.runs.folder import RunError

WORD_VARIABLE = "BFC_WORD"  # the end of the pipe that those have which bfc starts
_PATIENCE_SECONDS = 300.0
_LEAVING_SECONDS = 20.0  # torchrun kills those that have not ended 30 seconds after its SIGTERM
_REASON_SECONDS = 3.0
_PAUSE_SECONDS = 0.05
_COMPLAINT = "complaint"
_TELLER = "teller"


class Peers:
    """All processes of a run, and the one word that they have to tell of its failure.

    Those that were started from outside share a key-value store: torchrun's own, or one that the
    first process keeps where srun's variables say. A process that finds a mistake tells it to all,
    so that none waits for one that has gone. Those that bfc starts itself share the end of a pipe
    with one byte in it: whoever reads it speaks.

    Args:
        launcher: what started them.
        rank: of this process.
        size: how many were started from outside.
        num_nodes: on how many machines.
        store: that all of them reach, and nothing else uses; None where there is one process.
        word: the end of the pipe.
    """

    def __init__(
        self,
        launcher: str = "bfc",
        *,
        rank: int = 0,
        size: int = 1,
        num_nodes: int = 1,
        store: Store | None = None,
        word: int | None = None,
    ) -> None:
        self.launcher = launcher
        self.rank = rank
        self.size = size
        self.num_nodes = num_nodes
        self.have_a_reason = False  # to end, that all of them hear
        self._store = store
        self._word = word

    def share_word(self) -> int:
        """Makes the pipe of those that bfc starts.

        Returns:
            The end that they inherit.
        """
        self._word, writing = os.pipe()
        os.write(writing, b".")
        os.close(writing)
        return self._word

    def takes_the_word(self) -> bool:
        """Whether this process is the one that tells of a failure: the first to ask is."""
        if self._word is not None:
            return os.read(self._word, 1) != b""
        if self._store is None:
            return True
        try:
            teller = self._store.compare_set(_TELLER, "", str(self.rank))
        except DistError:  # whoever kept the store is gone: one on each machine tells
            per_node = self.size // self.num_nodes
            return self.rank == max(self.rank // per_node * per_node, 1)
        return teller.decode() == str(self.rank)

    def check_nodes(self) -> None:
        """Refuses nodes that have different numbers of processes.

        Raises:
            RunError: if they do, or srun has not said how many they have.
        """
        if self.size == 1:
            return
        names = {
            "torchrun": ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"),
            "srun": ("SLURM_NTASKS_PER_NODE", "SLURM_NNODES"),
        }[self.launcher]
        if names[0] not in os.environ:
            raise RunError(f"srun must be told --ntasks-per-node, got {self.size} tasks in all.")
        per_node = int(os.environ[names[0]])
        num_nodes = int(os.environ.get(names[1], self.size // per_node))
        if per_node * num_nodes != self.size:
            raise RunError(
                f"{self.launcher} must start as many processes on every node, got {self.size} on "
                f"{num_nodes} of them."
            )
        self.num_nodes = num_nodes

    def meet(self, where: str) -> None:
        """Waits until every process is here, or one of them has found a mistake.

        Args:
            where: a name for this point of the program.
        """
        if self._store is not None:
            with _needing_the_first(self.rank, self.size):
                self._store.set(f"{where}/{self.rank}", "")
            self._wait_for(f"{where}/{rank}" for rank in range(self.size))

    def tell(self, topic: str, word: str) -> None:
        """Says something to all; the first process does.

        Args:
            topic: what it is about.
            word: what is said.
        """
        if self._store is not None:
            with _needing_the_first(self.rank, self.size):
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
        with _needing_the_first(self.rank, self.size):
            return self._store.get(topic).decode()

    def group_store(self) -> Store | None:
        """Where the process group of this start of the processes may meet; None for one process."""
        return None if self._store is None else PrefixStore("group", self._store)

    def complain(self, reason: str, exit_status: int = MISTAKE) -> None:
        """Tells all why the run ends, as far as they can be reached; the first reason counts.

        Args:
            reason: in one line.
            exit_status: of all of them.
        """
        if self._store is not None:
            with suppress(DistError):
                self._store.compare_set(_COMPLAINT, "", f"{exit_status} {reason}")
                self.have_a_reason = True

    def hear_complaint(self, patience: float = 0.0) -> None:
        """Ends this process for the reason of another one.

        Args:
            patience: seconds to wait for it: one that has failed speaks a little later than its
                connections break.

        Raises:
            RunError: if that is a mistake of the user.
            LostProcess: if it is something else.
        """
        if self._store is None:
            return
        deadline = time.monotonic() + patience
        while not self._store.check([_COMPLAINT]):
            if time.monotonic() >= deadline:
                return
            time.sleep(_PAUSE_SECONDS)
        status, _, reason = self._store.get(_COMPLAINT).decode().partition(" ")
        self.have_a_reason = True
        if int(status) == MISTAKE:
            raise RunError(reason)
        raise LostProcess(reason, int(status))

    def ask_for_reason(self) -> None:
        """Looks whether one that is gone has said why; its launcher's SIGTERM waits meanwhile."""
        if self._store is not None:
            _ignore_sigterm()
            with suppress(DistError):
                self.hear_complaint(_REASON_SECONDS)

    def leave(self) -> None:
        """Waits until all have come to their end: a launcher stops the rest as soon as one has."""
        if self._store is None:
            return
        _ignore_sigterm()
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

    def close(self) -> None:
        """Lets go of the pipe."""
        if self._word is not None:
            os.close(self._word)
            self._word = None

    def _wait_for(self, keys: Iterable[str]) -> None:
        """Waits for words of the others.

        Raises:
            LostProcess: if one of them does not come; or what `hear_complaint` does.
        """
        assert self._store is not None
        wanted = list(keys)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        with _needing_the_first(self.rank, self.size):
            while not self._store.check(wanted):
                self.hear_complaint()
                if time.monotonic() > deadline:
                    raise LostProcess(
                        f"all {self.size} processes must start within {_PATIENCE_SECONDS:.0f} "
                        f"seconds, and one of them did not come to process {self.rank}."
                    )
                time.sleep(_PAUSE_SECONDS)


class _Srun(SLURMEnvironment):
    """Lightning's, refusing nothing before all processes can hear of it."""

    @staticmethod
    def _validate_srun_variables() -> None:
        """Left to `Peers.check_nodes`."""


def find_peers() -> Peers:
    """The processes that were started together with this one.

    Returns:
        All of them, where torchrun or srun started several; else this one alone.

    Raises:
        RunError: if a variable says that there are others, and nothing that we know started them.
        LostProcess: if the process that started this one is gone.
    """
    source = launcher()
    if source is None and "LOCAL_RANK" in os.environ:
        raise RunError(
            "LOCAL_RANK must be unset where neither torchrun nor srun starts the processes, got "
            f"{os.environ['LOCAL_RANK']}."
        )
    if source is None:
        _check_job_script()
        return Peers()
    if source == "bfc":
        if is_orphan():
            raise LostProcess("the first process ended before the others came: the run stops.")
        return Peers(rank=rank(), word=int(os.environ[WORD_VARIABLE]))
    size = num_started()
    if size == 1:
        return Peers(source)
    environment: ClusterEnvironment
    environment = TorchElasticEnvironment() if source == "torchrun" else _Srun()
    return Peers(source, rank=rank(), size=size, store=_reach_store(environment, rank(), size))


def _check_job_script() -> None:
    """Refuses what Lightning would: it takes a job script of SLURM for one of the job's tasks.

    Raises:
        RunError: if SLURM has not been told how many tasks a node has.
    """
    num_tasks = int(os.environ.get("SLURM_NTASKS", 1))
    is_task = num_tasks > 1 and os.environ.get("SLURM_JOB_NAME") not in SHELLS
    if is_task and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise RunError(f"sbatch must be told --ntasks-per-node, got {num_tasks} tasks in all.")


@contextmanager
def _needing_the_first(rank: int, size: int) -> Iterator[None]:
    """Makes one clear word of a store that does not answer.

    Raises:
        LostProcess: if whoever keeps it is gone.
    """
    try:
        yield
    except DistError as broken:
        raise LostProcess(f"process {rank} lost the first of {size}.") from broken


def _ignore_sigterm() -> None:
    """What Python lets only its main thread do."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


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
        )
    except DistError as unreachable:
        raise LostProcess(
            f"process {rank} could not meet the others at {environment.main_address}, port "
            f"{environment.main_port}: {one_line(str(unreachable))}"
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
    with _needing_the_first(rank, size):
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
    raise LostProcess(
        f"all {size} processes must start within {_PATIENCE_SECONDS:.0f} seconds; process {rank} "
        "waited for the others in vain."
    )


def _read(store: Store, key: str) -> str:
    return store.get(key).decode() if store.check([key]) else ""
