"""`bfc compare`: the runs are ordinary ones, nothing is run twice, nothing is dropped silently."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bfc_lightning.cli import main
from bfc_lightning.experiments.workers import WorkerPool
from tests.comparisons import KILL, POISON, cells, write
from tests.runs import TINY, same_weights, summary


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    learners = {"narrow": {"model": {"width": 4}}, "wide": {}, "wild": {"trainer": POISON}}
    assert main(["compare", "-c", str(write(folder, learners=learners))]) == 0
    return folder / "logs" / "few"


def test_folder_holds_what_the_help_names(compared):
    names = {path.name for path in compared.iterdir()}
    files = {f"compare.{kind}" for kind in ("yaml", "csv", "md", "png")}
    assert names == {*files, "commands.txt", "base", "learners", "runs", "logs"}
    assert (compared / "compare.png").read_bytes().startswith(b"\x89PNG")
    (log,) = (compared / "logs").glob("wide-2runs-*.txt")
    assert log.read_text().startswith("$ bfc fit -c ")
    assert ": finished" in log.read_text()
    assert (compared / "logs" / "wild-seed1.txt").read_text().startswith("$ bfc fit -c ")


def test_csv_says_what_the_summaries_say(compared):
    rows = cells(compared)
    assert [(row["learner"], row["seed"]) for row in rows] == [
        (learner, seed) for learner in ("narrow", "wide", "wild") for seed in "01"
    ]
    for row in rows:
        content = summary(compared / "runs" / f"{row['learner']}-seed{row['seed']}")
        assert row["status"] == content["status"]
        for key in ("steps", "samples_seen", "wall_seconds"):
            assert float(row[key]) == content[key]
        for key, value in content["metrics"].items():
            assert row[key] == ("" if value is None else str(value))


def test_markdown_shows_medians_over_seeds_worked_by_hand(compared):
    text = (compared / "compare.md").read_text()
    for learner in ("narrow", "wide"):
        values = [
            summary(compared / "runs" / f"{learner}-seed{seed}")["metrics"]["val/nmse"]
            for seed in (0, 1)
        ]
        middle, low, high = sum(values) / 2, min(values), max(values)
        assert f"| {learner} | 2 of 2 | 20 | {middle:.1e} [{low:.1e}, {high:.1e}] |" in text
    assert "  narrow:\n    model: {width: 4}\n" in text
    assert "bfc compare -c" in text


def test_diverged_runs_are_rows_and_counted_and_in_no_median(compared):
    assert [row["status"] for row in cells(compared) if row["learner"] == "wild"] == [
        "diverged",
        "diverged",
    ]
    assert "| wild | 0 of 2, 2 diverged | - | - |" in (compared / "compare.md").read_text()


@pytest.mark.slow
def test_a_run_is_bit_for_bit_that_of_its_command_by_hand(tmp_path):
    path = write(tmp_path, learners={"wide": {}})
    assert main(["compare", "-c", str(path), "--together", "false"]) == 0
    compared = tmp_path / "logs" / "few"
    lines = (compared / "commands.txt").read_text().splitlines()
    command = next(line for line in lines if "--run.name wide-seed1" in line)
    words = shlex.split(command)
    assert words[:2] == ["bfc", "fit"]
    words[words.index("--run.root") + 1] = str(tmp_path)
    assert main(words[1:]) == 0
    assert same_weights(tmp_path / "wide-seed1", compared / "runs" / "wide-seed1")
    plain = ["fit", "-c", TINY, "-c", str(compared.parents[1] / "short.yaml")]
    plain += ["--seed_everything", "1", "--run.threads", "1", "--run.root", str(tmp_path)]
    assert main([*plain, "--run.name", "plain"]) == 0
    assert same_weights(tmp_path / "plain", compared / "runs" / "wide-seed1")


def test_the_same_command_again_runs_nothing(compared, monkeypatch, capsys):
    monkeypatch.setattr(WorkerPool, "_start", lambda pool, task: pytest.fail(f"ran {task.name}"))
    before = (compared / "compare.csv").read_text()
    path = compared.parents[1] / "few.yaml"
    assert main(["compare", "-c", str(path)]) == 0
    assert main(["compare", "-c", str(compared / "compare.yaml")]) == 0
    assert (compared / "compare.csv").read_text() == before
    captured = capsys.readouterr()
    assert "6 of 6 runs are done already" in captured.err
    assert f"{compared}/compare.md" in captured.out


def test_metric_that_no_run_logged_is_a_warning_that_lists_the_known(compared, capsys):
    path = compared.parents[1] / "few.yaml"
    assert main(["compare", "-c", str(path), "--metrics", "[val/nmse, val/nope]"]) == 0
    error = capsys.readouterr().err
    assert "warning: no run logged val/nope; known: " in error
    assert "levels/residual_2" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"learners": {"narrow": {"model": {"width": 5}}, "wide": {}}},
            "learner narrow has changed since narrow-seed0 was begun: model.width 5 instead of 4",
        ),
        (
            {"base": [str(Path(TINY).resolve())]},
            r"base must stay \['tiny.yaml', 'short.yaml'\], with which",
        ),
        (
            {"base": [str(Path(TINY).resolve()), "longer/short.yaml"]},
            "the base short.yaml has changed since .* trainer.max_steps 40 instead of 20",
        ),
    ],
)
def test_changed_settings_of_runs_that_exist_are_refused(compared, capsys, change, message):
    longer = compared.parents[1] / "longer"
    longer.mkdir(exist_ok=True)
    (longer / "short.yaml").write_text("trainer: {max_steps: 40, val_check_interval: 10}\n")
    path = write(compared.parents[1], name="changed", **change)
    before = (compared / "compare.yaml").read_text()
    assert main(["compare", "-c", str(path), "--run.name", "few"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert __import__("re").search(message, error), error
    assert "--run.overwrite true" in error
    assert (compared / "compare.yaml").read_text() == before


@pytest.mark.slow
def test_dead_worker_is_a_row_and_the_others_finish(compared, capsys):
    learners = {"wide": {}, "dying": {"trainer": KILL}, "late": {"model": {"width": 6}}}
    path = write(compared.parents[1], name="more", learners=learners, seeds=[0])
    assert main(["compare", "-c", str(path), "--run.name", "few"]) == 1
    error = capsys.readouterr().err
    assert "2/3 dying-seed0 failed" in error
    assert "dying-seed0 failed: its process was killed by signal 9" in error
    assert "3/3 late-seed0 finished val/nmse" in error
    assert "1 of 3 runs failed" in error
    statuses = {row["learner"]: row["status"] for row in cells(compared)}
    assert statuses == {"wide": "finished", "dying": "failed", "late": "finished"}


@pytest.mark.slow
def test_refused_learner_is_told_once_and_all_refused_is_a_mistake(tmp_path, capsys):
    bad = {"target": {"init_args": {"widths": [3, 9]}}}
    path = write(tmp_path, learners={"bad": bad})
    assert main(["compare", "-c", str(path)]) == 2
    *progress, error = capsys.readouterr().err.splitlines()
    assert "\n".join(progress).count("widths must not grow") == 1
    assert any("bad-seed1 failed: exit status 2" in line for line in progress)
    rule = "target: widths must not grow from input_dim = 8 upwards, got [3, 9]."
    assert error == f"bfc: error: every run was refused: {rule}"
    assert not (tmp_path / "logs").exists()
    path = write(tmp_path, name="both", learners={"bad": bad, "wide": {}}, seeds=[0])
    assert main(["compare", "-c", str(path)]) == 1
    statuses = {row["learner"]: row["status"] for row in cells(tmp_path / "logs" / "both")}
    assert statuses == {"bad": "failed", "wide": "finished"}


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_stopped_midway_and_completed_equals_undisturbed(tmp_path, signum):
    learners = {"narrow": {"model": {"width": 4}}, "wide": {}}
    (tmp_path / "short.yaml").write_text(
        "trainer: {max_steps: 400, val_check_interval: 20, log_every_n_steps: 20}\n"
    )
    path = write(tmp_path, learners=learners, seeds=[0])
    words = ["compare", "-c", str(path), "--workers", "2"]
    assert main([*words, "--run.name", "undisturbed"]) == 0
    folder = tmp_path / "logs" / "few"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.command", *words], cwd=os.getcwd(), start_new_session=True
    )
    last = [
        folder / "runs" / name / "checkpoints" / "last.ckpt"
        for name in ("narrow-seed0", "wide-seed0")
    ]
    while not any(file.exists() for file in last):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signum)
    status = process.wait()
    assert status == (-9 if signum == signal.SIGKILL else 130)
    assert "finished" not in {summary(f.parents[1])["status"] for f in last if f.exists()}
    assert main(words) == 0
    for name in ("narrow-seed0", "wide-seed0"):
        other = tmp_path / "logs" / "undisturbed" / "runs" / name
        assert same_weights(folder / "runs" / name, other)
    assert "going on from step" in "".join(p.read_text() for p in (folder / "logs").iterdir())
