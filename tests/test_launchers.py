"""torchrun and srun start the processes: one folder, one line for a mistake, and no hang."""

import os
import signal
import time

import pytest

from bfc_lightning.callbacks.metrics_file import read_metrics
from tests.launches import (
    bfc,
    children,
    end,
    exit_statuses,
    free_port,
    is_gone,
    need_proc,
    said,
    srun,
    torchrun,
    two_nodes,
    wait_until_it_trains,
    words_of,
)
from tests.runs import fit, intervene, same_weights, summary

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


def test_two_nodes_share_the_folder_that_was_free(tmp_path):
    (tmp_path / "tiny").mkdir()
    told = two_nodes(words_of(tmp_path))
    assert [status for status, _ in told] == [0, 0], told
    assert {path.name for path in tmp_path.iterdir()} == {"tiny", "tiny-2"}
    assert not list((tmp_path / "tiny").iterdir())
    content = summary(tmp_path / "tiny-2")
    assert content["devices"] == 4
    assert content["status"] == "finished"
    assert len([line for _, text in told for line in said(text) if "tiny-2" in line]) == 1


MISTAKES = {
    "taken name": (["--run.name", "taken"], [], "run.name must be free"),
    "strategy": (["--trainer.strategy", "fsdp"], [], "trainer.strategy must be auto or ddp"),
    "on one node only": ([], ["--model.width", "0"], "width"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_ends_all_processes_of_two_nodes_with_one_line(tmp_path, name):
    words, second, complaint = MISTAKES[name]
    (tmp_path / "taken").mkdir()
    started = time.monotonic()
    told = two_nodes(words_of(tmp_path, *words), *second)
    assert time.monotonic() - started < 90
    assert [exit_statuses(text) for _, text in told] == [[2, 2], [2, 2]]
    lines = [line for _, text in told for line in said(text)]
    assert len(lines) == 1
    assert complaint in lines[0]
    assert said(told[0][1]) == lines  # the first process tells
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@need_proc
@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_ends_when_a_process_is_killed(tmp_path, victim):
    long = ["--trainer.max_steps", "100000", "--trainer.val_check_interval", "200"]
    launcher = torchrun(words_of(tmp_path, *long))
    wait_until_it_trains(tmp_path / "tiny", launcher)
    started = children(launcher)
    os.kill(started[victim], signal.SIGKILL)
    code, told = end(launcher, limit=60)
    assert code == 1
    assert f"local_rank: {victim}" in told
    assert "SIGKILL" in told
    assert all(is_gone(pid) for pid in started.values())


@need_proc
def test_run_on_two_nodes_ends_when_a_process_is_killed(tmp_path):
    long = ["--trainer.max_steps", "100000", "--trainer.val_check_interval", "200"]
    place = ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    launchers = [
        torchrun(words_of(tmp_path, *long), *place, "--node-rank", str(node)) for node in range(2)
    ]
    wait_until_it_trains(tmp_path / "tiny", launchers[0])
    started = [children(launcher) for launcher in launchers]
    os.kill(started[1][1], signal.SIGKILL)
    ends = [end(launcher, limit=60) for launcher in launchers]
    assert [code for code, _ in ends] == [1, 1]
    counts = [
        sum("lost another one, the run stops:" in line for line in said(text)) for _, text in ends
    ]
    # One of those that are left tells; and one more on the node that finds the other one gone.
    assert max(counts) == 1, ends
    assert all(is_gone(pid) for each in started for pid in each.values())


@need_proc
def test_restarted_processes_go_on_from_the_last_checkpoint(tmp_path):
    words = ["--trainer.max_steps", "1500", "--trainer.val_check_interval", "500"]
    launcher = torchrun(words_of(tmp_path, *words, "--resume", "auto"), "--max-restarts", "1")
    wait_until_it_trains(tmp_path / "tiny", launcher)
    os.kill(children(launcher)[1], signal.SIGKILL)
    code, told = end(launcher)
    assert code == 0, told
    assert any("going on from step" in line for line in said(told))
    undisturbed = bfc(words_of(tmp_path, *words, "--run.name", "once"), devices=2)
    assert end(undisturbed)[0] == 0
    assert same_weights(tmp_path / "tiny", tmp_path / "once")
    assert read_metrics(tmp_path / "tiny" / "metrics.csv") == read_metrics(
        tmp_path / "once" / "metrics.csv"
    )


@need_proc
def test_sigterm_to_torchrun_saves_and_ends_all(tmp_path):
    long = ["--trainer.max_steps", "100000", "--trainer.val_check_interval", "200"]
    launcher = torchrun(words_of(tmp_path, *long))
    wait_until_it_trains(tmp_path / "tiny", launcher)
    started = children(launcher)
    launcher.send_signal(signal.SIGTERM)
    code, told = end(launcher, limit=60)
    assert code != 0
    assert all(is_gone(pid) for pid in started.values())
    assert summary(tmp_path / "tiny")["status"] == "interrupted"
    assert any("go on: bfc fit -c" in line for line in said(told))


def test_diverged_run_is_told_once_and_ends_all_alike(tmp_path):
    launcher = torchrun(words_of(tmp_path, *intervene("PoisonAt", step=33)), "--standalone")
    code, told = end(launcher)
    assert code == 1
    assert exit_statuses(told) == [3, 3]
    assert len([line for line in said(told) if "not finite" in line]) == 1
    assert summary(tmp_path / "tiny")["status"] == "diverged"


def test_tasks_with_the_variables_of_srun_train_together(tmp_path):
    told = srun(words_of(tmp_path))
    assert [status for status, _ in told] == [0, 0], told
    assert fit(tmp_path, "--run.name", "one") == 0
    assert summary(tmp_path / "tiny")["devices"] == 2
    scores = [summary(tmp_path / name)["metrics"]["val/nmse"] for name in ("tiny", "one")]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)


def test_mistake_ends_all_tasks_of_srun_with_one_line(tmp_path):
    (tmp_path / "tiny").mkdir()
    told = srun(words_of(tmp_path, "--run.name", "tiny"))
    assert [status for status, _ in told] == [2, 2]
    assert len([line for _, text in told for line in said(text)]) == 1


def test_comparison_is_not_run_by_several_processes(tmp_path):
    words = ["compare", "-c", "configs/compare/schemes.yaml", "--run.root", str(tmp_path)]
    code, told = end(torchrun(words))
    assert code == 1
    assert exit_statuses(told) == [2, 2]
    assert len(said(told)) == 1
    assert "bfc compare must be started once" in said(told)[0]
