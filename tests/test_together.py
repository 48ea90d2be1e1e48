"""Runs trained together: that each leaves the folder of its single run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bfc_lightning import load_run
from bfc_lightning.callbacks.metrics_file import read_metrics
from bfc_lightning.cli import main
from bfc_lightning.experiments.comparison import planned_runs
from bfc_lightning.experiments.settings import nested
from bfc_lightning.experiments.workers import Ended, Task, WorkerPool
from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.splitting import split_run
from tests.comparisons import cells, parse, plan_together, write
from tests.faults.landing import children_of
from tests.launches import need_proc
from tests.replica_words import PENALTY, RATE, SCALES, replicas
from tests.runs import checkpoint, fit, same_weights, summary
from tests.worker_functions import obey

EXACT = {"precision": "64-true"}
CONSTANT = ["--model.lr_scheduler", "null", "--trainer.precision", "64-true"]


def test_task_of_several_runs_may_take_as_many_times_as_long(tmp_path):
    tasks = [Task("a", ("save", str(tmp_path / "a")), tmp_path / "log", num_runs=3)]
    with WorkerPool(obey, 1, seconds=0.8) as pool:
        ends = [event for event in pool.run(tasks) if isinstance(event, Ended)]
    assert ends[0].is_overdue
    assert ends[0].seconds >= 2.4


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A comparison in float64 of two seeds together, with the single runs beside it."""
    folder = tmp_path_factory.mktemp("together")
    learners = {"wide": {"trainer": EXACT}, "rms": {"model": {"optimizer": "torch.optim.RMSprop"}}}
    assert main(["compare", "-c", str(write(folder, learners=learners, test=True))]) == 0
    words = ["-c", str(folder / "short.yaml"), "--run.threads", "1"]
    for seed in ("0", "1"):
        name = ["--run.name", f"alone{seed}", "--trainer.precision", "64-true"]
        assert fit(folder, *words, *name, "--seed_everything", seed) == 0
    return folder


def pairs(root: Path) -> list[tuple[Path, Path]]:
    """Folders of the replicas beside those of the single runs."""
    runs = root / "logs" / "few" / "runs"
    return [(runs / f"wide-seed{seed}", root / f"alone{seed}") for seed in (0, 1)]


def test_seeds_were_together_and_left_nothing_else(root):
    for mine, _ in pairs(root):
        assert summary(mine)["trained_together"] == 2
    assert not (root / "logs" / "few" / "together").exists()
    assert {row["status"] for row in cells(root / "logs" / "few")} == {"finished"}


def test_what_cannot_be_together_is_run_one_by_one(root):
    for seed in (0, 1):
        content = summary(root / "logs" / "few" / "runs" / f"rms-seed{seed}")
        assert (content["status"], content.get("trained_together")) == ("finished", None)


def test_weights_and_metrics_are_those_of_the_single_run(root):
    for mine, alone in pairs(root):
        states = checkpoint(mine)["state_dict"], checkpoint(alone)["state_dict"]
        assert states[0].keys() == states[1].keys()
        for name in states[0]:
            assert states[0][name].numpy() == pytest.approx(states[1][name].numpy(), rel=1e-10)
        metrics = summary(mine)["metrics"], summary(alone)["metrics"]
        assert metrics[0] == pytest.approx(metrics[1], rel=1e-6, nan_ok=True)
        assert summary(mine)["samples_seen"] == summary(alone)["samples_seen"]


def test_rows_and_events_are_those_of_the_single_run(root):
    for mine, alone in pairs(root):
        rows = [read_metrics(folder / "metrics.csv") for folder in (mine, alone)]
        assert [set(row) for row in rows[0]] == [set(row) for row in rows[1]]
        for one, other in zip(*rows, strict=True):
            assert one == pytest.approx(other, rel=1e-6, nan_ok=True)
        events = [EventAccumulator(str(folder)).Reload() for folder in (mine, alone)]
        tags = [set(each.Tags()["scalars"]) for each in events]
        assert tags[0] == tags[1]
        for tag in tags[0]:
            steps = [[entry.step for entry in each.Scalars(tag)] for each in events]
            assert steps[0] == steps[1]


