"""Which runs are trained together, in what they differ, and that a plan of it is kept."""

import json
from pathlib import Path

import pytest
import yaml

from bfc_lightning.experiments.commands import commands_of
from bfc_lightning.experiments.comparison import planned_runs, planned_trials
from bfc_lightning.experiments.folder import claimed
from bfc_lightning.experiments.group_words import ALSO, AND, group_words, parted
from bfc_lightning.experiments.grouping import MOST, Group, groups_of, overrides_of
from bfc_lightning.experiments.kept_plan import KeptPlan
from bfc_lightning.experiments.plan import PlannedRun, Point, Trial
from bfc_lightning.experiments.settings import nested
from tests.comparisons import parse, write
from tests.replica_words import NOISE, PENALTY, RATE, SCALES


def runs_of(learner: str, seeds: int, trial: Trial | None = None) -> list[PlannedRun]:
    return [PlannedRun(Point(learner), seed, trial) for seed in range(seeds)]


def fits(*words: str):
    """Commands of runs with these words; the learner's name tells one model from another."""

    def commands(run):
        told = ["--model.width", run.point.learner, "--seed_everything", str(run.seed)]
        tried = [] if run.trial is None else [f"--{key} {value}" for key, value in run.trial.chosen]
        told += [word for option in tried for word in option.split(" ")]
        return [["fit", *words, *told, "--run.name", run.name], ["test", "-c", run.name]]

    return commands


PLAIN = fits()


def sizes(runs: list[PlannedRun], commands=PLAIN, num_workers: int = 1) -> list[int]:
    return [len(group.runs) for group in groups_of(runs, commands, num_workers)]


@pytest.mark.parametrize(
    ("num_learners", "num_seeds", "num_workers", "expected"),
    [
        (1, 5, 1, [5]),
        (1, 5, 2, [2, 3]),
        (1, 5, 3, [2, 2]),  # the first is trained alone
        (1, 4, 8, []),
        (2, 5, 2, [5, 5]),
        (3, 4, 4, [2, 2, 2, 2, 2, 2]),
        (2, 1, 2, []),
        (1, MOST, 1, [MOST]),
        (1, 2 * MOST + 1, 1, [11, 11, 11]),
    ],
)
def test_seeds_of_a_learner_are_together_and_no_worker_goes_without(
    num_learners, num_seeds, num_workers, expected
):
    runs = [run for learner in range(num_learners) for run in runs_of(str(learner), num_seeds)]
    assert sizes(runs, num_workers=num_workers) == expected


def test_baselines_are_fitted_alone():
    assert sizes(runs_of("8", 3), lambda run: [["baseline", "--run.name", run.name]]) == []


@pytest.mark.parametrize(
    "words",
    [
        ("--trainer.callbacks", "[{class_path: EarlyStopping}]"),
        ("--trainer.logger", "CSVLogger"),
        ("--trainer.max_time", "00:00:01:00"),
        ("--training_path", "plain"),
        ("--model.linearized", "true"),
    ],
)
def test_what_replicas_would_change_or_cannot_do_is_trained_alone(words):
    assert sizes(runs_of("8", 3), fits("--model.depth", "2")) == [3]
    assert sizes(runs_of("8", 3), fits(*words)) == []


def test_a_config_counts_as_much_as_an_option(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("trainer: {callbacks: [{class_path: EarlyStopping}]}\n")
    assert sizes(runs_of("8", 3), fits("-c", str(path))) == []
    over = ("-c", str(path), "--trainer.callbacks", "null")
    assert sizes(runs_of("8", 3), fits(*over)) == [3]


def tried(*options: tuple[str, object]) -> list[PlannedRun]:
    """A run for each option, on one seed."""
    return [PlannedRun(Point("8"), 100, Trial((option,))) for option in options]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        (RATE, [0.01, 1e-3]),
        ("model.optimizer.lr", [0.01, 1e-3]),
        (PENALTY, [0, "[0.0,0.1,0.2]"]),
        (SCALES, ["theory", 0.5, "[1.0,0.3]"]),
        (NOISE, [0, 0.1]),
        ("data.seed", [3, 4]),
    ],
)
def test_runs_that_differ_in_what_replicas_may_differ_in_are_together(key, values):
    (group,) = groups_of(tried(*((key, value) for value in values)), PLAIN, 1)
    whole = RATE if key == "model.optimizer.lr" else key
    expected = [value if value == "theory" else yaml.safe_load(str(value)) for value in values]
    assert overrides_of(group, PLAIN) == [
        {"seed_everything": 100, whole: value} for value in expected
    ]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("model.width", [4, 8]),
        ("data.batch_size", [16, 32]),
        ("trainer.max_steps", [10, 20]),
        ("model.optimizer", ["torch.optim.Adam", "torch.optim.SGD"]),
        ("model.optimizer.init_args.betas", ["[0.9,0.99]", "[0.9,0.999]"]),
        ("data.seed", ["null", 3]),
        (RATE, ["fast", "slow"]),
    ],
)
def test_runs_that_differ_in_more_are_not_together(key, values):
    assert sizes(tried(*((key, value) for value in values))) == []


def test_setting_that_one_run_leaves_to_its_default_keeps_it_from_those_that_have_it():
    with_rate, without = tried((RATE, 0.1), ("model.depth", 2))
    words = [PLAIN(run)[0] for run in (with_rate, without)]
    assert len(words[0]) == len(words[1])
    same = ["--model.depth", "2"]
    commands = {
        with_rate: [[*words[0], *same]],
        without: [words[1]],
        PlannedRun(Point("8"), 100): [[*PLAIN(PlannedRun(Point("8"), 100))[0], *same]],
    }
    groups = groups_of(commands, commands.__getitem__, 1)
    assert [group.runs for group in groups] == [(without, PlannedRun(Point("8"), 100))]


