"""Tuning inside a comparison: trials on other seeds, the best median wins, all are counted."""

import csv
import json
import math
from pathlib import Path

import pytest
import yaml

from bfc_lightning.cli import main
from bfc_lightning.experiments.commands import commands_of, files_of
from bfc_lightning.experiments.comparison import planned_runs, planned_trials, points, trials
from bfc_lightning.experiments.plan import PlannedRun
from bfc_lightning.experiments.results import Row, table
from bfc_lightning.experiments.tuning import choose, edge_warnings, keep_choice
from tests.comparisons import cells, parse, write
from tests.runs import same_weights, summary

LR = "model.optimizer.init_args.lr"
RIDGE = "baseline.init_args.ridge"
FEW = {"data": {"num_train_samples": 64}}
KERNEL = {"baseline": {"class_path": "KernelRidge"}, **FEW}
LEARNERS = {
    "wide": {"tune": {LR: [1e-5, 1e-2]}, "tune_with": {"trainer": {"max_steps": 10}}},
    "kernel": {**KERNEL, "tune": {RIDGE: [1e-3, 1e3]}},
}
MISTAKES = {
    "tune is no mapping": ({"a": {"tune": [1]}}, {}, "learners.a: tune and tune_with must be mapp"),
    "tune without values": ({"a": {"tune": {LR: []}}}, {}, "learners.a.tune.*lr must be a list"),
    "value twice": ({"a": {"tune": {LR: [1, 1]}}}, {}, "must all be different, got 1 twice"),
    "list as a value": ({"a": {"tune": {LR: [[1]]}}}, {}, "must list numbers or words, got"),
    "tune_with alone": ({"a": {"tune_with": FEW}}, {}, "learners.a.tune_with must come with tune"),
    "unequal numbers of trials": (
        {"a": {"tune": {LR: [1, 2]}}, "b": {}},
        {"tuning": {"trials": 2}},
        r"every learner must have 2 trials \(tuning.trials\), got 0 for b",
    ),
    "tuned on a seed of the comparison": (
        {"a": {"tune": {LR: [1, 2]}}},
        {"tuning": {"seeds": [7, 1]}},
        "tuning.seeds must not be among seeds, got 1 in both",
    ),
    "unknown key": (
        {"a": {"tune": {"modle.lr": [1]}}},
        {},
        "learners.a.tune must begin .* got modle",
    ),
    "wrong value": (
        {"a": {"tune": {LR: [1, "x"]}}},
        {},
        "learner a, lr=x: model.optimizer.init_args.lr: expected float, got x",
    ),
    "unknown baseline": (
        {"a": {"baseline": {"class_path": "KernelRigde"}, **FEW}},
        {},
        "learner a: baseline: .*KernelRigde",
    ),
    "setting of a baseline": (
        {"a": {"baseline": {"class_path": "KernelRidge", "init_args": {"rigde": 1}}, **FEW}},
        {},
        "learner a: .*rigde",
    ),
    "baseline of a learner that has none": (
        {"a": {"tune": {RIDGE: [1, 2]}}},
        {},
        "learners.a.tune must begin with one of .* got baseline",
    ),
    "no time": ({"a": {}}, {"limits": {"seconds": 0}}, "limits.seconds must be positive, got 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_clear_line(mistake, tmp_path, capsys):
    learners, more, message = MISTAKES[mistake]
    assert main(["compare", "-c", str(write(tmp_path, learners=learners, **more))]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert __import__("re").search(message, error), error


def scored(comparison, values: dict) -> list[Row]:
    """Rows of trials as if they had been: (value of the key, seed) to score, None if diverged."""
    rows = []
    for run in planned_trials(comparison):
        score = values[run.trial.chosen[0][1], run.seed]
        status = "diverged" if score is None else "finished"
        rows.append(Row(run, Path("none"), status, {"metrics": {"val/nmse": score}}))
    return rows


def test_best_median_wins_and_what_diverged_is_worst(tmp_path):
    learners = {"a": {"tune": {LR: [0.1, 0.2, 0.3]}}}
    comparison = parse(write(tmp_path, learners=learners, tuning={"seeds": [7, 8, 9]}))
    values = {(0.1, 7): 0.5, (0.1, 8): 0.5, (0.1, 9): 0.5}
    values |= {(0.2, 7): 0.01, (0.2, 8): 0.4, (0.2, 9): 0.9}
    values |= {(0.3, 7): 0.001, (0.3, 8): None, (0.3, 9): None}
    (choice,) = choose(comparison, scored(comparison, values)).values()
    assert choice.trial.chosen == ((LR, 0.2),)
    assert (choice.score, choice.num_trials, choice.at_edge) == (0.4, 3, ())
    values |= {(0.3, 8): 0.1}
    (choice,) = choose(comparison, scored(comparison, values)).values()
    assert choice.trial.chosen == ((LR, 0.3),)
    (line,) = edge_warnings({choice.point: choice}, comparison)
    assert line == f"the best {LR} of a, 0.3, is at the end of those tried."
    nothing = scored(comparison, dict.fromkeys(values))
    (choice,) = choose(comparison, nothing).values()
    assert choice.trial.chosen == ((LR, 0.1),)
    assert math.isinf(choice.score)
    (line,) = edge_warnings({choice.point: choice}, comparison)
    assert line == "no trial of a gave a finite val/nmse; its first is taken."
    missing = [Row(row.run, row.folder, "missing") for row in nothing[:1]]
    assert choose(comparison, [*missing, *nothing[1:]]) == {}


def test_trials_are_all_combinations_with_files_and_names_that_say_so(tmp_path):
    learners = {"a": {"tune": {LR: [0.1, 0.2], "model.width": [3, 4]}, "tune_with": FEW}}
    comparison = parse(write(tmp_path, learners=learners))
    assert [trial.name for trial in trials(comparison, "a")] == [
        "lr=0.1,width=3",
        "lr=0.1,width=4",
        "lr=0.2,width=3",
        "lr=0.2,width=4",
    ]
    runs = planned_trials(comparison)
    assert {run.seed for run in runs} == {100}
    assert runs[1].name == "a-tune(lr=0.1,width=4)-seed100"
    assert files_of(comparison, runs[1])[-1] == "trials/a/lr=0.1,width=4.yaml"
    assert [words[0] for words in commands_of(comparison, runs[1], tmp_path)] == ["fit"]
    assert files_of(comparison, planned_runs(comparison)[0])[-1] == "chosen/a.yaml"


def test_another_choice_deletes_the_runs_of_the_one_before(tmp_path):
    comparison = parse(write(tmp_path, learners={"a": {"tune": {LR: [0.1, 0.2]}}, "b": {}}))
    values = {(0.1, 100): 0.5, (0.2, 100): 0.1}
    (choice,) = choose(comparison, scored(comparison, values)).values()
    runs = planned_runs(comparison)
    assert keep_choice(choice, runs, tmp_path) == []
    chosen = yaml.safe_load((tmp_path / "chosen" / "a.yaml").read_text())
    assert chosen == {"model": {"optimizer": {"init_args": {"lr": 0.2}}}}
    for run in runs:
        (tmp_path / "runs" / run.name).mkdir(parents=True)
    assert keep_choice(choice, runs, tmp_path) == []
    (other,) = choose(comparison, scored(comparison, {**values, (0.1, 100): 0.0})).values()
    assert [run.name for run in keep_choice(other, runs, tmp_path)] == ["a-seed0", "a-seed1"]
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"b-seed0", "b-seed1"}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    path = write(folder, learners=LEARNERS, metrics=["val/nmse", "test/nmse"])
    assert main(["compare", "-c", str(path), "--test", "true"]) == 0
    return folder / "logs" / "few"


def test_runs_are_made_with_what_won(tuned):
    with (tuned / "trials.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["trial"] for line in lines] == [
        "lr=1e-05",
        "lr=0.01",
        "ridge=0.001",
        "ridge=1000.0",
    ]
    for learner, group, key in (("wide", "model", "lr"), ("kernel", "baseline", "ridge")):
        mine = [line for line in lines if line["learner"] == learner]
        best = min(mine, key=lambda line: float(line["val/nmse"]))
        assert [line["chosen"] == "yes" for line in mine] == [line is best for line in mine]
        for seed in (0, 1):
            text = (tuned / "runs" / f"{learner}-seed{seed}" / "config.yaml").read_text()
            settings = yaml.safe_load(text)[group]
            values = (settings if group == "baseline" else settings["optimizer"])["init_args"]
            assert values[key] == float(best["trial"].partition("=")[2])
    assert [row["learner"] for row in cells(tuned)] == ["wide", "wide", "kernel", "kernel"]
    tried = yaml.safe_load((tuned / "runs" / "wide-tune(lr=0.01)-seed100/config.yaml").read_text())
    assert tried["trainer"]["max_steps"] == 10
    assert summary(tuned / "runs" / "wide-seed0")["steps"] == 20


def test_trained_learners_are_tested_by_the_command_of_that_name(tuned, tmp_path):
    lines = (tuned / "commands.txt").read_text().splitlines()
    run = tuned / "runs" / "wide-seed1"
    command = next(line for line in lines if "--run.name wide-seed1" in line)
    assert command.endswith(f" && bfc test -c {run / 'config.yaml'} --ckpt_path best")
    assert not any("bfc test" in line for line in lines if "tune(" in line or "kernel" in line)
    before = json.loads((run / "test.json").read_text())["metrics"]
    assert main(["test", "-c", str(run / "config.yaml"), "--ckpt_path", "best"]) == 0
    assert json.loads((run / "test.json").read_text())["metrics"] == before
    row = next(row for row in cells(tuned) if (row["learner"], row["seed"]) == ("wide", "1"))
    assert float(row["test/nmse"]) == before["test/nmse"]


@pytest.mark.slow
def test_run_without_its_test_is_gone_on_with(tuned, capsys):
    (tuned / "runs" / "wide-seed1" / "test.json").unlink()
    path = tuned.parents[1] / "few.yaml"
    assert main(["compare", "-c", str(path), "--test", "true"]) == 0
    assert "7 of 8 runs are done already" in capsys.readouterr().err
    assert (tuned / "runs" / "wide-seed1" / "test.json").is_file()


def test_table_counts_the_trials_and_names_the_winner(tuned):
    text = (tuned / "compare.md").read_text()
    assert "| learner | runs finished | trials | chosen | steps | val/nmse | test/nmse |" in text
    assert "| kernel | 2 of 2 | 2 | ridge=0.001 | - | " in text
    assert "smallest median val/nmse over other seeds, 100" in text
    assert (tuned / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_baseline_has_the_samples_and_the_result_of_its_command_by_hand(tuned, tmp_path):
    commands = (tuned / "commands.txt").read_text().splitlines()
    words = __import__("shlex").split(next(c for c in commands if "--run.name kernel-seed1" in c))
    words[words.index("--run.root") + 1] = str(tmp_path)
    assert words[:2] == ["bfc", "baseline"]
    assert main(words[1:]) == 0
    assert (
        summary(tmp_path / "kernel-seed1")["metrics"]
        == summary(tuned / "runs" / "kernel-seed1")["metrics"]
    )


@pytest.mark.slow
def test_more_trials_are_added_and_a_new_winner_makes_its_runs_anew(tuned, capsys):
    path = tuned.parents[1] / "few.yaml"
    before = (tuned / "runs" / "wide-seed0" / "summary.json").stat().st_mtime_ns
    content = yaml.safe_load(path.read_text())
    content["learners"]["kernel"]["tune"][RIDGE] = [1e-3, 1e3, 1e-6]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["compare", "-c", str(path), "--test", "true"]) == 0
    error = capsys.readouterr().err
    assert "8 of 9 runs are done already" in error
    text = (tuned / "compare.md").read_text()
    assert "| kernel | 2 of 2 | 3 | " in text
    assert (tuned / "runs" / "wide-seed0" / "summary.json").stat().st_mtime_ns == before
    content["learners"]["wide"]["tune_with"] = {"trainer": {"max_steps": 5}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["compare", "-c", str(path)]) == 2
    assert "trial wide/lr=1e-05 has changed since wide-tune" in capsys.readouterr().err


def test_untuned_comparisons_have_no_columns_for_trials(tmp_path):
    comparison = parse(write(tmp_path))
    rows = [Row(PlannedRun(point, 0), tmp_path, "missing") for point in points(comparison)]
    assert table(comparison, rows)[0] == ["learner", "runs finished", "steps", "val/nmse"]


@pytest.mark.slow
def test_weights_do_not_depend_on_the_tuning_that_found_their_settings(tuned, tmp_path):
    text = (tuned / "runs" / "wide-seed0" / "config.yaml").read_text()
    lr = yaml.safe_load(text)["model"]["optimizer"]["init_args"]["lr"]
    path = write(tmp_path, learners={"wide": {"model": {"optimizer": {"init_args": {"lr": lr}}}}})
    assert main(["compare", "-c", str(path)]) == 0
    run = Path("runs") / "wide-seed0"
    assert same_weights(tmp_path / "logs" / "few" / run, tuned / run)