def test_config_and_identity_are_those_of_the_single_run(root):
    for mine, alone in pairs(root):
        configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (mine, alone)]
        runs = [config.pop("run") for config in configs]
        assert configs[0].pop("trainer").keys() == configs[1].pop("trainer").keys()
        assert configs[0] == configs[1]
        assert runs[0]["name"] == mine.name
        records = [checkpoint(folder)["bfc_lightning"]["identity"] for folder in (mine, alone)]
        assert records[0] == records[1]


def test_best_checkpoint_is_the_replicas_own_and_can_be_loaded_and_tested(root):
    for mine, alone in pairs(root):
        best = checkpoint(mine, "best"), checkpoint(alone, "best")
        assert best[0]["global_step"] == best[1]["global_step"]
        for name, value in best[1]["state_dict"].items():
            assert best[0]["state_dict"][name].numpy() == pytest.approx(value.numpy(), rel=1e-10)
        x = torch.randn(5, 8, dtype=torch.float64)
        assert torch.allclose(load_run(mine).network(x), load_run(alone).network(x), rtol=1e-8)
        assert (mine / "test.json").is_file()


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> tuple[Path, Path]:
    """A comparison in float64 that is tuned at each of two gaps, together and run by run."""
    folder = tmp_path_factory.mktemp("tuned")
    tune = {RATE: [1e-3, 1e-2, 1e200], PENALTY: [0.0, 0.1]}
    learner = {"trainer": EXACT, "tune": tune, "tune_with": {"data": {"batch_size": 16}}}
    gaps = {"key": SCALES, "values": [0.2, 0.5]}
    path = write(folder, learners={"wide": learner}, grid={"gap": gaps}, test=True)
    for name, together in (("both", "true"), ("single", "false")):
        words = ["--together", together, "--run.name", name]
        assert main(["compare", "-c", str(path), *words]) == 0
    return folder / "logs" / "both", folder / "logs" / "single"


def test_trials_and_points_that_replicas_may_differ_in_are_together(tuned):
    together, alone = tuned
    trained = {path.parent.name: summary(path.parent) for path in together.glob("runs/*/summary*")}
    counts = {name: run["trained_together"] for name, run in trained.items()}
    assert {count for name, count in counts.items() if "tune(" in name} == {12}
    assert [count for name, count in counts.items() if "tune(" not in name] == [4, 4, 4, 4]
    assert not (together / "together").exists()
    for path in alone.glob("runs/*"):
        assert "trained_together" not in summary(path)


def test_trials_and_points_are_those_of_single_runs(tuned):
    names = [{path.name for path in folder.glob("runs/*")} for folder in tuned]
    assert names[0] == names[1]
    assert len(names[0]) == 12 + 4
    for name in names[0]:
        one, other = (folder / "runs" / name for folder in tuned)
        configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in (one, other)]
        assert [config["run"].pop("root") for config in configs]
        assert configs[0] == configs[1]
        assert summary(one)["status"] == summary(other)["status"]
        assert (summary(one)["status"] == "diverged") == ("lr=1e+200" in name)
        if summary(one)["status"] == "finished":
            states = [checkpoint(run)["state_dict"] for run in (one, other)]
            for key, value in states[1].items():
                assert states[0][key].numpy() == pytest.approx(value.numpy(), rel=1e-10)


def test_choice_and_table_are_those_of_single_runs(tuned):
    chosen = [{p.name: p.read_text() for p in folder.glob("chosen/*")} for folder in tuned]
    assert len(chosen[0]) == 2
    assert chosen[0] == chosen[1]
    rows = [cells(folder) for folder in tuned]
    assert len(rows[0]) == 4
    for one, other in zip(*rows, strict=True):
        for key in ("gap", "seed", "status", "steps", "samples_seen"):
            assert one[key] == other[key]
        for key in ("val/nmse", "test/nmse"):
            assert float(one[key]) == pytest.approx(float(other[key]), rel=1e-8)


def test_group_that_was_stopped_and_of_which_one_run_has_changed_is_planned_anew(tmp_path):
    learners = {name: nested(RATE, rate) for name, rate in (("slow", 0.01), ("fast", 0.02))}
    path, folder = write(tmp_path, learners=learners), tmp_path / "logs" / "few"
    before = plan_together(path, folder, planned_runs(parse(path)))
    write(
        tmp_path, learners={**learners, "fast": nested(RATE, 0.02) | {"data": {"batch_size": 64}}}
    )
    assert main(["compare", "-c", str(path)]) == 0
    assert not before.exists()
    found = [
        (config["model"]["optimizer"]["init_args"]["lr"], config["data"]["batch_size"])
        for name in ("slow-seed0", "slow-seed1", "fast-seed0", "fast-seed1")
        for config in [yaml.safe_load((folder / "runs" / name / "config.yaml").read_text())]
    ]
    assert found == [(0.01, 32)] * 2 + [(0.02, 64)] * 2
    assert {summary(run)["trained_together"] for run in folder.glob("runs/*")} == {2}


