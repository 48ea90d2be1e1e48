"""Failures of processes that were started together: one status for all, and one line."""

import threading
import time

import pytest

from bfc_lightning.callbacks.stops import LostProcess
from bfc_lightning.cli import ends as ends_module
from bfc_lightning.cli import main
from bfc_lightning.cli import peers as peers_module
from bfc_lightning.cli import together as module
from bfc_lightning.runs.folder import RunError
from tests.test_peers import three, together

__all__ = ["three"]  # a fixture

FREE = "run.name must be free."


@pytest.fixture
def ends(three, monkeypatch):
    """The statuses of three processes, each with something of its own to do."""
    own = threading.local()
    monkeypatch.setattr(module, "find_peers", lambda: own.peers)
    monkeypatch.setattr(peers_module, "_REASON_SECONDS", 1.0)

    def run(command, ranks=(0, 1, 2)):
        def start(peers):
            own.peers = peers
            return module.run_together(command)

        monkeypatch.setattr(peers_module.Peers, "check_nodes", lambda self: None)
        return together([three[rank] for rank in ranks], start)

    return run


def told(capsys):
    return capsys.readouterr().err.splitlines()


def test_mistake_that_all_find_is_told_once_though_the_first_is_late(ends, capsys):
    left = []

    def command(peers):
        time.sleep(0 if peers.rank else 0.5)
        left.append(peers.rank)
        raise RunError(FREE)

    assert ends(command) == [2, 2, 2]
    assert left[-1] == 0
    assert told(capsys) == [f"bfc: error: {FREE}"]


def test_mistake_of_one_is_why_all_end_though_the_first_only_lost_it(ends, capsys):
    def command(peers):
        if peers.rank < 2:
            raise LostProcess("process 0 of 3 lost another one")
        time.sleep(0.3)
        raise RunError(FREE)

    assert ends(command) == [2, 2, 2]
    assert told(capsys) == [f"bfc: error: {FREE}"]


def test_lack_of_memory_of_another_process_is_told_with_its_number(ends, capsys, monkeypatch):
    for each in (module, ends_module):  # asked by the one that lacks memory only
        monkeypatch.setattr(each, "rank", lambda: 1)

    def command(peers):
        if peers.rank == 1:
            raise RuntimeError("CUDA out of memory.")
        raise LostProcess("process 0 of 3 lost another one")

    assert ends(command) == [4, 4, 4]
    lines = [line.replace("error: ", "") for line in told(capsys)]  # so another one tells it
    assert lines == ["bfc: process 1 is out of memory: CUDA out of memory."]


def test_lost_process_is_told_by_one_of_those_that_are_left(ends, capsys):
    def command(peers):
        raise LostProcess(f"process {peers.rank} of 3 lost another one")

    assert ends(command, ranks=(1, 2)) == [1, 1]
    assert len(told(capsys)) == 1


@pytest.mark.parametrize("command", ["compare", "sweep", "claims", "nonsense"])
def test_command_of_one_process_is_refused_together(monkeypatch, command):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    refused = []
    monkeypatch.setattr(module, "refuse_together", lambda text: refused.append(text) or 2)
    assert main([command]) == 2
    assert "must be" in refused[0]


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_only_the_first_prints_help(monkeypatch, capsys, word):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for number, printed in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", number)
        assert main([word]) == 0
        assert bool(capsys.readouterr().out) == printed
