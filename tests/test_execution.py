"""What becomes of runs and groups that come to no good end; the workers are played."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bfc_lightning.cli import main
from bfc_lightning.cli.fit_parser import read_fit
from bfc_lightning.cli.many_runs import refuse_all
from bfc_lightning.experiments.comparison import planned_runs
from bfc_lightning.experiments.execution import Outcome, run_comparison
from bfc_lightning.experiments.folder import KIND, claimed
from bfc_lightning.experiments.own_folder import FolderKind, locked
from bfc_lightning.experiments.plan import PlannedRun, Point
from bfc_lightning.experiments.reasons import reason_of
from bfc_lightning.experiments.results import Row
from bfc_lightning.experiments.settings import nested
from bfc_lightning.experiments.workers import Ended, Started, Task
from bfc_lightning.runs.folder import RunError
from tests.comparisons import parse, plan_together, write
from tests.replica_words import PENALTY

WIDE = {"wide": {}}
Play = Callable[[str], int]
"""Does what a task of some name would have done, and returns its exit status."""


class PlayedPool:
    """In the place of workers."""

    signum = 0

    def __init__(self, function: Play, num_workers: int, **options: object) -> None:
        self.play = function
        self.num_workers = num_workers

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def run(self, tasks):
        for task in tasks:
            yield Started(task)
            yield Ended(task, self.play(task.name), has_died=False, seconds=1.0)


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Runs a comparison of a tiny learner; returns what became of it."""
    monkeypatch.setattr("bfc_lightning.experiments.work.WorkerPool", PlayedPool)

    def run(play: Play, **content: object) -> Outcome:
        comparison = parse(write(tmp_path, **{"learners": {"wide": {}}, **content}))
        folder = tmp_path / "logs" / "few"
        with claimed(comparison, folder):
            return run_comparison(comparison, folder, run_one=play, read_fit=read_fit, command="")

    return run


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "logs" / "few"


def finish(folder: Path, name: str) -> int:
    run = folder / "runs" / name
    run.mkdir(parents=True, exist_ok=True)
    content = {"status": "finished", "steps": 20, "metrics": {"val/nmse": 0.5}}
    (run / "summary.json").write_text(json.dumps(content))
    return 0


def test_group_that_is_stopped_twice_is_planned_one_by_one_as_it_is_run(compare, folder):
    plans = []

    def play(name: str) -> int:
        plan = json.loads((folder / "together" / "runs" / "plan.json").read_text())
        plans.append((name.partition("-")[2][:5], list(plan.values())))
        return 143 if "runs" in name else finish(folder, name)

    outcome = compare(play)
    both, alone = [["wide-seed0", "wide-seed1"]], [["wide-seed0"], ["wide-seed1"]]
    assert plans == [("2runs", both), ("2runs", both), ("seed0", alone), ("seed1", alone)]
    assert [row.status for row in outcome.rows] == ["finished", "finished"]


def test_run_whose_folder_a_group_took_away_in_vain_is_run_alone(compare, tmp_path, folder):
    compare(lambda name: finish(folder, name), seeds=[0])
    plan_together(
        tmp_path / "few.yaml", folder, planned_runs(parse(write(tmp_path, learners=WIDE)))
    )
    played = []

    def play(name: str) -> int:
        played.append(name)
        if "runs" not in name:
            return finish(folder, name)
        shutil.rmtree(folder / "runs" / "wide-seed0")
        return 1

    outcome = compare(play)
    assert played[1:] == ["wide-seed0", "wide-seed1"]
    assert [row.status for row in outcome.rows] == ["finished", "finished"]


def test_group_in_which_one_learner_is_wrong_is_tried_again_without_it(compare, folder, capsys):
    plans = []

    def play(name: str) -> int:
        plan = json.loads((folder / "together" / "runs" / "plan.json").read_text())
        plans.append((name, [len(names) for names in plan.values()]))
        if "-4runs-" in name or "wrong" in name:
            log = folder / "logs" / f"{name}.txt"
            log.parent.mkdir(exist_ok=True)
            log.write_text("bfc: error: replica_overrides[2]: too many.\n")
            return 2
        seeds = (0, 1) if "runs" in name else ()
        return max(finish(folder, f"right-seed{seed}") for seed in seeds)

    penalties = {"right": [0.1, 0.1], "wrong": [0.1, 0.1, 0.1]}
    outcome = compare(
        play, learners={name: nested(PENALTY, each) for name, each in penalties.items()}
    )
    assert [name.partition("-")[2][:5] for name, _ in plans] == [
        "4runs",
        "2runs",
        "2runs",
        "seed0",
        "seed1",
    ]
    assert [plan for _, plan in plans] == [[4], [2, 2], [2, 2], [2, 1, 1], [2, 1, 1]]
    assert [row.status for row in outcome.rows] == ["finished"] * 2 + ["failed"] * 2
    error = capsys.readouterr().err
    assert "right-seed0 and 3 more are run in smaller groups (bfc: error: replica_" in error
    assert "wrong-seed0 and 1 more are run one by one (bfc: error: replica_" in error