def test_last_checkpoint_goes_on_as_the_single_run_would(tmp_path):
    group = [*CONSTANT, *replicas(2), "--run.name", "both"]
    assert fit(tmp_path, *group) == 0
    split_run(tmp_path / "both", tmp_path, ["zero", "one"])
    assert fit(tmp_path, *CONSTANT, "--seed_everything", "1", "--run.name", "alone") == 0
    longer = ["--trainer.max_steps", "100", "--resume", "auto"]
    for name in ("one", "alone"):
        assert main(["fit", "-c", str(tmp_path / name / "config.yaml"), *longer]) == 0
        assert summary(tmp_path / name)["steps"] == 100
    one, other = (checkpoint(tmp_path / name)["state_dict"] for name in ("one", "alone"))
    for name in one:
        assert one[name].numpy() == pytest.approx(other[name].numpy(), rel=1e-9)
    rows = [read_metrics(tmp_path / name / "metrics.csv") for name in ("one", "alone")]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]


def test_best_checkpoint_of_a_replica_has_nothing_to_go_on_from(root, capsys):
    (mine, _), _ = pairs(root)
    words = ["fit", "-c", str(mine / "config.yaml"), "--run.name", "on"]
    assert main([*words, "--resume", str(mine / "checkpoints" / "best.ckpt")]) == 2
    assert "the checkpoint must hold the state of an optimizer, got" in capsys.readouterr().err


def test_best_checkpoint_of_an_earlier_phase_has_the_layers_of_that_phase(tmp_path):
    """A layer that has joined and not learned yet makes f worse than it was without."""
    words = [*CONSTANT, "--scheme", "Layerwise", "--scheme.steps", "[400, 2]"]
    assert fit(tmp_path, *words, *replicas(2), "--run.name", "both") == 0
    split_run(tmp_path / "both", tmp_path, ["zero", "one"])
    assert fit(tmp_path, *words, "--seed_everything", "1", "--run.name", "alone") == 0
    one, alone = (checkpoint(tmp_path / name, "best") for name in ("one", "alone"))
    assert one["global_step"] == alone["global_step"] <= 400
    assert one["phase"] == alone["phase"]
    x = torch.randn(5, 8, dtype=torch.float64)
    mine, other = (load_run(tmp_path / name).network(x) for name in ("one", "alone"))
    assert mine.detach().numpy() == pytest.approx(other.detach().numpy(), rel=1e-8)


def test_replica_that_diverged_says_so_and_keeps_its_best(tmp_path):
    words = [*CONSTANT, "--trainer.val_check_interval", "10", "--model.optimizer.lr", "1e-3"]
    assert fit(tmp_path, *words, *replicas(2, [{}, {RATE: 1e200}]), "--run.name", "both") == 0
    split_run(tmp_path / "both", tmp_path, ["calm", "wild"])
    assert summary(tmp_path / "calm")["status"] == "finished"
    lost = summary(tmp_path / "wild")
    assert lost["status"] == "diverged"
    assert lost["steps"] <= 10
    assert lost["samples_seen"] == 32 * lost["steps"]
    assert not (tmp_path / "wild" / "checkpoints" / "last.ckpt").exists()
    config = yaml.safe_load((tmp_path / "wild" / "config.yaml").read_text())
    assert config["model"]["optimizer"]["init_args"]["lr"] == 1e200


def test_run_that_has_not_finished_and_wrong_number_of_names_are_refused(tmp_path):
    with pytest.raises(RunError, match="the run must have finished, got None in"):
        split_run(tmp_path, tmp_path, ["a"])
    assert fit(tmp_path, *replicas(2), "--trainer.max_steps", "20", "--run.name", "both") == 0
    with pytest.raises(RunError, match="names must be one for each of 2, got 1"):
        split_run(tmp_path / "both", tmp_path, ["a"])


