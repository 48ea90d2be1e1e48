"""Limits of a comparison's runs: who takes more is a row that says so, and the others go on."""

import shutil
import sys
from functools import partial
from pathlib import Path

import pytest

from bfc_lightning.cli import main
from bfc_lightning.cli.many_runs import run_one
from bfc_lightning.experiments.commands import commands_of
from bfc_lightning.experiments.folder import claimed
from bfc_lightning.experiments.group_words import ALSO, AND
from bfc_lightning.experiments.limits import remember_stop, stop_of
from bfc_lightning.experiments.plan import Limits, PlannedRun, Point, Trial
from bfc_lightning.experiments.tuning import Choice, keep_choice
from bfc_lightning.experiments.workers import Ended, Task, WorkerPool
from tests.comparisons import cells, parse, write
from tests.worker_functions import obey

SLOW = {
    "baseline": {"class_path": "tests.baselines.Sleeper"},
    "data": {"num_train_samples": 64},
}
GREEDY = {
    "baseline": {"class_path": "tests.baselines.Greedy", "init_args": {"how": "torch"}},
    "data": {"num_train_samples": 64},
}


def test_overdue_task_is_stopped_gently_and_the_next_one_runs(tmp_path):
    orders = [("save", str(tmp_path / "a")), ("return", "0")]
    tasks = [Task(str(n), words, tmp_path / f"{n}.txt") for n, words in enumerate(orders)]
    with WorkerPool(obey, 1, seconds=1.5) as pool:
        ends = [event for event in pool.run(tasks) if isinstance(event, Ended)]
    assert [(end.status, end.is_overdue) for end in ends] == [(143, True), (0, False)]
    assert (tmp_path / "a").read_text() == "saved after [15]"
    assert pool.signum == 0


def test_task_that_ignores_the_signal_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("bfc_lightning.experiments.workers._PATIENCE_SECONDS", 0.3)
    task = Task("a", ("ignore", str(tmp_path / "a")), tmp_path / "log")
    with WorkerPool(obey, 1, seconds=1.5) as pool:
        ends = [event for event in pool.run([task]) if isinstance(event, Ended)]
    assert [(end.status, end.has_died, end.is_overdue) for end in ends] == [(-9, True, True)]


def told(run: PlannedRun, folder: Path, **limits: float) -> str | None:
    return stop_of(run, folder, limits=Limits(**limits), commands=lambda run: [["fit"]])


def test_stop_is_remembered_until_the_limit_grows(tmp_path):
    run = PlannedRun(Point("a", ()), 0)
    five = {"limits": Limits(seconds=5), "commands": lambda run: [["fit"]]}
    assert told(run, tmp_path, seconds=5) is None
    remember_stop(run, tmp_path, "out_of_memory", **five)
    assert told(run, tmp_path, seconds=5) is None
    remember_stop(run, tmp_path, "out_of_time", **five)
    assert told(run, tmp_path, seconds=5) == "out_of_time"
    assert told(run, tmp_path, seconds=4, gigabytes=1) == "out_of_time"
    assert told(run, tmp_path, seconds=6) is None
    assert told(run, tmp_path) is None


def test_stop_is_of_the_settings_that_the_run_had(tmp_path):
    run, config = PlannedRun(Point("a", ()), 0), tmp_path / "learner.yaml"

    def told_of(folder: Path, width: int, *words: str) -> str | None:
        (folder / "learner.yaml").write_text(f"model: {{width: {width}}}")
        command = ["fit", "-c", str(folder / "learner.yaml"), "--seed", "0", *words]
        return stop_of(run, folder, limits=Limits(seconds=5), commands=lambda run: [command])

    config.write_text("model: {width: 9}")
    command = ["fit", "-c", str(config), "--seed", "0"]
    test = ["test", "-c", str(tmp_path / "later.yaml")]  # there once the run has ended
    commands = {"commands": lambda run: [command, test]}
    remember_stop(run, tmp_path, "out_of_time", limits=Limits(seconds=5), **commands)
    test[2] = str(config)
    assert stop_of(run, tmp_path, limits=Limits(seconds=5), **commands) == "out_of_time"
    assert told_of(tmp_path, 9) == "out_of_time"
    assert told_of(tmp_path, 8) is None
    assert told_of(tmp_path, 9, "--model.depth", "2") is None
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path, moved)
    assert told_of(moved, 9) == "out_of_time"


