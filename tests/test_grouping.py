"""Which runs are trained together, in what they differ, and that a plan of it is kept."""

import json
from functools import cache
from pathlib import Path

import pytest
import yaml

from bfc_lightning.cli import fit_parser
from bfc_lightning.experiments.commands import commands_of
from bfc_lightning.experiments.comparison import planned_runs, planned_trials
from bfc_lightning.experiments.folder import claimed
from bfc_lightning.experiments.group_words import ALSO, AND, group_words, parted
from bfc_lightning.experiments.grouping import MOST, Group, Grouping
from bfc_lightning.experiments.kept_plan import KeptPlan
from bfc_lightning.experiments.plan import PlannedRun, Point, Trial
from bfc_lightning.experiments.settings import nested
from bfc_lightning.runs.folder import LONGEST_NAME
from tests.comparisons import parse, write
from tests.replica_words import NOISE, PENALTY, RATE, SCALES
from tests.runs import TINY

read_fit = cache(fit_parser.read_fit)


def runs_of(learner: str, seeds: int, trial: Trial | None = None) -> list[PlannedRun]:
    return [PlannedRun(Point(learner), seed, trial) for seed in range(seeds)]


def fits(*words: str, base: str = TINY):
    """Commands of runs with these words; the learner's name is the width of its model."""

    def commands(run):
        told = ["--model.width", run.point.learner, "--seed_everything", str(run.seed)]
        tried = [] if run.trial is None else [f"--{key} {value}" for key, value in run.trial.chosen]
        told += [word for option in tried for word in option.split(" ", 1)]
        return [
            ["fit", "-c", base, *words, *told, "--run.name", run.name],
            ["test", "-c", run.name],
        ]

    return commands


PLAIN = fits()


def groups_of(runs, commands=PLAIN, num_workers: int = 1) -> list[Group]:
    return Grouping(commands, read_fit).groups(runs, num_workers)


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
        (3, 5, 2, [5, 5, 5]),
        (3, 4, 4, [2, 2, 2, 2, 2, 2]),
        (2, 1, 2, []),
        (1, MOST, 1, [MOST]),
        (1, 2 * MOST + 1, 1, [11, 11, 11]),
    ],
)
def test_seeds_of_a_learner_are_together_and_no_worker_goes_without(
    num_learners, num_seeds, num_workers, expected
):
    runs = [run for learner in range(num_learners) for run in runs_of(str(4 + learner), num_seeds)]
    assert sizes(runs, num_workers=num_workers) == expected


@pytest.mark.parametrize(
    ("num_workers", "expected"), [(1, [8, 4]), (2, [4, 4, 4]), (3, [2, 3, 3, 4]), (8, [])]
)
def test_what_is_most_of_the_work_is_shared_out(num_workers, expected):
    """A step of the first takes some 30 times as long."""
    commands = fits("--data.batch_size", "512")
    assert sizes([*runs_of("512", 8), *runs_of("4", 4)], commands, num_workers) == expected


def test_baselines_and_what_is_refused_are_run_alone():
    assert sizes(runs_of("8", 3), lambda run: [["baseline", "--run.name", run.name]]) == []
    assert sizes(runs_of("-1", 3)) == [3]  # a mistake that only the learner itself finds
    assert sizes(runs_of("wide", 3)) == []


@pytest.mark.parametrize(
    "words",
    [
        ("--trainer.callbacks", "[{class_path: lightning.pytorch.callbacks.EarlyStopping}]"),
        ("--trainer.logger", "lightning.pytorch.loggers.CSVLogger"),
        ("--trainer.max_time", "00:00:01:00"),
        ("--training_path", "plain"),
        ("--model.linearized", "true"),
    ],
)
def test_what_replicas_would_change_or_cannot_do_is_trained_alone(words):
    assert sizes(runs_of("8", 3), fits("--data.batch_size", "16")) == [3]
    assert sizes(runs_of("8", 3), fits(*words)) == []


@pytest.mark.parametrize("key", ["callbacks", "callbacks+"])
def test_a_config_counts_as_much_as_an_option(tmp_path, key):
    path = tmp_path / "a.yaml"
    stopping = {"class_path": "lightning.pytorch.callbacks.EarlyStopping"}
    path.write_text(yaml.safe_dump({"trainer": {key: [stopping]}}))
    assert sizes(runs_of("8", 3), fits("-c", str(path))) == []
    over = ("-c", str(path), "--trainer.callbacks", "null")
    assert sizes(runs_of("8", 3), fits(*over)) == [3]


