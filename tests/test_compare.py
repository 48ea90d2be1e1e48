"""`bfc compare` and `bfc sweep`, end to end: nothing is run twice, and nothing is dropped."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bfc_lightning.cli import main
from bfc_lightning.cli.experiments import HELP
from bfc_lightning.experiments.pool import Pool
from bfc_lightning.experiments.tables import load_results
from bfc_lightning.runs.folder import locked
from tests.experiments import LR, NARROW_AND_WIDE, TINY, callback, compare, gate, write
from tests.faults.folders import differences
from tests.runs import same_weights, summary

STOPS = [(signum, "local") for signum in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)]
STOPS += [(signal.SIGINT, "debug"), (signal.SIGTERM, "subprocess")]
KERNEL = {"baseline": {"class_path": "KernelRidge"}, "data": {"num_train_samples": 64}}
TWO = {"narrow": {"model": {"width": 4}}, "kernel": KERNEL}
TWO_FINISHED = {"narrow-seed0": "finished", "kernel-seed0": "finished"}
LEARNERS = {**NARROW_AND_WIDE, "wild": callback("PoisonAt", step=9), "kernel": KERNEL}


def sleeper(how: str = "") -> dict:
    """A baseline that never ends, or one that needs more memory than there is."""
    args = {"class_path": "tests.baselines.Greedy", "init_args": {"how": how}}
    baseline = args if how else {"class_path": "tests.baselines.Sleeper"}
    return {**KERNEL, "baseline": baseline}


@pytest.fixture(scope="module")
def compared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    assert compare(write(folder, learners=LEARNERS, test=True)) == 0
    return folder / "logs" / "few"


@pytest.fixture
def copied(compared, tmp_path) -> Path:
    """A copy of the comparison, to continue."""
    return Path(shutil.copytree(compared, tmp_path / "logs" / "few"))


@pytest.fixture
def begun(monkeypatch) -> list[str]:
    """The names of the runs that are begun."""
    names, start = [], Pool._start
    monkeypatch.setattr(
        Pool, "_start", lambda pool, task: (names.append(task.name), start(pool, task))[1]
    )
    return names


def statuses(folder: Path) -> dict[str, str]:
    return dict(load_results(folder)[["run", "status"]].itertuples(index=False))


def test_folder_has_the_files_that_the_help_names(compared):
    files = HELP.partition("Files in ROOT/NAME/: ")[2].partition("\n\n")[0]
    named = {word.strip(",/.") for word in files.split()} - {"and", "(tuning)"}
    of_others = {"trials.csv", "scaling.csv", "scaling.png"}
    assert {path.name for path in compared.iterdir()} == named - of_others
    assert (compared / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert "| wide " in (compared / "compare.md").read_text()
    assert "| wild | 0 of 2, 2 diverged | - | - |" in (compared / "compare.md").read_text()
    assert "wide & 2 of 2" in (compared / "compare.tex").read_text()
    assert "bfc: run " in (compared / "logs" / "wide-seed0.txt").read_text()


def test_csv_has_what_summaries_and_tests_say(compared):
    rows = load_results(compared)
    assert list(rows["run"]) == [f"{learner}-seed{seed}" for learner in LEARNERS for seed in (0, 1)]
    for row in rows.to_dict("records"):
        content = summary(compared / "runs" / row["run"])
        scores = compared / "runs" / row["run"] / "test.json"
        is_tested = row["learner"] in ("narrow", "wide")
        assert scores.is_file() == is_tested
        tested = json.loads(scores.read_text())["metrics"] if is_tested else {}
        assert row["status"] == content["status"]
        for key in ("steps", "samples_seen", "wall_seconds"):
            assert row[key] == content.get(key) or np.isnan(row[key])
        for key, value in (content["metrics"] | tested).items():
            assert row[key] == value or (value is None and np.isnan(row[key]))
    assert rows["test/nmse"].notna().sum() == 6


def test_a_run_is_bit_for_bit_the_one_of_bfc_fit(compared, tmp_path):
    short = compared.parents[1] / "short.yaml"
    argv = ["fit", "-c", str(TINY), "-c", str(short), "--seed_everything", "1"]
    argv += ["--run.root", str(tmp_path), "--run.name", "wide", "--model.width", "4"]
    assert main(argv) == 0
    assert same_weights(tmp_path / "wide", compared / "runs" / "narrow-seed1")


def test_the_same_command_again_runs_nothing_nor_does_a_moved_experiment(copied, begun, capsys):
    before = (copied / "compare.csv").read_text()
    path = write(copied.parents[1], learners=LEARNERS, test=True)
    assert compare(path) == 0
    moved = shutil.move(copied, copied.with_name("moved"))
    assert compare(moved / "compare.yaml") == 0
    assert capsys.readouterr().err.count("8/8 runs were finished before.") == 2
    assert begun == []
    assert not copied.exists()
    assert (moved / "compare.csv").read_text() == before


def test_only_added_learners_and_seeds_are_run(copied, begun, capsys):
    learners = {"kernel": KERNEL, "third": {"model": {"width": 6}}}
    path = write(copied.parents[1], learners=learners, test=True, seeds=[1, 2])
    assert compare(path) == 0
    assert "1/4 runs were finished before." in capsys.readouterr().err
    assert begun == ["third-seed1", "kernel-seed2", "third-seed2"]
    assert list(statuses(copied)) == [f"{name}-seed{seed}" for name in learners for seed in (1, 2)]


def test_a_run_that_is_no_longer_asked_for_leaves_the_table(copied, begun):
    path = write(copied.parents[1], learners={"wide": {}}, test=True, seeds=[1])
    assert compare(path) == 0
    assert begun == []
    assert statuses(copied) == {"wide-seed1": "finished"}
    assert (copied / "runs" / "narrow-seed0").is_dir()


def test_an_unfinished_run_and_a_lost_test_are_completed(copied, begun):
    before = load_results(copied)
    (copied / "runs" / "wide-seed0" / "test.json").unlink()
    shutil.rmtree(copied / "runs" / "narrow-seed1")
    (copied / "stopped").mkdir()
    (copied / "stopped" / "narrow-seed1.json").write_text('{"digest": "of a run that failed"}')
    assert compare(copied / "compare.yaml") == 0
    assert not (copied / "stopped").exists()
    assert sorted(begun) == ["narrow-seed1", "wide-seed0"]
    after = load_results(copied)
    varying = ["wall_seconds"]
    pd.testing.assert_frame_equal(after.drop(columns=varying), before.drop(columns=varying))


def test_a_value_can_be_added_to_the_grid_and_sweep_is_another_name(tmp_path, begun):
    path = write(tmp_path, grid={"model.width": [4]}, seeds=[0])
    assert compare(path, command="sweep") == 0
    path = write(tmp_path, grid={"model.width": [2, 4]}, seeds=[0])
    assert compare(path, command="compare") == 0
    assert begun == ["width=4-seed0", "width=2-seed0"]
    folder = tmp_path / "logs" / "few"
    assert list(load_results(folder)["width"]) == ["2", "4"]
    assert "| width | runs finished |" in (folder / "compare.md").read_text()


def test_report_writes_tables_of_the_runs_so_far(copied, begun, capsys):
    shutil.rmtree(copied / "runs" / "narrow-seed1")
    (copied / "compare.md").unlink()
    (copied / "compare.png").unlink()
    assert compare(copied / "compare.yaml", "--report", "--figures", "[png,svg]") == 0
    assert begun == []
    assert statuses(copied)["narrow-seed1"] == "missing"
    assert "| narrow | 1 of 2, 1 missing |" in (copied / "compare.md").read_text()
    assert (copied / "compare.png").is_file()
    assert (copied / "compare.svg").is_file()
    assert f"{copied}/compare.md" in capsys.readouterr().out


def test_a_metric_that_no_run_logged_is_reported(copied, capsys):
    assert compare(copied / "compare.yaml", "--metrics", "[val/nmze]") == 0
    error = capsys.readouterr().err
    assert "warning: runs finished without metric 'val/nmze'. Did you mean 'val/nmse'" in error
    learners = {"tuned": {"tune": {LR: [1e-3, 1e-2]}}}
    path = write(copied.parents[1], "tuned", learners=learners, tuning={"metric": "val/nmze"})
    assert compare(path) == 2
    assert (
        "tuning.metric: trials finished without metric 'val/nmze'. Did" in capsys.readouterr().err
    )
    assert compare(path, "--tuning.metric", "val/nmse") == 0
    assert "2/4 runs were finished before." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"learners": {"narrow": {"model": {"width": 5}}}}, "model.width is 5, was 4"),
        ({"base": [str(TINY)], "learners": {"wide": {}}}, "trainer.max_steps is 60, was 20"),
    ],
)
def test_changed_settings_are_refused_with_the_keys(copied, capsys, change, key):
    before = (copied / "compare.yaml").read_text()
    assert compare(write(copied.parents[1], test=True, **change)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert key in error
    assert "--run.overwrite" in error
    assert (copied / "compare.yaml").read_text() == before


def test_overwriting_deletes_the_experiment(copied, begun):
    path = write(copied.parents[1], learners={"narrow": {"model": {"width": 5}}}, seeds=[0])
    assert compare(path, "--run.overwrite") == 0
    assert begun == ["narrow-seed0"]
    assert [path.name for path in (copied / "runs").iterdir()] == ["narrow-seed0"]
    assert (copied / "compare.yaml").read_text().count("overwrite: false") == 1


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    thesis = tmp_path / "logs" / "few" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("precious")
    for argv in ([], ["--run.overwrite"]):
        assert compare(write(tmp_path), *argv) == 2
        assert str(thesis.parent) in capsys.readouterr().err
    assert [path.name for path in thesis.parent.iterdir()] == ["thesis.tex"]


def test_a_second_process_is_refused(copied, capsys):
    with locked(copied):
        assert compare(copied / "compare.yaml") == 2
        assert "in use by another bfc process" in capsys.readouterr().err
        assert compare(copied / "compare.yaml", "--report") == 0


def test_listed_commands_are_those_of_the_runs_and_count_as_done(tmp_path, begun, capsys):
    path = write(tmp_path, learners=TWO, seeds=[0], test=True)
    assert compare(path, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.count(" && ") for line in lines] == [1, 0]
    assert begun == []
    for line in lines:
        for command in line.split(" && "):
            name, *argv = shlex.split(command)
            assert name == "bfc"
            assert main(argv) == 0
    assert compare(path) == 0
    assert begun == []
    assert statuses(tmp_path / "logs" / "few") == TWO_FINISHED


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # submitit's files
def test_shards_in_this_process_are_runs_like_others(tmp_path, begun, capsys):
    path = write(tmp_path, learners=TWO, seeds=[0])
    assert compare(path, "--cluster", "debug", "--cluster.runs_per_job", "1") == 0
    assert "2 runs in 2 shards" in capsys.readouterr().err
    assert compare(path) == 0
    assert begun == ["narrow-seed0", "kernel-seed0"]
    assert statuses(tmp_path / "logs" / "few") == TWO_FINISHED


def test_failed_runs_are_explained_once_and_the_others_finish(tmp_path, begun, capsys):
    learners = {
        "broken": callback("FailAt", step=3, message="only here"),
        "dying": callback("SignalAt", step=9, signum=9),
        "wide": {},
    }
    path = write(tmp_path, learners=learners)
    assert compare(path) == 1
    error = capsys.readouterr().err
    assert error.count("only here") == 1
    assert error.count("killed by signal 9") == 1
    assert "4 of 6 runs have no result; to continue: bfc compare -c" in error
    found = statuses(tmp_path / "logs" / "few")
    assert [found[f"{name}-seed1"] for name in learners] == ["failed", "failed", "finished"]
    assert compare(path, "--seeds", "[0]") == 1
    assert begun[6:] == ["broken-seed0", "dying-seed0"]


def test_if_every_run_is_refused_nothing_is_left(tmp_path, capsys):
    bad = {"target": {"init_args": {"widths": [3, 9]}}}
    path = write(tmp_path, learners={"bad": bad}, seeds=[0])
    assert compare(path) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("bfc: error: every run refused its settings: ")
    assert "widths" in error
    assert not (tmp_path / "logs").exists()
    path = write(tmp_path, learners={"bad": bad, "wide": {}}, seeds=[0])
    assert compare(path) == 1
    assert statuses(tmp_path / "logs" / "few") == {"bad-seed0": "failed", "wide-seed0": "finished"}


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux")
def test_limits_are_remembered_until_they_grow(tmp_path, begun, capsys):
    learners = {"slow": sleeper(), "greedy": sleeper("torch")}
    path = write(tmp_path, learners=learners, seeds=[0], workers=2)
    argv = ["--limits.seconds", "6", "--limits.gigabytes", "2"]
    folder = tmp_path / "logs" / "few"
    assert compare(path, *argv) == 0
    assert statuses(folder) == {"slow-seed0": "timeout", "greedy-seed0": "oom"}
    text = (folder / "compare.md").read_text()
    assert "| slow | 0 of 1, 1 timeout | - | - |" in text
    assert "| greedy | 0 of 1, 1 oom | - | - |" in text
    assert compare(path, *argv) == 0
    assert compare(path, *argv[:1], "5", *argv[2:]) == 0
    assert begun == ["slow-seed0", "greedy-seed0"]
    assert "2/2 runs were finished before." in capsys.readouterr().err
    assert compare(path, *argv[:3], "3") == 0
    assert begun[2:] == ["greedy-seed0"]
    assert statuses(folder) == {"slow-seed0": "timeout", "greedy-seed0": "oom"}


@pytest.mark.slow
def test_a_timeout_keeps_the_steps_and_a_larger_limit_continues(tmp_path, begun):
    slow = {"trainer": {"max_steps": 1_000_000, "val_check_interval": 500}, "engine": "eager"}
    path = write(tmp_path, learners={"long": slow}, seeds=[0])
    assert compare(path, "--limits.seconds", "3") == 0
    row = load_results(tmp_path / "logs" / "few").loc[0]
    assert row["status"] == "timeout"
    assert row["steps"] > 0
    assert compare(path, "--limits.seconds", "4") == 0
    assert begun == ["long-seed0", "long-seed0"]
    assert load_results(tmp_path / "logs" / "few").loc[0, "steps"] > row["steps"]


def test_tuned_learners_run_with_the_best_trial(tmp_path, begun, capsys):
    learners = {"tuned": {"tune": {LR: [1e-9, 3e-9, 1e-2]}}}
    path = write(tmp_path, learners=learners, seeds=[0], tuning={"seeds": [100]})
    assert compare(path) == 0
    folder = tmp_path / "logs" / "few"
    trials = pd.read_csv(folder / "trials.csv", dtype={"trial": str})
    assert list(trials["trial"]) == ["lr=1e-09", "lr=3e-09", "lr=0.01"]
    assert trials["val/nmse"].idxmin() == 2
    assert list(trials["chosen"]) == ["no", "no", "yes"]
    assert begun[3:] == ["tuned-tuned(lr=0.01)-seed0"]
    assert "| tuned | 1 of 1 | 3 | lr=0.01 | 20 |" in (folder / "compare.md").read_text()
    assert f"The best {LR} of tuned, 0.01, is at the end" in capsys.readouterr().err
    assert compare(path) == 0
    assert len(begun) == 4
    capsys.readouterr()
    assert compare(path, "--list") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_replicas_have_the_results_of_single_runs(tmp_path, begun, capsys):
    content = {"learners": {"joint": {}, "kernel": KERNEL}, "seeds": [3, 4], "test": True}
    path = write(tmp_path, replicas=True, **content)
    assert compare(path) == 0
    assert begun == ["joint-seeds3-4", "kernel-seed3", "kernel-seed4"]
    assert compare(path) == 0
    assert len(begun) == 3
    assert compare(write(tmp_path, "single", **content)) == 0
    together, single = (load_results(tmp_path / "logs" / name) for name in ("few", "single"))
    assert list(together["seed"]) == list(single["seed"]) == [3, 4, 3, 4]
    for key in ("val/nmse", "test/nmse", "steps", "samples_seen"):
        np.testing.assert_allclose(together[key], single[key], rtol=1e-3)
    assert (tmp_path / "logs" / "few" / "compare.png").is_file()
    assert compare(path, "--seeds", "[0,2]", "--run.name", "other") == 2
    assert "seeds must be consecutive with replicas" in capsys.readouterr().err


@pytest.mark.slow
def test_replicas_may_diverge_alone_and_can_be_tuned(tmp_path, begun):
    learners = {
        "wild": callback("PoisonAt", step=9, replica=1),
        "tuned": {"tune": {LR: [1e-9, 7e-3]}},
    }
    tuning = {"seeds": [100, 101], "metric": "val/nmse"}
    path = write(tmp_path, learners=learners, seeds=[3, 4, 5], replicas=True, tuning=tuning)
    assert compare(path) == 0
    assert len(begun) == 4
    rows = load_results(tmp_path / "logs" / "few").set_index("learner")
    assert list(rows.loc["wild", "status"]) == ["finished", "diverged", "finished"]
    assert "lr=0.007" in (tmp_path / "logs" / "few" / "compare.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "cluster"), STOPS)
def test_stopped_and_repeated_equals_undisturbed(tmp_path, signum, cluster):
    go, gated = gate(tmp_path)
    learners = {**NARROW_AND_WIDE, "tuned": {"tune": {"model.width": [4, 6]}}}
    learners = {name: {**block, **gated} for name, block in learners.items()}
    path = write(tmp_path, learners=learners, seeds=[0], workers=2)
    go.touch()
    assert compare(path, "--run.name", "whole") == 0
    go.unlink()
    argv = ["compare", "-c", str(path), "--run.name", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bfc_lightning", *argv, "--cluster", cluster],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    run = tmp_path / "logs" / "run"
    while not any(run.rglob("last.ckpt")):
        assert process.poll() is None
        time.sleep(0.01)
    (os.killpg if cluster == "local" else os.kill)(process.pid, signum)
    _, error = process.communicate(timeout=60)
    go.touch()
    assert process.returncode == (-9 if signum == signal.SIGKILL else 128 + signum)
    if signum != signal.SIGKILL:
        assert "to continue: bfc compare -c" in error
    assert main(argv) == 0
    assert differences(tmp_path / "logs" / "whole", run) == []
    logs = "".join(path.read_text() for path in (run / "logs").glob("*.txt"))
    assert cluster != "local" or "resuming from step" in logs
