"""`bfc sweep`: the runs are ordinary ones, nothing is run twice, nothing is dropped silently."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from bfc_lightning.cli import main
from bfc_lightning.experiments.own_folder import locked
from bfc_lightning.experiments.workers import WorkerPool
from tests.runs import TINY, same_weights, summary
from tests.sweeps import LR, WIDTHS, cells, write

GRID = {LR: [0.001, 1e30], WIDTHS: {"two": [3, 2], "one": [3]}}


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """Two learning rates, of which one diverges, times two targets, times two seeds."""
    folder = tmp_path_factory.mktemp("sweep")
    assert main(["sweep", "-c", str(write(folder, grid=GRID))]) == 0
    return folder / "logs" / "few"


@pytest.mark.slow
def test_seeds_are_trained_together_where_asked_for(tmp_path):
    path = write(tmp_path)
    assert main(["sweep", "-c", str(path), "--together", "true"]) == 0
    for width in (4, 8):
        for seed in (0, 1):
            run = tmp_path / "logs" / "few" / "runs" / f"width={width}-seed{seed}"
            assert summary(run)["trained_together"] == 2
    assert {row["status"] for row in cells(tmp_path / "logs" / "few")} == {"finished"}


def lines_of(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    capsys.readouterr()
    assert main(["sweep", "--list", "-c", str(path)]) == 0
    return capsys.readouterr().out.splitlines()


def test_folder_holds_what_the_help_names(swept):
    names = {path.name for path in swept.iterdir()}
    files = {f"sweep.{kind}" for kind in ("yaml", "csv", "md", "png")}
    assert names == {*files, "commands.txt", "base", "runs", "logs"}
    assert (swept / "sweep.png").read_bytes().startswith(b"\x89PNG")
    log = (swept / "logs" / "lr=0.001-widths=two-seed1.txt").read_text()
    assert log.startswith("$ bfc fit -c ")
    assert "seed1: finished" in log


def test_csv_has_every_swept_key_and_every_final_metric(swept):
    rows = cells(swept)
    assert [(row[LR], row[WIDTHS], row["seed"]) for row in rows] == [
        (lr, widths, seed)
        for lr in ("0.001", "1e+30")
        for widths in ("two", "one")
        for seed in "01"
    ]
    for row in rows:
        content = summary(swept / "runs" / f"lr={row[LR]}-widths={row[WIDTHS]}-seed{row['seed']}")
        assert row["status"] == content["status"]
        assert float(row["wall_seconds"]) == content["wall_seconds"]
        for key, value in content["metrics"].items():
            assert row[key] == ("" if value is None else str(value))


def test_swept_settings_reach_the_runs(swept):
    config = yaml.safe_load((swept / "runs/lr=0.001-widths=one-seed1/config.yaml").read_text())
    assert config["target"]["init_args"]["widths"] == [3]
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.001
    assert config["seed_everything"] == 1


def test_markdown_shows_medians_over_seeds_worked_by_hand(swept):
    text = (swept / "sweep.md").read_text()
    runs = [swept / "runs" / f"lr=0.001-widths=two-seed{seed}" for seed in (0, 1)]
    values = [summary(run)["metrics"]["val/nmse"] for run in runs]
    middle, low, high = sum(values) / 2, min(values), max(values)
    assert f"| 0.001 | two | 2 of 2 | 20 | {middle:.1e} [{low:.1e}, {high:.1e}] |" in text
    assert "bfc sweep -c" in text


def test_diverged_points_are_rows_and_in_no_median(swept):
    assert {row["status"] for row in cells(swept) if row[LR] == "1e+30"} == {"diverged"}
    assert "| 1e+30 | two | 0 of 2, 2 diverged | - | - |" in (swept / "sweep.md").read_text()


def test_the_same_command_again_runs_nothing(swept, monkeypatch, capsys):
    monkeypatch.setattr(WorkerPool, "_start", lambda pool, task: pytest.fail(f"ran {task.name}"))
    before = (swept / "sweep.csv").read_text()
    assert main(["sweep", "-c", str(swept.parents[1] / "few.yaml")]) == 0
    assert main(["sweep", "-c", str(swept / "sweep.yaml")]) == 0
    assert (swept / "sweep.csv").read_text() == before
    captured = capsys.readouterr()
    assert captured.err.count("8 of 8 runs are done already") == 2
    assert f"{swept}/sweep.md" in captured.out


def test_a_run_is_bit_for_bit_that_of_plain_fit(swept, tmp_path):
    plain = ["fit", "-c", TINY, "-c", str(swept.parents[1] / "short.yaml")]
    plain += [f"--{LR}", "0.001", "--seed_everything", "1", "--run.threads", "1"]
    assert main([*plain, "--run.root", str(tmp_path), "--run.name", "plain"]) == 0
    assert same_weights(tmp_path / "plain", swept / "runs" / "lr=0.001-widths=two-seed1")


def test_lines_are_whole_commands_and_listing_writes_nothing(swept, tmp_path, capsys):
    lines = lines_of(write(tmp_path, grid=GRID), capsys)
    assert not (tmp_path / "logs").exists()
    assert [shlex.split(line)[:2] for line in lines] == [["bfc", "fit"]] * 8
    names = [words[words.index("--run.name") + 1] for words in map(shlex.split, lines)]
    assert names[:2] == ["lr=0.001-widths=two-seed0", "lr=0.001-widths=one-seed0"]
    assert len(set(names)) == 8
    before = sorted(path for path in swept.rglob("*"))
    again = lines_of(swept.parents[1] / "few.yaml", capsys)
    assert len(again) == 8
    assert sorted(path for path in swept.rglob("*")) == before


@pytest.mark.slow
def test_line_run_by_hand_is_found_done_and_bit_for_bit_the_sweeps_own(tmp_path, capsys):
    path = write(tmp_path)
    folder = tmp_path / "logs" / "few"
    line = lines_of(path, capsys)[2]
    words = shlex.split(line)
    assert main(words[1:]) == 0
    name = words[words.index("--run.name") + 1]
    assert name == "width=4-seed1"
    written = (folder / "runs" / name / "metrics.csv").stat().st_mtime_ns
    assert main(["sweep", "-c", str(path)]) == 0
    assert "1 of 4 runs are done already" in capsys.readouterr().err
    assert (folder / "runs" / name / "metrics.csv").stat().st_mtime_ns == written
    assert not (folder / "logs" / f"{name}.txt").exists()
    assert {row["status"] for row in cells(folder)} == {"finished"}
    assert main(["sweep", "-c", str(path), "--run.name", "other"]) == 0
    assert same_weights(folder / "runs" / name, tmp_path / "logs" / "other" / "runs" / name)


def test_lines_can_be_listed_by_many_at_once_without_torch(tmp_path):
    path = write(tmp_path)
    code = (
        "import sys; from bfc_lightning.cli import main;"
        f"status = main(['sweep', '--list', '-c', {str(path)!r}]);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(4)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert len({output for output, _ in outputs}) == 1
    assert outputs[0][0].count("\n") == 4
    assert not (tmp_path / "logs").exists()


def test_reader_that_has_read_enough_of_the_lines_is_no_error(tmp_path):
    path = write(tmp_path, seeds=list(range(400)))
    code = f"from bfc_lightning.cli import main; main(['sweep', '--list', '-c', {str(path)!r}])"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("bfc fit ")
    assert done.stderr == ""


@pytest.mark.slow
def test_changed_settings_are_refused_whoever_began_the_runs(tmp_path, capsys):
    path = write(tmp_path)
    words = shlex.split(lines_of(path, capsys)[0])
    assert main(words[1:]) == 0
    short = tmp_path / "short.yaml"
    short.write_text("# a comment\ntrainer: {val_check_interval: 10, max_steps: 20}\n")
    assert main(["sweep", "-c", str(path), "--seeds", "[0]"]) == 0
    short.write_text("trainer: {max_steps: 40, val_check_interval: 10}\n")
    capsys.readouterr()
    assert main(["sweep", "-c", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "since width=4-seed0 was begun: trainer.max_steps 40 instead of 20" in error
    assert "give the sweep another --run.name, or --run.overwrite true" in error
    assert main(["sweep", "-c", str(path), "--seeds", "[0]", "--run.overwrite", "true"]) == 0
    assert {row["steps"] for row in cells(tmp_path / "logs" / "few")} == {"40"}


def test_meaning_of_a_label_may_not_change(swept, capsys):
    grid = {**GRID, WIDTHS: {"two": [4, 2], "one": [3]}}
    path = write(swept.parents[1], name="relabeled", grid=grid)
    assert main(["sweep", "-c", str(path), "--run.name", "few"]) == 2
    error = capsys.readouterr().err
    assert "since lr=0.001-widths=two-seed0 was begun: target.init_args.widths" in error


@pytest.mark.slow
def test_seeds_and_values_may_be_added_and_left_out(tmp_path, capsys):
    assert main(["sweep", "-c", str(write(tmp_path, grid={"model.width": [4]}, seeds=[0]))]) == 0
    more = write(tmp_path, grid={"model.width": [6, 4]}, seeds=[0, 2])
    assert main(["sweep", "-c", str(more)]) == 0
    assert "1 of 4 runs are done already" in capsys.readouterr().err
    rows = cells(tmp_path / "logs" / "few")
    assert [(row["model.width"], row["seed"]) for row in rows] == [
        ("6", "0"),
        ("6", "2"),
        ("4", "0"),
        ("4", "2"),
    ]
    assert main(["sweep", "-c", str(write(tmp_path, grid={"model.width": [6]}, seeds=[2]))]) == 0
    assert len(cells(tmp_path / "logs" / "few")) == 1


@pytest.mark.slow
def test_list_of_points_runs_these_and_no_others(tmp_path):
    points = [{"model.width": 4, WIDTHS: [3, 2]}, {WIDTHS: [3, 1], "model.width": 6}]
    assert main(["sweep", "-c", str(write(tmp_path, points=points, seeds=[5]))]) == 0
    folder = tmp_path / "logs" / "few"
    rows = cells(folder)
    assert [(row["model.width"], row[WIDTHS]) for row in rows] == [("4", "3,2"), ("6", "3,1")]
    names = {path.name for path in (folder / "runs").iterdir()}
    assert names == {"width=4-widths=3,2-seed5", "width=6-widths=3,1-seed5"}


@pytest.mark.slow
def test_failed_point_is_a_row_and_all_refused_is_a_mistake(tmp_path, capsys):
    path = write(tmp_path, grid={WIDTHS: [[3, 9], [3, 2]]}, seeds=[0])
    assert main(["sweep", "-c", str(path)]) == 1
    error = capsys.readouterr().err
    assert "widths=3,9-seed0 failed: exit status 2" in error
    assert "1 of 2 runs failed; again: bfc sweep -c" in error
    rows = cells(tmp_path / "logs" / "few")
    assert [row["status"] for row in rows] == ["failed", "finished"]
    assert main(["sweep", "-c", str(path), "--grid", f"{{{WIDTHS}: [[3, 9]]}}"]) == 2
    assert "bfc: error: every run was refused: target: widths must" in capsys.readouterr().err
    assert (tmp_path / "logs" / "few" / "sweep.md").is_file()  # it was there before


@pytest.mark.slow
def test_run_that_takes_too_long_is_a_row_and_stays_one(tmp_path, capsys):
    words = ["sweep", "-c", str(write(tmp_path, seeds=[0])), "--limits.seconds", "0.3"]
    assert main(words) == 0
    rows = cells(tmp_path / "logs" / "few")
    assert {row["status"] for row in rows} == {"out_of_time"}
    assert main(words) == 0
    assert "2 of 2 runs are done already" in capsys.readouterr().err


def test_report_makes_the_table_of_what_is_there_and_runs_nothing(tmp_path, monkeypatch, capsys):
    path = write(tmp_path)
    assert main(["sweep", "--report", "-c", str(path)]) == 2
    assert "--report must have a sweep that was begun, got" in capsys.readouterr().err
    assert main(shlex.split(lines_of(path, capsys)[0])[1:]) == 0
    monkeypatch.setattr(WorkerPool, "_start", lambda pool, task: pytest.fail(f"ran {task.name}"))
    assert main(["sweep", "--report", "-c", str(path)]) == 0
    statuses = [row["status"] for row in cells(tmp_path / "logs" / "few")]
    assert statuses == ["finished", "missing", "missing", "missing"]
    assert (tmp_path / "logs" / "few" / "sweep.png").exists()


def test_metric_that_no_run_logged_is_a_warning_that_lists_the_known(swept, capsys):
    path = swept.parents[1] / "few.yaml"
    assert main(["sweep", "-c", str(path), "--metrics", "[val/nmse, val/nope]"]) == 0
    error = capsys.readouterr().err
    assert "warning: no run logged val/nope; known: " in error


def test_folder_at_work_is_left_to_the_one_who_works_there(swept, capsys):
    with locked(swept):
        assert main(["sweep", "-c", str(swept.parents[1] / "few.yaml")]) == 2
    assert "is being worked on by another bfc" in capsys.readouterr().err


def test_folder_of_something_else_is_left_alone(tmp_path, capsys):
    thesis = tmp_path / "logs" / "few" / "runs" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("precious")
    assert main(["sweep", "-c", str(write(tmp_path)), "--run.overwrite", "true"]) == 2
    assert "must be free in" in capsys.readouterr().err
    assert thesis.read_text() == "precious"


def test_help_is_quick_and_main_help_names_the_command(capsys):
    code = (
        "import sys; from bfc_lightning.cli import main; status = main(['sweep', '--help']);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for key in ("base", "grid", "points", "seeds", "metrics", "workers", "list", "report"):
        assert f"--{key}" in done.stdout
    assert main(["--help"]) == 0
    assert re.search(r"^  sweep +one learner", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_stopped_midway_and_completed_equals_undisturbed(tmp_path, signum):
    (tmp_path / "short.yaml").write_text(
        "trainer: {max_steps: 400, val_check_interval: 20, log_every_n_steps: 20}\n"
    )
    path = write(tmp_path, seeds=[0])
    words = ["sweep", "-c", str(path), "--workers", "2"]
    assert main([*words, "--run.name", "undisturbed"]) == 0
    folder = tmp_path / "logs" / "few"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.command", *words], cwd=os.getcwd(), start_new_session=True
    )
    names = ("width=4-seed0", "width=8-seed0")
    last = [folder / "runs" / name / "checkpoints" / "last.ckpt" for name in names]
    while not any(file.exists() for file in last):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signum) if signum == signal.SIGKILL else os.killpg(process.pid, signum)
    assert process.wait() == (-9 if signum == signal.SIGKILL else 130)
    assert "finished" not in {summary(f.parents[1])["status"] for f in last if f.exists()}
    assert main(words) == 0
    for name in names:
        other = tmp_path / "logs" / "undisturbed" / "runs" / name
        assert same_weights(folder / "runs" / name, other)
    assert "going on from step" in "".join(p.read_text() for p in (folder / "logs").iterdir())