def tried(*options: tuple[str, object]) -> list[PlannedRun]:
    """A run for each option, on one seed."""
    return [PlannedRun(Point("8"), 100, Trial((option,))) for option in options]


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        (RATE, [0.01, "1e-3"], [0.01, 0.001]),
        ("model.optimizer.lr", [1, "1_0.0"], [1.0, 10.0]),
        (PENALTY, [0, "[0.0,0.1]"], [0.0, [0.0, 0.1]]),
        (SCALES, ["roots", 0.5, "[1.0,0.3]"], ["roots", 0.5, [1.0, 0.3]]),
        (NOISE, [0, 0.1], [0.0, 0.1]),
        ("data.seed", [3, 4], [3, 4]),
    ],
)
def test_runs_that_differ_in_what_replicas_may_differ_in_are_together(key, values, expected):
    (group,) = groups_of(tried(*((key, value) for value in values)))
    whole = RATE if key == "model.optimizer.lr" else key
    assert list(group.overrides) == [{"seed_everything": 100, whole: value} for value in expected]
    assert [type(each[whole]) for each in group.overrides] == [type(each) for each in expected]


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


def test_setting_that_one_run_leaves_to_its_default_is_the_default():
    default = fit_parser.read_fit(["-c", TINY])["model"]["optimizer"]["init_args"]["lr"]
    with_rate, without = tried((RATE, 0.25), ("model.width", 8))
    (group,) = groups_of([with_rate, without])
    assert [each[RATE] for each in group.overrides] == [0.25, default]


@pytest.mark.parametrize(
    ("key", "below", "above", "expected"),
    [
        (RATE, ["0.01", "0.05"], "'0.02'", [{}, {}]),
        ("data.seed", ["1", "2"], "null", [{}, {}]),
        ("data.seed", ["null", "2"], "3", [{}, {}]),
        (RATE, ["7e-3", "2e-2"], None, [{RATE: 0.007}, {RATE: 0.02}]),
    ],
)
def test_value_of_a_later_config_is_the_one_that_counts(tmp_path, key, below, above, expected):
    runs = [PlannedRun(Point(str(number)), 0) for number in range(2)]
    for number, value in enumerate([*below, above]):
        text = "{}" if value is None else yaml.safe_dump(nested(key, yaml.safe_load(value)))
        (tmp_path / f"{number}.yaml").write_text(text)

    def commands(run):
        configs = [TINY, *(str(tmp_path / f"{name}.yaml") for name in (run.point.learner, 2))]
        return [["fit", *(word for config in configs for word in ("-c", config))]]

    (group,) = groups_of(runs, commands)
    assert list(group.overrides) == [{"seed_everything": 0, **own} for own in expected]


def test_names_that_are_no_yaml_and_configs_in_files_of_their_own_are_read(tmp_path):
    (tmp_path / "model.yaml").write_text("width: 8\n")

    def commands(run):
        model = str(tmp_path / "model.yaml")
        return [["fit", "-c", TINY, "--model", model, "--run.name", f"*{run.seed}: a, {{"]]

    assert sizes(runs_of("8", 3), commands) == [3]


def test_law_of_one_s_own_may_have_dimensions_that_are_no_number():
    given = fit_parser.read_fit(["-c", TINY])
    for args in ({}, {"input_dim": None}, {"input_dim": [2, 2]}):
        law = {"class_path": "mine.Law", "init_args": args}
        grouping = Grouping(PLAIN, lambda words, law=law: {**given, "inputs": law})
        assert len(grouping.groups(runs_of("8", 3), 1)) == 1


