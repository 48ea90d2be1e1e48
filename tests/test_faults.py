"""Kills at random moments lose nothing, and what looks for losses finds them."""

import shutil
import warnings
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
import torch

from bfc_lightning.callbacks.exceptions import Interrupted
from bfc_lightning.data import HierarchicalData
from tests.faults import kills
from tests.faults.folders import differences, unreadable
from tests.faults.forked import warm_up
from tests.faults.kills import Tally, try_kills
from tests.runs import checkpoint, fit


@pytest.fixture
def forks():
    """Commands are forked from this process, in which pytest has made errors of warnings."""
    warm_up()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def try_some(count: int, folder: Path, only: str, **options) -> Tally:
    *_, tally = try_kills(count, seed=1, folder=folder, only=only, **options)
    return tally


@pytest.mark.slow
@pytest.mark.parametrize("only", ["fit, eager", "fit, autograd", "fit, replicas", "compare"])
def test_kills_lose_nothing(forks, tmp_path, only):
    tally = try_some(4, tmp_path, only)
    assert tally.lost == []
    assert tally.landed.total() == 4


def position_is_not_restored(monkeypatch):
    restore = HierarchicalData.load_state_dict
    monkeypatch.setattr(
        HierarchicalData,
        "load_state_dict",
        lambda self, state: restore(self, {**state, "position": 0}),
    )


def exit_code_is_zero(monkeypatch):
    monkeypatch.setattr(Interrupted, "__init__", lambda self, signum: setattr(self, "exit_code", 0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "signum", "found"),
    [
        (position_is_not_restored, SIGKILL, "metrics.csv differs"),
        (exit_code_is_zero, SIGTERM, "exit code 0 after SIGTERM"),
    ],
)
def test_sabotage_is_found(forks, tmp_path, monkeypatch, sabotage, signum, found):
    sabotage(monkeypatch)
    options = {"signals": [signum], "moments": ["training"]}
    monkeypatch.setattr(kills, "_MOST_KILLS", 1)
    ((kind, problem),) = try_some(1, tmp_path, "autograd", **options).lost
    assert kind == "fit, autograd"
    assert found in problem
    assert len(list(tmp_path.glob("kill-*"))) == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    assert fit(root, "--run.figures", "true", "--trainer.max_steps", "20") == 0
    return root / "tiny"


def another_weight(run: Path) -> None:
    content = checkpoint(run)
    weight = next(t for t in content["state_dict"].values() if t.is_floating_point()).view(-1)
    weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf))
    torch.save(content, run / "checkpoints" / "last.ckpt")


def another_position(run: Path) -> None:
    content = checkpoint(run, "best")
    content["HierarchicalData"]["position"] += 1
    torch.save(content, run / "checkpoints" / "best.ckpt")


def a_lost_row(run: Path) -> None:
    rows = (run / "metrics.csv").read_text().splitlines(keepends=True)
    (run / "metrics.csv").write_text("".join([*rows[:-2], rows[-1]]))


def a_lost_file(run: Path) -> None:
    (run / "figures" / "learning_curves.png").unlink()


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (another_weight, "last.ckpt differs in .state_dict."),
        (another_position, "best.ckpt differs in .HierarchicalData.position"),
        (a_lost_row, "metrics.csv differs"),
        (a_lost_file, "only one of them has figures/learning_curves.png"),
    ],
)
def test_a_difference_of_two_runs_is_found(whole, tmp_path, damage, found):
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    assert differences(whole, other) == []
    damage(other)
    (clause,) = differences(whole, other)
    assert found in clause


def test_truncated_and_unfinished_files_are_found(whole, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(whole, other)
    assert unreadable(other) == []
    names = ["summary.json", "metrics.csv", "checkpoints/last.ckpt", "figures/learning_curves.png"]
    for path in (other / name for name in names):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        assert [clause.split()[0] for clause in unreadable(other)] == [path.name]
        path.write_bytes(content)
    (other / ".summary.json.17.tmp").write_text("{}")
    assert unreadable(other) == ["left over: .summary.json.17.tmp"]
