"""The YAML of an experiment, and the runs that follow from it."""

import itertools
from pathlib import Path

import pytest
import yaml

from bfc_lightning.cli.experiments import plan_runs
from bfc_lightning.experiments import reading
from bfc_lightning.experiments.reading import expand
from bfc_lightning.experiments.spec import Experiment, Limits, RunSpec, Tuning
from bfc_lightning.runs.config import Study
from bfc_lightning.runs.folder import RunError
from bfc_lightning.runs.settings import find_config
from tests.experiments import LR, write
from tests.runs import error_of

SCALES = "target.init_args.level_scales"


def read(*paths: Path, **overrides: object) -> Experiment:
    configs = [word for path in paths for word in ("-c", str(path))]
    options = [f"--{key}={value}" for key, value in overrides.items()]
    return plan_runs([*configs, *options], "bfc compare")[1]


def runs_of(folder: Path, **content: object) -> list[RunSpec]:
    return expand(read(write(folder, **content)))


def test_learners_and_seeds_make_runs_seed_by_seed(tmp_path):
    runs = runs_of(tmp_path)
    assert [run.name for run in runs] == [
        f"{learner}-seed{seed}" for seed in (0, 1) for learner in ("narrow", "wide")
    ]
    assert [run.config["model"]["width"] for run in runs] == [4, 8, 4, 8]
    assert {run.config["trainer"]["max_steps"] for run in runs} == {20}  # of the second base
    assert len({run.digest for run in runs}) == 4


def test_a_run_has_the_settings_that_bfc_fit_would_have(tmp_path):
    run = runs_of(tmp_path)[0]
    files = ["-c", "tests/configs/tiny.yaml", "-c", str(tmp_path / "short.yaml")]
    study = Study()
    study.read([*files, "--model.width", "4"])
    assert run.config == {
        k: v for k, v in study.settings().items() if k not in ("run", "seed_everything")
    }


def test_grid_is_every_combination_in_both_forms(tmp_path):
    grid = {
        "model.width": [4, 8],
        "ratio": {"key": SCALES, "values": {"small": 0.1, "both": [1.0, 0.2]}},
        "rate": {"key": LR, "values": [1e-3]},
    }
    runs = runs_of(tmp_path, grid=grid, seeds=[3])
    assert [dict(run.labels) for run in runs] == [
        {"width": width, "ratio": ratio, "rate": "0.001"}
        for width, ratio in itertools.product(["4", "8"], ["small", "both"])
    ]
    assert [run.name for run in runs][:2] == [
        "width=4-ratio=small-rate=0.001-seed3",
        "width=4-ratio=both-rate=0.001-seed3",
    ]
    scales = [run.config["target"]["init_args"]["level_scales"] for run in runs]
    assert scales == [0.1, [1.0, 0.2]] * 2
    assert [run.config["model"]["width"] for run in runs] == [4, 4, 8, 8]


def test_points_are_one_axis(tmp_path):
    points = [{"model.width": 4, LR: 0.01}, {"model.width": 8, LR: 0.02}]
    runs = runs_of(tmp_path, points=points, seeds=[0])
    assert [run.labels["point"] for run in runs] == ["width=4,lr=0.01", "width=8,lr=0.02"]
    assert [run.config["model"]["optimizer"]["init_args"]["lr"] for run in runs] == [0.01, 0.02]


def test_values_of_the_grid_override_the_learner(tmp_path):
    runs = runs_of(
        tmp_path, learners={"a": {"model": {"width": 5}}}, grid={"model.width": [4]}, seeds=[0]
    )
    assert runs[0].config["model"]["width"] == 4


def test_labels_may_be_what_yaml_takes_for_something_else(tmp_path):
    grid = {"w": {"key": "model.width", "values": {16: 4}}}
    path = write(tmp_path, seeds=[0], grid=grid, learners={"one": {}, "two": {}, 7: {}, None: {}})
    path.write_text(path.read_text().replace("one:", "0.10:").replace("two:", "2024-01-01:"))
    names = [run.name for run in expand(read(path))]
    assert names == [f"{name}-w=16-seed0" for name in ("0.10", "2024-01-01", "7", "null")]


def test_tuning_makes_trials_with_their_own_seeds_and_settings(tmp_path):
    tune = {"tune": {"model.width": [4, 6]}, "tune_with": {"trainer.max_steps": 10}}
    path = write(tmp_path, learners={"a": tune, "b": {}}, tuning={"seeds": [100, 101]}, seeds=[0])
    every = expand(read(path))
    trials, runs = every[:4], every[4:]
    assert [run.name for run in trials] == [
        f"a-trial(width={width})-seed{seed}" for width in (4, 6) for seed in (100, 101)
    ]
    assert {run.config["trainer"]["max_steps"] for run in trials} == {10}
    assert all(run.is_trial for run in trials)
    assert [run.name for run in runs] == [
        "a-tuned(width=4)-seed0",
        "a-tuned(width=6)-seed0",
        "b-seed0",
    ]
    assert {run.config["trainer"]["max_steps"] for run in runs} == {20}
    assert [run.trial for run in runs] == ["width=4", "width=6", ""]