def test_value_of_a_later_config_is_the_one_that_counts(tmp_path):
    files = {}
    for name, rate in {"base": "7e-3", "high": "2e-2", "low": "1e-3"}.items():
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text(f"model: {{optimizer: {{init_args: {{lr: {rate}}}}}}}\n")
    runs = [PlannedRun(Point(name), 0) for name in ("high", "low")]

    def commands(run):
        configs = [str(files["base"]), str(files[run.point.learner])]
        return [["fit", "-c", configs[0], "-c", configs[1], "--seed_everything", "0"]]

    (group,) = groups_of(runs, commands, 1)
    assert [own[RATE] for own in overrides_of(group, commands)] == [0.02, 0.001]


def test_trials_of_a_comparison_are_together_and_apart_from_its_own_runs(tmp_path):
    tuned = {"tune": {RATE: [1e-3, 1e-2, 0.1]}, "tune_with": {"trainer": {"max_steps": 10}}}
    gaps = {"key": SCALES, "values": [0.2, 0.5]}
    path = write(tmp_path, learners={"wide": tuned, "mild": nested(RATE, 0.02)}, grid={"gap": gaps})
    comparison = parse(path, "--tuning.seeds", "[100, 101]")
    folder = tmp_path / "logs" / "few"
    with claimed(comparison, folder):
        pass

    def commands(run):
        return commands_of(comparison, run, folder)

    (trials,) = groups_of(planned_trials(comparison), commands, 1)
    assert len(trials.runs) == 3 * 2 * 2
    assert overrides_of(trials, commands)[7] == {
        "seed_everything": 101,
        RATE: 1e-3,
        SCALES: 0.5,
    }
    for gap in ("0.2", "0.5"):
        (folder / "chosen").mkdir(exist_ok=True)
        (folder / "chosen" / f"wide-gap={gap}.yaml").write_text(
            f"model: {{optimizer: {{init_args: {{lr: 0.0{gap[-1]}}}}}}}\n"
        )
    (own,) = groups_of(planned_runs(comparison), commands, 1)
    rates = {
        (run.point.learner, over[SCALES]): over[RATE]
        for run, over in zip(own.runs, overrides_of(own, commands), strict=True)
    }
    assert rates["wide", 0.2] == 0.02
    assert rates["wide", 0.5] == 0.05
    assert rates["mild", 0.2] == rates["mild", 0.5] == 0.02


def test_words_of_a_group_train_then_split_then_test_each(tmp_path):
    commands = fits("--model.depth", "2")
    (group,) = groups_of(runs_of("8", 2), commands, 1)
    beside = tmp_path / "together" / "runs"
    words = group_words(group, commands, folder=tmp_path, beside=beside)
    trained, split, tested = parted(words, AND)
    assert trained[:5] == ["fit", "--model.depth", "2", "--model.width", "8"]
    assert trained[-4:-2] == ["--model.num_replicas", "2"]
    assert json.loads(trained[-1]) == [{"seed_everything": 0}, {"seed_everything": 1}]
    where = str(beside / group.name)
    assert split == ["split", where, str(tmp_path / "runs"), "8-seed0", "8-seed1"]
    assert parted(tested, ALSO) == [["test", "-c", "8-seed0"], ["test", "-c", "8-seed1"]]


def test_groups_of_other_runs_have_other_names():
    seeds = [
        [PlannedRun(Point("8"), seed) for seed in each] for each in ([0, 1], [0, 2], [0, 1, 2])
    ]
    trials = [tried((RATE, 0.1), (RATE, rate)) for rate in (0.2, 0.3)]
    names = {groups_of(runs, PLAIN, 1)[0].name for runs in (*seeds, *trials)}
    assert len(names) == 5


def test_plan_is_kept_for_the_runs_that_there_still_are(tmp_path):
    runs = runs_of("8", 5)
    kept = KeptPlan(tmp_path / "together" / "runs")
    assert kept.read(runs) == []
    groups = [Group(tuple(runs[:3])), Group(tuple(runs[3:]))]
    kept.write(groups)
    assert kept.read(runs) == groups
    assert kept.read(runs[1:]) == groups[1:]
    kept.part(groups[0])
    assert kept.read(runs) == [groups[1], *(Group((run,)) for run in runs[:3])]


def test_plan_keeps_the_replicas_of_its_groups_only_and_leaves_nothing_in_the_end(tmp_path):
    groups = [Group(tuple(runs_of(width, 2))) for width in ("4", "8")]
    kept, other = (
        KeptPlan(tmp_path / "together" / "runs"),
        KeptPlan(tmp_path / "together" / "trials"),
    )
    other.write(groups)
    for each in (kept, other):
        for group in groups:
            (each.folder / group.name).mkdir(parents=True)
    kept.write(groups[1:])
    assert folders(kept) == [groups[1].name]
    assert folders(other) == sorted(group.name for group in groups)
    kept.delete_replicas(groups[1])
    assert folders(kept) == []
    kept.delete()
    assert other.read(runs_of("4", 2)) == groups[:1]
    other.delete()
    assert not (tmp_path / "together").exists()


def folders(kept: KeptPlan) -> list[str]:
    return sorted(path.name for path in Path(kept.folder).iterdir() if path.is_dir())