@pytest.mark.parametrize("what", ["base", "learner"])
def test_learner_that_lacked_memory_is_tried_again_once_it_has_changed(tmp_path, what):
    content = {"learners": {"a": {}}, "seeds": [0], "limits": {"gigabytes": 8}}

    def stopped(*, again: bool) -> str | None:
        comparison = parse(write(tmp_path, **content))
        known = {"limits": comparison.limits}
        folder, run = tmp_path / "logs" / "few", PlannedRun(Point("a", ()), 0)
        known["commands"] = partial(commands_of, comparison, folder=folder)
        with claimed(comparison, folder):
            if not again:
                remember_stop(run, folder, "out_of_memory", **known)
            return stop_of(run, folder, **known)

    assert stopped(again=False) == "out_of_memory"
    assert stopped(again=True) == "out_of_memory"
    if what == "base":
        (tmp_path / "short.yaml").write_text("trainer: {max_steps: 10, val_check_interval: 10}\n")
    else:
        content["learners"] = {"a": {"model": {"width": 3}}}
    assert stopped(again=True) is None


def test_new_choice_of_the_tuning_forgets_a_stop(tmp_path):
    run = PlannedRun(Point("a", ()), 0)

    def gone(width: int) -> list[PlannedRun]:
        choice = Choice(run.point, Trial((("model.width", width),)), 0.1, 2, ())
        return keep_choice(choice, [run], tmp_path)

    assert gone(1) == []
    commands = {"commands": lambda run: [["fit"]]}
    remember_stop(run, tmp_path, "out_of_memory", limits=Limits(gigabytes=1), **commands)
    assert gone(1) == []
    assert told(run, tmp_path, gigabytes=1) == "out_of_memory"
    assert gone(2) == [run]
    assert told(run, tmp_path, gigabytes=1) is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux")
def test_slow_and_greedy_learners_are_rows_and_the_others_go_on(tmp_path, capsys):
    learners = {"slow": SLOW, "greedy": GREEDY, "wide": {}}
    limits = {"seconds": 25, "gigabytes": 2}
    path = write(tmp_path, learners=learners, seeds=[0], limits=limits, workers=2)
    words = ["compare", "-c", str(path)]
    assert main(words) == 0
    statuses = {row["learner"]: row["status"] for row in cells(tmp_path / "logs" / "few")}
    assert statuses == {"slow": "out_of_time", "greedy": "out_of_memory", "wide": "finished"}
    text = (tmp_path / "logs" / "few" / "compare.md").read_text()
    assert "| greedy | 0 of 1, 1 out of memory | - | - |" in text
    assert "| slow | 0 of 1, 1 out of time | - | - |" in text
    capsys.readouterr()
    assert main(words) == 0
    assert "3 of 3 runs are done already" in capsys.readouterr().err
    log = (tmp_path / "logs" / "few" / "logs" / "greedy-seed0.txt").read_text()
    assert "out of memory: " in log
    assert "Traceback" not in log


def test_memory_limit_ends_with_the_run():
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    assert run_one(["--version"], 1, gigabytes=4.0) == 0
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_group_may_take_the_memory_of_all_its_runs(monkeypatch):
    resource = pytest.importorskip("resource")
    limits = []

    def look(words):
        limits.append(resource.getrlimit(resource.RLIMIT_AS)[0])
        return 0

    monkeypatch.setattr("bfc_lightning.cli.main", look)
    words = ["fit", AND, "test", ALSO, "test", ALSO, "test"]
    assert run_one(words, 3, gigabytes=4.0) == 0
    first, *rest = limits
    assert [first - each for each in rest] == pytest.approx([8 * 2**30] * 3, rel=0.01)