def test_groups_are_read_and_options_override_them(tmp_path):
    path = write(tmp_path, limits={"seconds": 60}, tuning={"metric": "val/loss"}, test=True)
    experiment = read(path, **{"limits.gigabytes": 2, "seeds": [7], "run.threads": 2})
    assert experiment.limits == Limits(60, 2)
    assert experiment.tuning == Tuning(metric="val/loss")
    assert (experiment.seeds, experiment.test, experiment.run.threads) == ([7], True, 2)
    assert experiment.metrics == ["val/nmse"]


def test_later_files_override_earlier_ones_key_by_key(tmp_path):
    more = tmp_path / "more.yaml"
    more.write_text("seeds: [5]\nlearners: {wide: {model: {depth: 3}}, third: {}}\n")
    experiment = read(write(tmp_path), more)
    assert experiment.seeds == [5]
    assert experiment.learners == {
        "narrow": {"model": {"width": 4}},
        "wide": {"model": {"depth": 3}},
        "third": {},
    }


def test_base_may_be_a_shipped_config_or_lie_beside_the_file(tmp_path):
    path = write(tmp_path, base=["two_levels", "short.yaml"], seeds=[0])
    assert expand(read(path))[0].config["trainer"]["max_steps"] == 20


def test_scaling_needs_two_axes_of_numbers(tmp_path):
    grid = {
        "d": {"key": "inputs.init_args.input_dim", "values": [4, 8]},
        "n": {"key": "data.num_train_samples", "values": [32, 64]},
    }
    scaling = {"dimension": "d", "samples": "n", "error": 0.1}
    assert read(write(tmp_path, grid=grid, scaling=scaling)).scaling.samples == "n"
    for change in ({"dimension": "m"}, {"samples": "width"}):
        path = write(tmp_path, grid={**grid, "model.width": [4]}, scaling={**scaling, **change})
        with pytest.raises(RunError, match=f"scaling.{next(iter(change))} must be an axis"):
            read(path)


def test_published_ranges_belong_to_the_values_of_the_only_axis(tmp_path):
    grid = {LR: [0.1, 0.2]}
    assert read(write(tmp_path, grid=grid, published={"val/nmse": [[1, 2], [3, 4]]})).published
    for ranges in ({"val/nmse": [[1, 2]]}, {"val/error": [[1, 2], [3, 4]]}):
        with pytest.raises(RunError, match="published must give"):
            read(write(tmp_path, grid=grid, published=ranges))


def test_learner_with_another_class_drops_arguments_of_the_base(tmp_path):
    base = {"scheme": {"class_path": "Layerwise", "init_args": {"steps": [5, 7]}}}
    (tmp_path / "layerwise.yaml").write_text(yaml.safe_dump(base))
    learners = {"layerwise": {}, "joint": {"scheme": {"class_path": "Joint"}}}
    files = [str(Path("tests/configs/tiny.yaml").resolve()), "layerwise.yaml"]
    runs = runs_of(tmp_path, base=files, learners=learners, seeds=[0])
    assert runs[0].config["scheme"]["init_args"]["steps"] == [5, 7]
    assert "steps" not in runs[1].config["scheme"].get("init_args", {})


def one(**block: object) -> dict:
    """An experiment with one learner."""
    return {"learners": {"a": block}}


