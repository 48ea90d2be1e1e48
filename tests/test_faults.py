"""Kills at random moments lose nothing; and what looks for losses finds them."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
import torch

from bfc_lightning.callbacks.checkpoints import Checkpoints
from bfc_lightning.callbacks.stops import Interrupted
from bfc_lightning.data import HierarchicalData
from tests.faults import __main__ as command
from tests.faults import kills
from tests.faults.folders import differences, unreadable
from tests.faults.forked import start, warm_up
from tests.faults.kills import Outcome, Tally, try_kills
from tests.faults.landing import Kill, send, wrong_end
from tests.runs import TINY, checkpoint, fit


@pytest.fixture
def forks():
    """Commands are forked from this process, where pytest has made errors of warnings."""
    warm_up()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def test_kill_in_the_middle_of_a_fit_loses_nothing(forks, tmp_path):
    only, moments = ["fast path"], {"training": 1}
    tallies = [
        *try_kills(1, seed=1, folder=tmp_path, only=only, signals=[SIGKILL], moments=moments)
    ]
    tally, key = tallies[-1], ("fit, fast path", "SIGKILL")
    assert tally.lost == []
    assert tally.tried == tally.unfinished == Counter({key: 1})
    assert len(tallies) == 1 + tally.missed[key]  # those that missed were drawn again


def try_faults(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--inputs", "0", "--seed", "1", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def rows(told: str) -> dict[str, list[int]]:
    """Tried, unfinished, missed, resumed equal and lost, by what was killed and by which signal."""
    found = re.findall(r"^(\S.*?)((?: +\d+){5})$", told, re.MULTILINE)
    return {" ".join(key.split()): [int(cell) for cell in cells.split()] for key, cells in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kinds",
    [
        ["fit, plain path", "fit, replicas"],
        ["compare, together"],
        pytest.param(["fit, 2 processes"], marks=pytest.mark.ddp),
    ],
)
def test_kills_in_the_middle_of_training_lose_nothing(kinds):
    words = ["--by", "SIGKILL", "--at", "training"]
    status, told = try_faults("--kills", str(len(kinds)), "--only", *kinds, *words)
    found = rows(told)
    assert found.keys() == {"together", *(f"{kind} SIGKILL" for kind in kinds)}, told
    for kind in kinds:
        tried, unfinished, missed, equal, lost = found[f"{kind} SIGKILL"]
        assert (tried, unfinished, equal, lost) == (1, 1, 1, 0), told
        assert missed < 10, told
    assert status == 0


def position_is_not_restored(monkeypatch):
    restore = HierarchicalData.load_state_dict
    monkeypatch.setattr(
        HierarchicalData,
        "load_state_dict",
        lambda self, state: restore(self, {**state, "position": 0}),
    )


def checkpoints_are_written_in_their_place(monkeypatch):
    def put(self, trainer, beside, *, is_best, sync):
        content, last = beside.read_bytes(), self.folder / "last.ckpt"
        beside.unlink()
        last.write_bytes(content[:1000])
        time.sleep(1)
        last.write_bytes(content)
        (self.folder / "best.ckpt").write_bytes(content)

    def wait(kill, killed, *, run, seconds, is_fit):
        path = run / "checkpoints" / "last.ckpt"
        while not (path.exists() and path.stat().st_size == 1000):
            time.sleep(0.001)

    undisturbed = kills._undisturbed
    monkeypatch.setattr(kills, "wait_for", wait)

    def first_undisturbed(kind, folder):
        whole = undisturbed(kind, folder)
        monkeypatch.setattr(Checkpoints, "_put_in_place", put)
        return whole

    monkeypatch.setattr(kills, "_undisturbed", first_undisturbed)


def status_says_nothing_of_the_signal(monkeypatch):
    begin = Interrupted.__init__

    def init(self, signum):
        begin(self, signum)
        self.exit_status = 0

    monkeypatch.setattr(Interrupted, "__init__", init)


def nothing_is_wrong(monkeypatch):
    pass


def kills_come_too_late(monkeypatch):
    def wait(kill, killed, *, run, seconds, is_fit):
        assert killed.wait(60) == 0

    monkeypatch.setattr(kills, "wait_for", wait)
    monkeypatch.setattr(kills, "_ATTEMPTS", 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "signum", "row", "told"),
    [
        (position_is_not_restored, "SIGKILL", [1, 1, 0, 1], "metrics.csv differs"),
        (checkpoints_are_written_in_their_place, "SIGKILL", [1, 1, 0, 1], "exit status 2"),
        (status_says_nothing_of_the_signal, "SIGTERM", [1, 1, 0, 1], "exit status 0 after SIG"),
        (nothing_is_wrong, "SIGTERM", [1, 1, 1, 0], ""),
        (kills_come_too_late, "SIGKILL", [0, 0, 0, 0], "NOT TRIED: 1 of 1 kills"),
    ],
)
def test_sabotage_is_found_and_nothing_else(
    forks, tmp_path, monkeypatch, capsys, sabotage, signum, row, told
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sabotage(monkeypatch)
    words = ["--kills", "1", "--only", "plain path", "--by", signum, "--at", "training"]
    monkeypatch.setattr(sys, "argv", ["faults", "--inputs", "0", "--seed", "1", *words])
    status = command.main()
    printed = capsys.readouterr().out
    tried, unfinished, missed, equal, lost = rows(printed)["together"]
    assert [tried, unfinished, equal, lost] == row
    assert missed == 2 if sabotage is kills_come_too_late else missed < 10
    assert status == bool(told), printed
    last = [line for line in printed.splitlines() if line.startswith(("LOST", "NOT TRIED"))]
    assert len(last) == bool(told)
    assert told in "".join(last)
    kept = [path.name for path in tmp_path.glob("bfc-faults-*/kills/kill-*")]
    assert len(kept) == lost
    assert bool(told) == any(tmp_path.iterdir())


def test_signal_to_a_command_that_has_ended_is_none_that_landed(forks, tmp_path):
    done = start(["--version"], tmp_path / "log.txt")
    assert done.wait(60) == 0
    assert not send(KILL, done)
    assert not send(OF_A_CHILD, done)


def test_signal_to_a_command_at_work_has_landed_but_not_to_a_child_that_it_lacks(forks, tmp_path):
    working = start(["fit", "-c", TINY, "--run.root", str(tmp_path)], tmp_path / "log.txt")
    assert not send(OF_A_CHILD, working)
    assert send(KILL, working)
    assert working.wait(60) == -SIGKILL


KILL = Kill(SIGKILL, "training", is_of_child=False, share=0.5, patience=1)
OF_A_CHILD = Kill(SIGKILL, "training", is_of_child=True, share=0.5, patience=1)
TERM = Kill(SIGTERM, "training", is_of_child=False, share=0.5, patience=1)
TERM_OF_A_CHILD = Kill(SIGTERM, "training", is_of_child=True, share=0.5, patience=1)
FAILED = "bfc: 1 of 6 runs failed; again: bfc compare -c mine.yaml"


@pytest.mark.parametrize(
    ("kill", "is_fit", "right", "right_at_the_end"),
    [
        (KILL, True, {-9}, {-9}),
        (KILL, False, {-9}, {-9}),
        (TERM, True, {143}, {143, 0, -15}),
        (TERM, False, {143}, {143, 0, -15}),
        (OF_A_CHILD, True, {1}, {1, 0}),
        (TERM_OF_A_CHILD, True, {143}, {143, 1, 0}),
        (OF_A_CHILD, False, set(), {0}),
        (TERM_OF_A_CHILD, False, set(), {0}),
    ],
)
def test_status_after_a_kill_is_right_where_it_says_what_happened(
    kill, is_fit, right, right_at_the_end
):
    for is_saved, known in ((False, right), (True, right_at_the_end)):
        known_too = {
            status
            for status in (0, 1, 2, 3, 143, -9, -15, -11)
            if not wrong_end(
                kill, status, printed="", is_fit=is_fit, is_begun=True, is_saved=is_saved
            )
        }
        assert known_too == known


def test_experiment_may_end_with_1_only_where_it_says_that_runs_failed():
    kinds = {"is_fit": False, "is_begun": True, "is_saved": False}
    assert wrong_end(OF_A_CHILD, 1, printed=FAILED, **kinds) == ""
    assert wrong_end(OF_A_CHILD, 1, printed="bfc: error: no.", **kinds)
    assert wrong_end(TERM, 1, printed=FAILED, **kinds)


def test_tally_counts_what_landed_apart_from_what_missed():
    tally, key = Tally(), ("sweep", "SIGTERM")
    tally.add(key, Outcome(has_landed=False), "here")
    tally.add(key, Outcome(has_landed=True, is_unfinished=True), "here")
    tally.add(key, Outcome(has_landed=True), "here")
    tally.add(key, Outcome(True, True, "hangs"), "here")
    tally.add(("compare", "SIGKILL"), Outcome(has_landed=False), "here")
    assert rows("\n".join(tally.lines())) == {
        "compare SIGKILL": [0, 0, 1, 0, 0],
        "sweep SIGTERM": [3, 2, 1, 2, 1],
        "together": [3, 2, 2, 2, 1],
    }
    assert tally.lost == [(key, "hangs: here")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    assert fit(root, "--run.figures", "true", "--trainer.max_steps", "20") == 0
    return root / "tiny"


def another_weight(run: Path) -> None:
    content = checkpoint(run)
    key = next(
        key for key in content["state_dict"] if content["state_dict"][key].is_floating_point()
    )
    weight = content["state_dict"][key].view(-1)
    weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf))
    torch.save(content, run / "checkpoints" / "last.ckpt")


def another_position(run: Path) -> None:
    content = checkpoint(run, "best")
    content["HierarchicalData"]["position"] += 1
    torch.save(content, run / "checkpoints" / "best.ckpt")


def another_row(run: Path) -> None:
    rows = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join([*rows[:-2], rows[-1]]))


def unfinished_summary(run: Path) -> None:
    text = (run / "summary.json").read_text()
    (run / "summary.json").write_text(text.replace('"finished"', '"running"'))


def lost_file(run: Path) -> None:
    (run / "figures" / "learning_curves.png").unlink()


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (another_weight, "last.ckpt differs in .state_dict."),
        (another_position, "best.ckpt differs in .HierarchicalData.position"),
        (another_row, "metrics.csv differs"),
        (unfinished_summary, "summary.json differs"),
        (lost_file, "only one of them has figures/learning_curves.png"),
    ],
)
def test_difference_of_two_runs_is_found(whole, tmp_path, damage, found):
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    assert differences(whole, other) == []
    damage(other)
    clauses = differences(whole, other)
    assert len(clauses) == 1
    assert found in clauses[0]


@pytest.mark.parametrize(
    "name",
    [
        *("config.yaml", "summary.json", "metrics.csv", "checkpoints/last.ckpt"),
        *("checkpoints/best.ckpt", "figures/learning_curves.png"),
    ],
)
def test_file_that_is_cut_off_is_found(whole, tmp_path, name):
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    assert unreadable(other) == []
    path = other / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3] + b"\n{" * (path.suffix == ".yaml"))
    assert [clause.split()[0] for clause in unreadable(other)] == [path.name]


def test_file_that_is_left_over_is_found(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "other")
    (tmp_path / "other" / ".summary.json.17.tmp").write_text("{}")
    assert unreadable(tmp_path / "other") == ["left over: .summary.json.17.tmp"]