@pytest.mark.parametrize("letter", ["w", "学"])
def test_long_names_make_folders_that_there_can_be(tmp_path, letter):
    (group,) = groups_of(
        [PlannedRun(Point(letter * (230 // len(letter.encode()) - 2)), n) for n in range(2)],
        lambda run: [["fit", "-c", TINY]],
    )
    assert len(group.name.encode()) <= LONGEST_NAME
    (tmp_path / group.name).mkdir()


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

    (trials,) = groups_of(planned_trials(comparison), commands)
    assert len(trials.runs) == 3 * 2 * 2
    assert trials.overrides[7] == {"seed_everything": 101, RATE: 1e-3, SCALES: 0.5}
    for gap in ("0.2", "0.5"):
        (folder / "chosen").mkdir(exist_ok=True)
        (folder / "chosen" / f"wide-gap={gap}.yaml").write_text(
            f"model: {{optimizer: {{init_args: {{lr: 0.0{gap[-1]}}}}}}}\n"
        )
    (own,) = groups_of(planned_runs(comparison), commands)
    rates = {
        (run.point.learner, over[SCALES]): over[RATE]
        for run, over in zip(own.runs, own.overrides, strict=True)
    }
    assert rates["wide", 0.2] == 0.02
    assert rates["wide", 0.5] == 0.05
    assert rates["mild", 0.2] == rates["mild", 0.5] == 0.02


def test_words_of_a_group_train_then_split_then_test_each(tmp_path):
    commands = fits("--data.batch_size", "16")
    (group,) = groups_of(runs_of("8", 2), commands)
    beside = tmp_path / "together" / "runs"
    words = group_words(group, commands, folder=tmp_path, beside=beside)
    trained, split, tested = parted(words, AND)
    assert trained[:7] == ["fit", "-c", TINY, "--data.batch_size", "16", "--model.width", "8"]
    assert trained[-4:-2] == ["--model.num_replicas", "2"]
    assert json.loads(trained[-1]) == [{"seed_everything": 0}, {"seed_everything": 1}]
    where = str(beside / group.name)
    assert split == ["split", where, str(tmp_path / "runs"), "8-seed0", "8-seed1"]
    assert parted(tested, ALSO) == [["test", "-c", "8-seed0"], ["test", "-c", "8-seed1"]]


def test_groups_of_other_runs_or_settings_have_other_names():
    seeds = [
        [PlannedRun(Point("8"), seed) for seed in each] for each in ([0, 1], [0, 2], [0, 1, 2])
    ]
    trials = [tried((RATE, 0.1), (RATE, rate)) for rate in (0.2, 0.3)]
    names = [groups_of(runs)[0].name for runs in (*seeds, *trials)]
    names += [groups_of(seeds[0], fits("--data.batch_size", size))[0].name for size in ("16", "64")]
    assert len({*names}) == 7
    assert groups_of(seeds[0], fits("--run.root", "elsewhere"))[0].name == names[0]


def together(*parts: list[PlannedRun], commands=PLAIN) -> list[Group]:
    grouping = Grouping(commands, read_fit)
    return [grouping.group(part) for part in parts]


def test_plan_is_kept_for_the_runs_that_there_still_are(tmp_path):
    runs, grouping = runs_of("8", 5), Grouping(PLAIN, read_fit)
    kept = KeptPlan(tmp_path / "together" / "runs")
    assert kept.read(runs, grouping) == []
    groups = together(runs[:3], runs[3:])
    kept.write(groups)
    assert kept.read(runs, grouping) == groups
    assert kept.read(runs[1:], grouping) == groups[1:]
    alone = together(*([run] for run in runs[:3]))
    kept.part(groups[0], alone)
    assert kept.read(runs, grouping) == [groups[1], *alone]


@pytest.mark.parametrize(
    "words",
    [
        ("--data.batch_size", "64"),  # of all runs
        ("--model.regularization", "0.5"),  # in which replicas may differ
        ("--trainer.callbacks", "[{class_path: lightning.pytorch.callbacks.EarlyStopping}]"),
        ("--model.width", "none"),  # refused
    ],
)
def test_group_of_which_settings_have_changed_is_forgotten_with_its_replicas(tmp_path, words):
    runs = [*runs_of("8", 2), *runs_of("4", 2)]
    kept = KeptPlan(tmp_path / "together" / "runs")
    groups = together(runs[:2], runs[2:])
    kept.write(groups)
    for group in groups:
        (kept.folder / group.name).mkdir()

    def edited(run):
        fit, *rest = PLAIN(run)
        return [[*fit, *(words if run.point.learner == "4" and run.seed == 1 else ())], *rest]

    now = Grouping(edited, read_fit)
    assert kept.read(runs, now) == groups[:1]
    kept.write(now.groups(runs, 1))
    assert not (kept.folder / groups[1].name).exists()
    assert (kept.folder / groups[0].name).is_dir()


def test_plan_keeps_the_replicas_of_its_groups_only(tmp_path):
    groups = together(*(runs_of(width, 2) for width in ("4", "8")))
    kept, other = (KeptPlan(tmp_path / "together" / name) for name in ("runs", "trials"))
    other.write(groups)
    for each in (kept, other):
        for group in groups:
            (each.folder / group.name).mkdir(parents=True)
    kept.write(groups[1:])
    assert folders(kept) == [groups[1].name]
    assert folders(other) == sorted(group.name for group in groups)
    kept.delete_replicas(groups[1])
    assert folders(kept) == []


def folders(kept: KeptPlan) -> list[str]:
    return sorted(path.name for path in Path(kept.folder).iterdir() if path.is_dir())