@pytest.mark.parametrize(
    ("status", "has_died", "is_overdue", "expected"),
    [
        (2, False, False, "bfc: error: too wide."),
        (-9, True, False, "its process was killed by signal 9"),
        (1, True, False, "its process died (exit code 1)"),
        (143, False, True, "stopped after 21 s"),
    ],
)
def test_reason_is_what_ended_a_task(tmp_path, status, has_died, is_overdue, expected):
    log = tmp_path / "log"
    log.write_text("bfc: going on.\nbfc: error: too wide.\n")
    task = Task("a", ("fit",), log)
    assert reason_of(Ended(task, status, has_died, 20.6, is_overdue)) == expected


def test_reason_of_a_task_that_said_nothing_is_its_status(tmp_path):
    assert reason_of(Ended(Task("a", ("fit",), tmp_path / "log"), 5, False, 1.0)) == "exit status 5"


@pytest.mark.parametrize("signum", [0, 15])
def test_plans_are_left_only_where_all_was_stopped(compare, folder, monkeypatch, signum):
    """Also those of trials that are asked for no longer."""
    (folder / "together" / "trials" / "wide-3runs-01234567").mkdir(parents=True)
    monkeypatch.setattr(PlayedPool, "signum", signum)
    compare(lambda name: finish(folder, name))
    assert (folder / "together").exists() == bool(signum)


def test_what_a_worker_leaves_that_outlives_its_killed_parent_is_gone_in_the_end(compare, folder):
    """It may die half way through a run folder only when the next parent is at work already."""
    left = []

    def play(name: str) -> int:
        orphan = subprocess.Popen([sys.executable, "-c", ""])
        orphan.wait()
        left.append(folder / "runs" / f".wide-seed1.{orphan.pid}.tmp" / "config.yaml")
        left[-1].parent.mkdir(parents=True)
        left[-1].touch()
        return max(finish(folder, f"wide-seed{seed}") for seed in (0, 1))

    compare(play)
    assert left
    assert [path.name for path in sorted((folder / "runs").iterdir())] == [
        "wide-seed0",
        "wide-seed1",
    ]


def test_folder_whose_runs_were_all_refused_is_emptied_before_others_may_have_it(
    tmp_path, folder, monkeypatch, capsys
):
    def play(comparison, folder, **options):
        path = folder / "logs" / "wide-seed0.txt"
        path.parent.mkdir()
        path.write_text("bfc: error: too wide.\n")
        return Outcome([Row(PlannedRun(Point("wide"), 0), folder, "failed")], 1, 0)

    def empty_while_locked(kind, folder, files):
        with pytest.raises(RunError, match="is being worked on"), locked(folder):
            pass
        empty(kind, folder, files)

    empty = FolderKind.empty
    monkeypatch.setattr("bfc_lightning.experiments.execution.run_comparison", play)
    monkeypatch.setattr(FolderKind, "empty", empty_while_locked)
    assert main(["compare", "-c", str(write(tmp_path, learners={"wide": {}}))]) == 2
    assert capsys.readouterr().err == "bfc: error: every run was refused: too wide.\n"
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(("status_of_own", "num_refused"), [(1, 0), (2, 1)])
def test_refused_trials_do_not_make_refusals_of_crashes(
    compare, folder, status_of_own, num_refused
):
    outcome = compare(
        lambda name: 2 if "tune(" in name else status_of_own,
        learners={"wide": {"tune": {"model.width": [4, 8]}}},
        tuning={"seeds": [100]},
        seeds=[0],
    )
    assert [row.status for row in outcome.rows] == ["failed"]
    assert outcome.num_refused == num_refused
    if not num_refused:
        refuse_all(outcome, folder, kind=KIND, absent=[folder])
        assert KIND.owns(folder)
