"""What processes that were started together agree on, here as threads with a store in common."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import DistError, TCPStore

from bfc_lightning import cli
from bfc_lightning.callbacks.stops import LostProcess
from bfc_lightning.cli import peers as module
from bfc_lightning.cli.peers import Peers, find_peers
from bfc_lightning.cli.trainer_flags import share_out
from bfc_lightning.runs.folder import RunError
from tests.launches import free_port

VARIABLES = ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS", "LOCAL_RANK", "BFC_RUN_FOLDER")
SCRIPT = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "wide", "SLURM_PROCID": "0"}


@pytest.fixture
def three():
    """Three peers, each with a connection of its own."""
    port = free_port()
    stores = [
        TCPStore(
            "127.0.0.1",
            port,
            is_master=rank == 0,
            timeout=timedelta(seconds=20),
            wait_for_workers=False,
        )
        for rank in range(3)
    ]
    return [Peers("torchrun", rank=rank, size=3, store=store) for rank, store in enumerate(stores)]


class Gone:
    """The store of a process that has ended."""

    def refuse(self, *words):
        raise DistError("connection closed")

    set = get = check = compare_set = refuse


def together(peers, function):
    """What a function of each gives, or raises, when all call it at the same time."""
    with ThreadPoolExecutor(len(peers)) as pool:
        futures = [pool.submit(function, each) for each in peers]
    return [future.exception() or future.result() for future in futures]


def test_nobody_goes_on_before_all_have_come(three):
    gone_on = []
    waiting = [
        threading.Thread(target=lambda peer=peer: (peer.meet("here"), gone_on.append(peer.rank)))
        for peer in three[:2]
    ]
    for thread in waiting:
        thread.start()
    waiting[0].join(timeout=0.5)
    assert gone_on == []
    three[2].meet("here")
    for thread in waiting:
        thread.join(timeout=20)
    assert sorted(gone_on) == [0, 1]


def test_all_hear_what_the_first_tells(three):
    three[0].tell("folder", "logs/tiny-2")
    assert together(three[1:], lambda peer: peer.hear("folder")) == ["logs/tiny-2"] * 2


def test_mistake_of_one_ends_the_waiting_of_all(three):
    def check(peer):
        if peer.rank == 2:
            peer.complain("run.name must be free.")
            raise RunError("run.name must be free.")
        peer.meet("checked")

    found = together(three, check)
    assert all(isinstance(each, RunError) for each in found)
    assert {str(each) for each in found} == {"run.name must be free."}


def test_first_mistake_counts(three):
    three[1].complain("this")
    three[2].complain("that")
    with pytest.raises(RunError, match="this"):
        three[0].meet("checked")


def test_waiting_for_one_that_never_comes_ends(three, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.2)
    with pytest.raises(LostProcess, match="all 3 processes must start within"):
        three[0].meet("here")


def test_words_of_processes_that_are_gone_mislead_nobody(three):
    store, gone = three[0]._store, ["a", "b", "c"]
    for rank, name in enumerate(gone):
        store.set(f"shown/{rank}", name)
        store.set(f"signed/{rank}", ",".join(gone))
    for key in ("list", "settled"):
        store.set(key, ",".join(gone))

    def start(peer):
        time.sleep((2 - peer.rank) * 0.3)  # the first one reads the list of the dead last
        return module._name_of_this_start(peer._store, peer.rank, 3)

    names = together(three, start)
    assert len(set(names)) == 1
    assert names[0] not in gone
    assert together(three, start) != names


def test_process_that_starts_alone_ends_with_a_word(three, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.2)
    with pytest.raises(LostProcess, match="process 1 waited for the others in vain"):
        module._name_of_this_start(three[1]._store, 1, 3)


def test_one_process_waits_for_nobody():
    alone = Peers()
    alone.meet("here")
    alone.tell("folder", "logs/tiny")
    alone.complain("nothing")
    assert alone.group_store() is None
    alone.leave()


def test_process_that_nobody_else_started_is_alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert find_peers().size == 1


@pytest.fixture
def job_script(monkeypatch):
    """The variables of a job of four tasks, before srun has started them."""
    for name in (*VARIABLES, "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    for each in SCRIPT.items():
        monkeypatch.setenv(*each)
    return monkeypatch


def test_job_script_of_slurm_waits_for_nobody(job_script):
    job_script.setenv("SLURM_NTASKS_PER_NODE", "4")
    found = find_peers()
    assert (found.size, found.launcher, found.group_store()) == (1, "bfc", None)


def test_job_script_that_lightning_refuses_is_refused_at_once(job_script):
    with pytest.raises(RunError, match="sbatch must be told --ntasks-per-node, got 4 tasks"):
        find_peers()
    job_script.setenv("SLURM_JOB_NAME", "bash")
    assert find_peers().size == 1


def test_rank_that_nothing_we_know_has_given_is_refused(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(RunError, match="LOCAL_RANK must be unset"):
        find_peers()


def test_child_of_a_process_that_is_gone_does_not_start(monkeypatch):
    for name in VARIABLES[:2]:
        monkeypatch.delenv(name, raising=False)
    given = {"LOCAL_RANK": "1", "BFC_RUN_FOLDER": "", "BFC_WORD": "0"}
    for name, value in {**given, "BFC_FIRST_PROCESS": str(os.getppid())}.items():
        monkeypatch.setenv(name, value)
    assert find_peers().rank == 1
    monkeypatch.setenv("BFC_FIRST_PROCESS", str(os.getpid()))
    with pytest.raises(LostProcess, match="the first process ended"):
        find_peers()


def test_srun_that_does_not_say_how_many_tasks_a_node_has_is_refused(monkeypatch):
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE", raising=False)
    with pytest.raises(RunError, match="--ntasks-per-node"):
        Peers("srun", size=2).check_nodes()


@pytest.mark.parametrize("counts", [(1, 3), (2, 1, 1), (1, 2, 3), (2, 2)])
def test_nodes_of_unequal_size_are_refused(monkeypatch, counts):
    """By one of them at least, which tells the others."""
    refused = 0
    for count in counts:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(count))
        monkeypatch.setenv("GROUP_WORLD_SIZE", str(len(counts)))
        peers = Peers("torchrun", size=sum(counts))
        try:
            peers.check_nodes()
        except RunError:
            refused += 1
    assert (refused > 0) == (len(set(counts)) > 1)


def test_one_word_is_taken_once(three):
    assert sum(together(three, lambda peer: peer.takes_the_word())) == 1
    first = Peers()
    others = [Peers(rank=rank, word=first.share_word()) for rank in (1,)]
    assert [each.takes_the_word() for each in (*others, first, *others)] == [True, False, False]
    first.close()


@pytest.mark.parametrize(
    ("size", "num_nodes", "tellers"), [(4, 1, [1]), (4, 2, [1, 2]), (2, 2, [1])]
)
def test_without_a_store_one_on_each_machine_tells(size, num_nodes, tellers):
    shared = {"size": size, "num_nodes": num_nodes, "store": Gone()}
    found = [rank for rank in range(size) if Peers(rank=rank, **shared).takes_the_word()]
    assert found == tellers


@pytest.mark.parametrize(
    ("function", "words"), [("meet", ["here"]), ("tell", ["folder", "logs"]), ("hear", ["folder"])]
)
def test_process_that_needs_a_store_that_is_gone_has_lost_the_first(function, words):
    peers = Peers("srun", rank=1, size=2, store=Gone())
    with pytest.raises(LostProcess, match=r"process 1 lost the first of 2\.") as lost:
        getattr(peers, function)(*words)
    assert lost.value.exit_status == 1


def test_complaint_that_nobody_can_hear_is_no_reason():
    peers = Peers("srun", rank=1, size=2, store=Gone())
    peers.complain("depth must be 1.")
    assert not peers.have_a_reason


def test_reason_of_another_process_ends_this_one_alike(three):
    three[2].complain("process 2 is out of memory", 4)
    with pytest.raises(LostProcess, match="process 2 is out of memory") as lost:
        three[0].meet("here")
    assert lost.value.exit_status == 4


def test_leaving_works_in_any_thread_and_main_gives_sigterm_back(three, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    assert together(three, Peers.leave) == [None] * 3
    monkeypatch.setattr(cli, "_run", lambda words: module._ignore_sigterm())
    cli.main(["fit"])
    assert signal.getsignal(signal.SIGTERM) == before


def test_store_that_cannot_be_kept_says_why(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
        with pytest.raises(LostProcess, match=r"could not meet the others at .*(in use|EADDR)"):
            module._reach_store(module.TorchElasticEnvironment(), 0, 2)


def flags(**given):
    return {"devices": "auto", "num_nodes": 1, "strategy": "auto", **given}


def test_flags_left_open_are_those_of_the_launcher():
    given = flags()
    share_out(given, Peers("torchrun", rank=3, size=4, num_nodes=2))
    assert given == {"devices": 2, "num_nodes": 2, "strategy": "ddp"}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (flags(devices=4), "trainer.devices must be 2, as torchrun has started"),
        (flags(num_nodes=3), "trainer.num_nodes must be 2, as torchrun has started"),
    ],
)
def test_flags_that_disagree_with_the_launcher_are_refused(given, complaint):
    with pytest.raises(RunError, match=complaint):
        share_out(given, Peers("torchrun", rank=3, size=4, num_nodes=2))
