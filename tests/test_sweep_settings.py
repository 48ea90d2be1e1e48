"""What a sweep is told, what it refuses, and which GPU each worker has."""

import re
from pathlib import Path

import pytest
import torch

from bfc_lightning.cli import main
from bfc_lightning.cli.sweep_settings import parse_points
from bfc_lightning.experiments.plan import Point
from bfc_lightning.experiments.sweeps.commands import point_words
from bfc_lightning.experiments.sweeps.gpus import worker_environments
from bfc_lightning.experiments.sweeps.sweep import (
    as_option,
    label_of,
    short_names,
    sweep_points,
    sweep_runs,
)
from bfc_lightning.runs.folder import RunError, RunOptions, find_folder
from tests.sweeps import LR, WIDTHS, parse, write

MISTAKES = {
    "no point": ({"grid": {}}, "one of grid and points must be given, got neither"),
    "grid and points": (
        {"grid": {LR: [1]}, "points": [{LR: 1}]},
        "one of grid and points must be given, got both",
    ),
    "no base": ({"base": []}, "base must not be empty"),
    "base that is not there": ({"base": ["nowhere.yaml"]}, "base: .*nowhere.yaml"),
    "no seeds": ({"seeds": []}, "seeds must not be empty"),
    "seed twice": ({"seeds": [3, 1, 3]}, "seeds must all be different, got 3 twice"),
    "seed out of range": ({"seeds": [-1]}, r"seeds must lie in \[0, 2\^32\), got -1"),
    "no workers": ({"workers": 0}, "workers must be at least 1, got 0"),
    "limit of nothing": ({"limits": {"seconds": 0}}, "limits.seconds must be positive, got 0"),
    "unknown key of the sweep": ({"gird": [3]}, "gird"),
    "no values": ({"grid": {LR: []}}, "grid.model.*lr must be a list of values, .* got \\[\\]"),
    "one value without a list": ({"grid": {LR: 3}}, "must be a list of values, .* got 3"),
    "value twice": (
        {"grid": {LR: [0.1, 0.10]}},
        "grid.model.optimizer.init_args.lr must all be different, got 0.1 twice",
    ),
    "value without a plain word": (
        {"grid": {"scheme": [{"class_path": "Layerwise"}]}},
        "a value of grid.scheme must be a number, a word or a list of them .* got {'class",
    ),
    "label with a slash": (
        {"grid": {WIDTHS: {"a/b": [3, 2]}}},
        "a label of grid.target.init_args.widths must be a plain folder name .* got 'a/b'",
    ),
    "different keys": (
        {"points": [{"model.width": 4, LR: 1}, {"model.width": 8}]},
        r"points\[1\] must have the same keys as the first point, model.width, model.*lr, got "
        "model.width",
    ),
    "point twice": (
        {"points": [{"model.width": 4, LR: 1}, {LR: 1, "model.width": 4}]},
        "points must all be different, got model.optimizer.init_args.lr = 1, model.width = 4 twice",
    ),
    "point that is none": ({"points": [4]}, r"points\[0\] must be a mapping .* got 4"),
    "unknown group": (
        {"grid": {"modle.width": [3]}},
        "a swept key must begin with one of .*model.* got modle.width",
    ),
    "group of the sweep": (
        {"grid": {"seed_everything": [3]}},
        "a swept key must begin with one of .* got seed_everything",
    ),
    "unknown key": (
        {"grid": {"model.widht": [3]}},
        "point widht=3: .*model.widht.* Keys like model.widht: .*model.width",
    ),
    "unknown argument of a class": (
        {"grid": {"target.init_args.level_scale": [3]}},
        "point level_scale=3: .*level_scale.* target.init_args.level_scales",
    ),
    "wrong value": (
        {"grid": {"model.width": [8, "many"]}},
        "point width=many: model.width: expected int .* got many",
    ),
    "flag that means nothing": (
        {"grid": {"trainer.max_epochs": [3]}},
        "point max_epochs=3: trainer.max_epochs must be left out, got 3",
    ),
    "replicas": (
        {"grid": {"model.num_replicas": [2]}},
        "point num_replicas=2: model.num_replicas must be 1 in a comparison or a sweep",
    ),
    "label too long": (
        {"grid": {WIDTHS: {"w" * 240: [3, 2]}}},
        "the name of a run must have at most 230 bytes, got widths=www",
    ),
    "name with a slash": (
        {"run": {"name": "a/b"}},
        "run.name must be a plain folder name, got 'a/b'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_clear_line_and_leaves_nothing(mistake, tmp_path, capsys):
    content, message = MISTAKES[mistake]
    if "run" in content:
        content = {"run": {**content["run"], "root": str(tmp_path / "logs")}}
    assert main(["sweep", "-c", str(write(tmp_path, **content))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bfc: error: ")
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "logs").exists()


def test_longest_name_of_a_sweeps_run_is_one_of_bfc_fit(tmp_path):
    longest = "w" * (230 - len("widths=-seed0"))
    (run, *_) = sweep_runs(parse(write(tmp_path, grid={WIDTHS: {longest: [3, 2]}})))
    assert len(run.name) == 230
    assert find_folder(RunOptions(name=run.name), []) == Path("logs") / run.name
    with pytest.raises(RunError, match=r"at most 230 bytes, got widths=ww"):
        parse(write(tmp_path, grid={WIDTHS: {f"{longest}w": [3, 2]}}))
    with pytest.raises(RunError, match=r"run.name must have .* 230 bytes, got 231: widths=ww"):
        find_folder(RunOptions(name=f"{run.name}1"), [])
    many_bytes = {"ä" * 120: [3, 2], "w" * 121: [3, 2]}
    with pytest.raises(RunError, match=r"at most 230 bytes, got widths=ää"):
        parse(write(tmp_path, grid={WIDTHS: many_bytes}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--list", "--report"], "one of --list and --report must be given, got both"),
        (["--report", "--run.overwrite", "true"], "run.overwrite must be false with --report"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(words, message, tmp_path, capsys):
    assert main(["sweep", "-c", str(write(tmp_path)), *words]) == 2
    assert message in capsys.readouterr().err


def test_grid_is_every_combination_and_seeds_come_first(tmp_path):
    grid = {"model.width": [4, 8], LR: [0.1, 0.2, 0.3]}
    sweep = parse(write(tmp_path, grid=grid))
    points = sweep_points(sweep)
    assert len(points) == 6
    assert points[Point("", (("width", "8"), ("lr", "0.2")))] == {"model.width": 8, LR: 0.2}
    runs = sweep_runs(sweep)
    assert [run.seed for run in runs] == [0] * 6 + [1] * 6
    assert runs[1].name == "width=4-lr=0.2-seed0"


def test_keys_are_named_by_as_few_words_as_tell_them_apart():
    keys = ["a.init_args.seed", "b.init_args.seed", "model.width"]
    assert list(short_names(keys).values()) == ["a.init_args.seed", "b.init_args.seed", "width"]
    assert short_names(["a.b.x", "a.c.x"]) == {"a.b.x": "b.x", "a.c.x": "c.x"}
    assert short_names(["x", "a.x"]) == {"x": "x", "a.x": "a.x"}


def test_values_are_words_in_names_and_yaml_on_the_command_line():
    assert [label_of(value) for value in (None, True, 0.5, "relu", [3, 2], [1.5, None])] == [
        "null",
        "true",
        "0.5",
        "relu",
        "3,2",
        "1.5,null",
    ]
    assert [as_option(value) for value in (None, False, 1e-05, "relu", [3, 2], {"a": None})] == [
        "null",
        "false",
        "1e-05",
        "relu",
        "[3, 2]",
        '{"a": null}',
    ]


def test_every_kind_of_value_means_what_it_says(tmp_path):
    grid = {
        LR: [1e-05],
        "scheme": {"layerwise": {"class_path": "Layerwise", "init_args": {"steps": [7, 9]}}},
        "model.activation": ["torch.nn.ReLU"],
        "trainer.gradient_clip_val": [None],
        WIDTHS: [[3, 1]],
        "model.linearized": [True],
    }
    (settings,) = parse_points(parse(write(tmp_path, grid=grid))).values()
    identity = settings.identity
    assert identity[LR] == 1e-05
    assert identity["scheme.init_args.steps"] == [7, 9]
    assert identity["scheme.class_path"] == "bfc_lightning.Layerwise"
    assert identity["trainer.gradient_clip_val"] is None
    assert identity["target.init_args.widths"] == [3, 1]
    assert identity["model.linearized"] is True
    assert "trainer.max_steps" not in identity  # the scheme says how long the run is
    assert settings.accelerator == "cpu"


def test_words_of_a_point_are_a_command():
    words = point_words({"model.width": 4, WIDTHS: [3, 2]}, ["a.yaml", "b.yaml"])
    assert words == [
        *("fit", "-c", "a.yaml", "-c", "b.yaml"),
        *("--model.width", "4", "--target.init_args.widths", "[3, 2]"),
    ]


def test_each_worker_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    sweep = parse(write(tmp_path, workers=None))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    names = ["0", "1", "2"]
    assert worker_environments(sweep, {"gpu"}) == [{"CUDA_VISIBLE_DEVICES": n} for n in names]
    assert len(worker_environments(sweep, {"cpu", "auto"})) == 3
    assert worker_environments(sweep, {"cpu"}) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8f,7")
    given = worker_environments(sweep, {"cuda"})
    assert [each["CUDA_VISIBLE_DEVICES"] for each in given] == ["5", "GPU-8f", "7"]
    shared = worker_environments(parse(write(tmp_path, workers=4)), {"gpu"})
    assert [each["CUDA_VISIBLE_DEVICES"] for each in shared] == ["5", "GPU-8f", "7", "5"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert worker_environments(sweep, {"gpu"}) == []