TUNE = {LR: [1, 2]}
STEPS_TYPO = {"class_path": "Layerwise", "init_args": {"stps": 3}}
ERRORS = {
    "grid and points": ({"grid": {LR: [1]}, "points": [{LR: 1}]}, ["grid", "points"]),
    "no base": ({"base": []}, ["base"]),
    "an empty base": ({"base": None}, ["base must be a list"]),
    "a config of bfc fit": ({"inputs": {}}, ["few.yaml is a config of bfc fit", "`base`"]),
    "no seeds": ({"seeds": []}, ["seeds"]),
    "a repeated seed": ({"seeds": [3, 1, 3]}, ["seeds"]),
    "a seed that is a list": ({"seeds": [[1]]}, ["seeds", "list"]),
    "a seed that is too large": ({"seeds": [0, 5 * 10**9]}, ["seeds", "4294967295", "5000000000"]),
    "a seed in the grid": ({"grid": {"seed_everything": [1, 2]}}, ["seed_everything", "`seeds`"]),
    "a name in points": ({"points": [{"run.name": "a"}]}, ["run point=", "run.name", "`run`"]),
    "a name in tune": (one(tune={"run.name": ["a"]}), ["run a", "run.name"]),
    "a seed in tune_with": (one(tune=TUNE, tune_with={"seed_everything": 1}), ["seed_everything"]),
    "a seed of a learner": (one(seed_everything=1), ["learners.a", "seed_everything"]),
    "a tuning metric that is no text": ({"tuning": {"metric": None}}, ["tuning.metric", "None"]),
    "no workers": ({"workers": 0}, ["workers", "0"]),
    "an unknown key": ({"gird": [3]}, ["'gird'", "few.yaml", "Did you mean 'grid'"]),
    "a group that is no mapping": ({"tuning": 3}, ["tuning", "mapping"]),
    "a group of a run that is no mapping": ({"grid": {"model": [3]}}, ["model must be", "mapping"]),
    "an empty group of a learner": (one(model=None), ["run a", "mapping"]),
    "an empty section": ({"learners": None}, ["learners must be a dict"]),
    "no values": ({"grid": {LR: []}}, [f"grid.{LR}"]),
    "a label with a slash": ({"grid": {LR: {"a/b": 1}}}, ["label", "'a/b'"]),
    "an axis named like a column": ({"grid": {"model.seed": [1]}}, ["'seed'"]),
    "points with different keys": ({"points": [{"model.width": 4}, {LR: 1}]}, ["same keys"]),
    "a point without settings": ({"points": [{}]}, ["points"]),
    "points that are no mappings": ({"points": [1, 2]}, ["points", "1"]),
    "an unknown group of a learner": (one(modle={}), ["run a", "'modle'", "Did you mean 'model'?"]),
    "an unknown class of a learner": (
        one(model={"optimizer": {"class_path": "Adma"}}),
        ["model.optimizer", "'Adma'", "few.yaml, line", "Did you mean 'Adam'?"],
    ),
    "an unknown class in the grid": ({"grid": {"scheme": ["Joint", "Progresive"]}}, ["ssive'?"]),
    "an unknown argument of a class": (one(scheme=STEPS_TYPO), ["few.yaml, line", "steps'?"]),
    "an unknown setting in the grid": ({"grid": {"model.widht": [3]}}, ["widht=3", "widht"]),
    "a value of the wrong type": ({"grid": {"model.width": [8, "many"]}}, ["model.width", "many"]),
    "a baseline without samples": (one(baseline="KernelRidge"), ["data.num_train_samples"]),
    "replicas": ({"grid": {"model.num_replicas": [2]}}, ["model.num_replicas"]),
    "a learner that is no mapping": ({"learners": {"a": 3}}, ["learners.a"]),
    "tune without lists": (one(tune={LR: 3}), ["learners.a", "tune"]),
    "a repeated value of tune": (one(tune={LR: [4, 4]}), ["learners.a", "different"]),
    "tune_with without tune": (one(tune_with={LR: 1}), ["a.tune_with"]),
    "tune_with that is no mapping": (one(tune=TUNE, tune_with=5), ["a.tune_with", "mapping"]),
    "seeds also for tuning": (one(tune=TUNE) | {"tuning": {"seeds": [0]}}, ["tuning.seeds", "0"]),
    "too few trials": (one(tune=TUNE) | {"tuning": {"trials": 3}}, ["tuning.trials", "a"]),
    "scaling without its keys": ({"scaling": {"dimension": "d"}}, ["scaling"]),
    "a name that is too long": ({"grid": {LR: {"w" * 240: 1}}}, ["too long"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error_is_one_line_that_names_the_key_and_leaves_nothing(name, tmp_path, capsys):
    content, parts = ERRORS[name]
    error = error_of(capsys, "compare", "-c", str(write(tmp_path, **content)))
    assert all(part in error for part in parts), error
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("seeds: [0\n", "bad.yaml, line 2"),
        ("seeds: [0]\nworkers: 1\nseeds: [1]\n", "bad.yaml, line 3: the key 'seeds' is repeated"),
        ("", "bad.yaml must be a mapping"),
        ("a: !!python/object/apply:os.getcwd []\n", "bad.yaml, line 1"),
        ("a: " + "[" * 3000, "bad.yaml"),
    ],
)
def test_file_that_cannot_be_read_is_named_with_the_line(text, part, tmp_path, capsys):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert part in error_of(capsys, "compare", "-c", str(path))


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--sedes", "[1]"], "Did you mean 'seeds'"),
        (["--limits.second", "1"], "Did you mean 'limits.seconds'"),
        (["--seeds"], "--seeds"),
        (["--run.name", "a/b"], "run.name must be a plain folder name, got 'a/b'"),
        (["report"], "Unknown argument 'report'"),
        (["--report"], "--report needs an existing experiment"),
    ],
)
def test_wrong_options_are_one_line(argv, part, tmp_path, capsys):
    assert part in error_of(capsys, "compare", "-c", str(write(tmp_path)), *argv)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    "config", ["sweep/batch_steps", pytest.param("compare/fixed", marks=pytest.mark.slow)]
)
def test_points_have_the_settings_that_parsing_each_of_them_gives(config, monkeypatch):
    experiment = read(find_config(config), seeds="[0]")
    fast = expand(experiment)

    monkeypatch.setattr(reading, "_is_number", lambda value: False)
    assert fast == expand(experiment)