@pytest.mark.slow
def test_killed_group_goes_on_bit_for_bit(tmp_path):
    longer = {"trainer": {"max_steps": 4000, "val_check_interval": 200}}
    path = write(tmp_path, learners={"wide": longer}, seeds=[0, 1, 2])
    bfc = str(Path(sys.executable).with_name("bfc"))
    command = [bfc, "compare", "-c", str(path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    last = "few/together/runs/*/checkpoints/last.ckpt"
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "logs").glob(last)) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "logs" / "few" / "runs").glob("*"))
    assert subprocess.run(command, env=env, timeout=180, check=False).returncode == 0
    fresh = [*command, "--run.name", "fresh"]
    assert subprocess.run(fresh, env=env, timeout=180, check=False).returncode == 0
    for seed in (0, 1, 2):
        runs = [tmp_path / "logs" / name / "runs" / f"wide-seed{seed}" for name in ("few", "fresh")]
        assert summary(runs[0])["trained_together"] == 3
        assert same_weights(*runs)
        assert (runs[0] / "metrics.csv").read_text() == (runs[1] / "metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [[0], [0, 1]], ids=["in the tuning", "after it"])
def test_killed_tuning_goes_on_bit_for_bit(tmp_path, seeds):
    """Killed in a group of trials, or in one of its own runs while nothing is left to be tuned."""
    longer = {"trainer": {"max_steps": 2000, "val_check_interval": 100}}
    learner = {"tune": {RATE: [1e-3, 3e-3, 1e-2]}, **longer}
    path = write(tmp_path, learners={"wide": learner}, seeds=seeds)
    command = [str(Path(sys.executable).with_name("bfc")), "compare", "-c", str(path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    part = "trials" if len(seeds) == 1 else "runs"
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    last = f"few/together/{part}/*/checkpoints/last.ckpt"
    while not list((tmp_path / "logs").glob(last)) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list((tmp_path / "logs").glob(last))
    assert subprocess.run(command, env=env, timeout=180, check=False).returncode == 0
    fresh = [*command, "--run.name", "fresh"]
    assert subprocess.run(fresh, env=env, timeout=180, check=False).returncode == 0
    for run in (tmp_path / "logs" / "fresh" / "runs").glob("*"):
        other = tmp_path / "logs" / "few" / "runs" / run.name
        assert summary(other).get("trained_together") == summary(run).get("trained_together")
        assert same_weights(other, run)
        assert (other / "metrics.csv").read_text() == (run / "metrics.csv").read_text()


@pytest.mark.slow
def test_group_that_was_killed_between_two_of_its_folders_goes_on_as_that_group(tmp_path):
    """Seed 0 has its folder already: alone, seeds 1 and 2 would be equal only to rounding."""
    path = write(tmp_path, learners={"wide": {}}, seeds=[0, 1, 2])
    assert main(["compare", "-c", str(path), "--seeds", "[0]"]) == 0
    folder = tmp_path / "logs" / "few"
    runs = [folder / "runs" / f"wide-seed{seed}" for seed in range(3)]
    assert "trained_together" not in summary(runs[0])
    plan_together(path, folder, planned_runs(parse(path)))
    assert main(["compare", "-c", str(path)]) == 0
    assert [summary(run)["trained_together"] for run in runs] == [3, 3, 3]
    assert [row["status"] for row in cells(folder)] == ["finished"] * 3
    assert not (folder / "together").exists()


@pytest.mark.slow
@need_proc
def test_group_whose_worker_is_killed_goes_on_as_that_group(tmp_path):
    longer = {"trainer": {"max_steps": 2000, "val_check_interval": 100}}
    path = write(tmp_path, learners={"wide": longer}, seeds=[0, 1])
    command = [str(Path(sys.executable).with_name("bfc")), "compare", "-c", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
    last = "few/together/runs/*/checkpoints/last.ckpt"
    deadline = time.monotonic() + 300
    while not list((tmp_path / "logs").glob(last)) and time.monotonic() < deadline:
        time.sleep(0.02)
    (worker,) = children_of(process.pid)
    os.kill(worker, signal.SIGKILL)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error
    assert "one by one" not in error
    log = next((tmp_path / "logs" / "few" / "logs").glob("wide-2runs-*.txt")).read_text()
    assert log.count("$ bfc fit") == 2
    for seed in (0, 1):
        run = tmp_path / "logs" / "few" / "runs" / f"wide-seed{seed}"
        assert summary(run)["trained_together"] == 2
