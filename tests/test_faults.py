"""Kills at random moments lose nothing; and what looks for losses finds them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.faults.folders import differences, unreadable
from tests.runs import checkpoint, fit

# How a fault is put into the product, and when it is killed.
KILLING = """
import sys, time
from bfc_lightning.callbacks.checkpoints import Checkpoints
from bfc_lightning.data import HierarchicalData
from tests.faults import __main__, kills

def wait(until):
    def waiting(kill, command, run, seconds):
        while command.poll() is None and not until(run / "checkpoints"):
            time.sleep(0.001)
    return waiting

{sabotage}
sys.exit(__main__.main())
"""
SABOTAGES = {
    "the position in the samples is not restored": (
        """
restore = HierarchicalData.load_state_dict
HierarchicalData.load_state_dict = lambda self, state: restore(self, {**state, "position": 0})
kills._wait_for = wait(lambda folder: (folder / "previous.ckpt").exists())
""",
        "metrics.csv differs",
    ),
    "checkpoints are written in their place": (
        """
def put(self, trainer, beside, *, is_best, sync):
    content, last = beside.read_bytes(), self.folder / "last.ckpt"
    beside.unlink()
    last.write_bytes(content[:1000])
    time.sleep(1)
    last.write_bytes(content)
    (self.folder / "best.ckpt").write_bytes(content)

Checkpoints._put_in_place = put
kills.SIGNALS = (kills.signal.SIGKILL,)
kills._wait_for = wait(
    lambda folder: (folder / "last.ckpt").exists()
    and (folder / "last.ckpt").stat().st_size == 1000
)
""",
        "does not go on: exit status 2",
    ),
    "nothing is wrong": (
        """
kills._wait_for = wait(lambda folder: (folder / "previous.ckpt").exists())
""",
        "",
    ),
}


def try_faults(*words: str, program: tuple[str, ...] = ("-m", "tests.faults")) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *program, "--inputs", "0", "--seed", "1", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def totals(told: str) -> list[int]:
    """Tried, resumed equal and lost, of all kinds together."""
    rows = [line.split() for line in told.splitlines() if line.startswith("together  ")]
    assert len(rows) == 1, told
    return [int(cell) for cell in rows[0][1:]]


def test_kill_of_a_fit_loses_nothing():
    status, told = try_faults("--kills", "1", "--only", "fast path")
    assert totals(told) == [1, 1, 0]
    assert status == 0


@pytest.mark.slow
@pytest.mark.parametrize("only", ["plain path", "replicas", "together", "alone", "sweep"])
def test_kills_lose_nothing(only):
    status, told = try_faults("--kills", "4", "--only", only)
    assert totals(told) == [4, 4, 0], told
    assert status == 0


@pytest.mark.slow
@pytest.mark.ddp
def test_kills_of_two_processes_lose_nothing():
    status, told = try_faults("--kills", "4", "--only", "2 processes")
    assert totals(told) == [4, 4, 0], told
    assert status == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotage_is_found_and_nothing_else(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    sabotage, found = SABOTAGES[name]
    program = ("-c", KILLING.replace("{sabotage}", sabotage))
    status, told = try_faults("--kills", "1", "--only", "fast path", program=program)
    lost = [line for line in told.splitlines() if line.startswith("LOST")]
    if found:
        assert status == 1
        assert totals(told) == [1, 0, 1]
        assert len(lost) == 1
        assert found in lost[0]
        assert len(list(tmp_path.glob("bfc-faults-*/kills/kill-0"))) == 1
    else:
        assert status == 0, told
        assert lost == []
        assert list(tmp_path.iterdir()) == []


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
    path.write_bytes(content[: len(content) * 2 // 3] + b"{" * (path.suffix == ".yaml"))
    assert [clause.split()[0] for clause in unreadable(other)] == [path.name]


def test_file_that_is_left_over_is_found(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "other")
    (tmp_path / "other" / ".summary.json.17.tmp").write_text("{}")
    assert unreadable(tmp_path / "other") == ["left over: .summary.json.17.tmp"]
