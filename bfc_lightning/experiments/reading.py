"""From the YAML of an experiment to the list of its runs, each fully resolved."""

import itertools
import json
import math
from argparse import ArgumentError
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
from jsonargparse import Namespace

from bfc_lightning.baselines import Baseline
from bfc_lightning.baselines.fitting import baseline_init_scale
from bfc_lightning.experiments.spec import (
    MARK,
    Experiment,
    ExperimentFile,
    RunSpec,
    Settings,
    num_trials,
    trials_of,
)
from bfc_lightning.runs.config import Study
from bfc_lightning.runs.folder import LONGEST_NAME, RunError, named_folder
from bfc_lightning.runs.settings import did_you_mean, digest, find_config, flatten, read_yaml

TUNE, TUNE_WITH, BASELINE = "tune", "tune_with", "baseline"
_SET_BY_EXPERIMENT = ("run", "resume", "seed_everything")
_MAX_SEED = 2**32 - 1  # as in `bfc fit`, which seeds NumPy
_GROUPS = ("trainer", "model", "data")
_COLUMNS = ("run", "learner", "seed", "status", "steps", "samples_seen", "wall_seconds", "trial")


def read_files(configs: Sequence[Path]) -> dict[str, Any]:
    """The content of an experiment's files, later ones over earlier ones; `base` as paths."""
    if not configs:
        raise RunError("a config must be given; try: bfc compare -c compare/schemes")
    source: dict[str, Any] = {}
    for path in configs:
        content = read_yaml(path)
        if {*_GROUPS, "inputs", "target"} & content.keys():
            raise RunError(f"{path} is a config of bfc fit; name it in `base` of an experiment.")
        if content.get("base"):
            names = content["base"] if isinstance(content["base"], list) else [content["base"]]
            content["base"] = [str(find_config(str(name), path.parent)) for name in names]
        source = merged(source, content)
    return source


def make_experiment(given: Namespace, command: str) -> Experiment:
    """The experiment that parsed settings describe, in its folder."""
    source = ExperimentFile(**{each.name: given[each.name] for each in fields(ExperimentFile)})
    if not source.base:
        raise RunError("base must name at least one config.")
    settings: dict[str, Any] = {}
    for path in source.base:
        settings = merged(settings, read_yaml(Path(path)))
    settings.pop("run", None)
    learners = {str(name): block or {} for name, block in source.learners.items()}
    config, name = Path(given.config[0]), source.run.name
    folder = config.parent  # of a `compare.yaml` that an experiment has written
    if name is not None or config.name != MARK:
        folder = own_folder(source.run.root, config.stem if name is None else name, MARK)
    experiment = Experiment(
        **{**vars(source), "learners": learners or {"": {}}},
        settings=settings,
        axes=_axes(source.grid, source.points),
        source=source,
        folder=folder,
        command=command,
    )
    _check(experiment)
    return experiment


def own_folder(root: str, name: str, mark: str) -> Path:
    """`root/name`, which must be new, empty or have the file `mark`."""
    folder = named_folder(root, name)
    if any(folder.glob("[!.]*")) and not (folder / mark).is_file():
        raise RunError(f"{folder} holds something else: choose another run.name.")
    return folder


def expand(experiment: Experiment) -> list[RunSpec]:
    """Every run of the experiment: those of the tuning, and its own, seed by seed."""
    trials, runs = [], []
    for learner, block in experiment.learners.items():
        own = {key: value for key, value in block.items() if key not in (TUNE, TUNE_WITH)}
        base = merged(experiment.settings, own)
        for labels in itertools.product(*experiment.axes.values()):
            where = dict(zip(experiment.axes, labels, strict=True))
            points = [experiment.axes[axis][label] for axis, label in where.items()]
            values = [pair for point in points for pair in point.items()]
            parts = [*filter(None, [learner]), *(f"{axis}={where[axis]}" for axis in where)]
            for trial, tried in trials_of(block).items():
                make = partial(_runs, experiment, base, learner=learner, labels=where, trial=trial)
                changes = [*values, *tried.items()]
                tuned = [f"tuned({trial})"] if trial else []
                runs += make("-".join([*parts, *tuned]) or "run", changes)
                if trial:
                    changes += block.get(TUNE_WITH, {}).items()
                    trials += make("-".join([*parts, f"trial({trial})"]), changes, is_trial=True)
    runs = trials + sorted(runs, key=lambda run: experiment.seeds.index(run.seed))
    counts = Counter(map(_shape, runs))
    return [replace(run, num_alike=counts[_shape(run)]) for run in runs]


def _shape(run: RunSpec) -> str:
    """What determines the shape of a training step, roughly: enough to count what is alike."""
    config = run.config
    model = {key: config["model"].get(key) for key in ("width", "depth", "activation")}
    inputs = config["inputs"]["init_args"].get("input_dim")
    return json.dumps([model, inputs, config["data"]["batch_size"], run.num_seeds], default=str)


def _runs(
    experiment: Experiment,
    settings: Settings,
    stem: str,
    changes: Sequence[tuple[str, Any]],
    *,
    is_trial: bool = False,
    **where: Any,  # noqa: ANN401
) -> list[RunSpec]:
    """A run for each seed, or one with a replica for each."""
    seeds = experiment.tuning.seeds if is_trial else experiment.seeds
    for key, value in changes:
        if key.partition(".")[0] in _SET_BY_EXPERIMENT:
            raise RunError(f"run {stem} must not set {key}: use `seeds` or `run`.")
        settings = merged(settings, nested(key, value))
    if len(f"{stem}-seeds{seeds[0]}-{max(seeds)}".encode()) > LONGEST_NAME:
        raise RunError(f"the name of run {stem} is too long: use shorter labels.")
    try:
        config = _resolved(experiment.settings, settings)
    except ArgumentError as error:
        raise ArgumentError(None, f"{error}\n(run {stem})") from error
    except ValueError as error:
        raise RunError(f"run {stem}: {error}") from error
    count, is_trained, model = 1, BASELINE not in config, dict(config["model"])
    if model["num_replicas"] != 1:
        raise RunError("model.num_replicas must be 1 in an experiment, which has seeds.")
    if not is_trained:
        model["init_scale"] = baseline_init_scale(model["init_scale"])
        if config["data"]["num_train_samples"] is None:
            raise RunError(f"run {stem}: data.num_train_samples must be given for a baseline.")
    elif experiment.replicas:
        model["num_replicas"] = count = len(seeds)
    config = {**config, "model": model}
    where |= {"is_trial": is_trial, "is_tested": experiment.test and is_trained and not is_trial}
    digests = {seed: digest({**config, "seed_everything": seed}) for seed in seeds[::count]}
    return [RunSpec(stem, s, config, own, num_seeds=count, **where) for s, own in digests.items()]


def _resolved(base: Settings, settings: Settings) -> Settings:
    """Every setting but seed and folder; only groups that differ from the base's are parsed."""
    groups = [group for group in settings if settings[group] != base.get(group, ...)]
    with suppress(ArgumentError, ValueError, KeyError):  # the base may lack what others give
        parts = {key: _part(_as_json(base), key, _as_json(settings[key])) for key in groups}
        return {**_parsed(_as_json(base)), **parts}
    return _parsed(_as_json(settings))


@cache
def _part(base: str, key: str, text: str) -> Any:  # noqa: ANN401
    """A group of settings in JSON, resolved; without defaults, 0.01 in place of 0.03 seconds."""
    settings, whole = json.loads(text), _parsed(base)
    known, given = flatten(whole[key]), flatten(settings)
    names = {name: own for name, own in given.items() if isinstance(own, str)}
    same = all(f".{known.get(name)}".endswith(f".{own}") for name, own in names.items())
    # The trainer's settings are checked together; lists of classes are flattened by number.
    is_apart = key == "trainer" or any(n not in known or n == "" or "0" in n for n in given)
    if is_apart or not same:
        return _parsed(_as_json({**json.loads(base), key: settings}))[key]
    full = {name: whole[name] for name in ("inputs", "target", BASELINE, key) if name in whole}
    for name in given.keys() - names.keys():
        full = merged(full, nested(f"{key}.{name}", given[name]))
    parser = _study(BASELINE in whole).parser
    return json.loads(_as_json(parser.parse_object(full, defaults=False)[key].as_dict()))


def _as_json(settings: object) -> str:
    return json.dumps(settings, default=str)


@cache
def _study(is_baseline: bool) -> Study:
    return Study(extra={BASELINE: Baseline} if is_baseline else {})


@cache
def _parsed(text: str) -> Settings:
    """Every setting but seed and folder, from settings in JSON."""
    settings = json.loads(text)
    for group in _GROUPS:
        if not isinstance(settings.get(group, {}), dict):
            raise RunError(f"{group} must be a mapping of settings, got {settings[group]!r}.")
    study = _study(BASELINE in settings)
    study.read(settings)
    config = study.settings()
    return {key: config[key] for key in config if key not in ("run", "seed_everything")}


def _axes(grid: Settings, points: Sequence[Settings]) -> dict[str, dict[str, Settings]]:
    """The axes of a grid, `key: values` or `name: {key, values}`, or the one of points."""
    if grid and points:
        raise RunError("an experiment has a grid or points, got both.")
    if points:
        return {"point": _points(points)}
    axes = {}
    for name, axis in grid.items():
        is_named = isinstance(axis, dict) and "key" in axis
        key, values = (axis["key"], axis.get("values")) if is_named else (name, axis)
        if not isinstance(values, list | dict) or not values or not isinstance(key, str):
            raise RunError(f"grid.{name} must be a list of values or a mapping label: value.")
        pairs = values.items() if isinstance(values, dict) else [(label_of(v), v) for v in values]
        labeled: dict[str, Settings] = {str(label): {key: value} for label, value in pairs}
        if len(labeled) < len(values):
            raise RunError(f"grid.{name} must have different values, got {list(values)}.")
        axes[name if is_named else short_name(name, grid)] = labeled
    return axes


def _points(points: Sequence[Settings]) -> dict[str, Settings]:
    """Points by label."""
    keys = list(points[0])
    values = {
        ",".join(f"{short_name(key, keys)}={label_of(point[key])}" for key in point): point
        for point in points
    }
    if not keys or any(list(point) != keys for point in points) or len(values) < len(points):
        raise RunError("points must set values of the same keys, and be different.")
    return values


def short_name(key: str, keys: Collection[str]) -> str:
    """The last words of a dotted key, as few as tell it apart from the others."""
    parts = key.split(".")
    ends = (".".join(parts[-length:]) for length in range(1, len(parts)))
    return next((e for e in ends if sum(f".{k}".endswith(f".{e}") for k in keys) == 1), key)


def label_of(value: object) -> str:
    """A value as the text of a label: as YAML writes it, list entries with commas."""
    if isinstance(value, list):
        return ",".join(label_of(entry) for entry in value)
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def nested(key: str, value: object) -> dict[str, Any]:
    """{a: {b: value}} from the dotted key a.b."""
    first, _, rest = key.partition(".")
    return {first: nested(rest, value) if rest else value}


def merged(below: Settings, above: Settings) -> dict[str, Any]:
    """Two nested mappings, the second over the first; another class drops the first's arguments."""
    changes_class = "class_path" in above and above["class_path"] != below.get("class_path")
    result = {k: v for k, v in below.items() if not (changes_class and k == "init_args")}
    for key, value in above.items():
        known = result.get(key)
        both = isinstance(known, dict) and isinstance(value, dict)
        result[key] = merged(known, value) if both else value  # type: ignore[arg-type]
    return result


def _check(experiment: Experiment) -> None:
    """Refuses empty lists, names that cannot be folders, unfair tuning, scaling without axes."""
    seeds = {"seeds": experiment.seeds, "tuning.seeds": experiment.tuning.seeds}
    for key, values in {"metrics": experiment.metrics, **seeds}.items():
        if not values or len(set(values)) < len(values):
            raise RunError(f"{key} must be a list of different values, got {values}.")
    for key, numbers in seeds.items():
        if max(numbers) > _MAX_SEED:
            raise RunError(f"{key} must be at most {_MAX_SEED}, got {max(numbers)}.")
        is_range = numbers == sorted(numbers) and numbers[-1] - numbers[0] == len(numbers) - 1
        if experiment.replicas and not is_range:
            raise RunError(f"{key} must be consecutive with replicas, got {numbers}.")
    axes = experiment.axes
    labels = [label for axis in axes if axis != "point" for label in axes[axis]]
    for name in [*filter(None, experiment.learners), *axes, *labels]:
        is_plain = name == name.strip() and name.isprintable() and not name.startswith(".")
        if not name or not is_plain or any(sign in name for sign in "/\\=") or name in _COLUMNS:
            raise RunError(
                "names of learners, axes and labels must be plain text without / and =, and not "
                f"columns of the table, got {name!r}."
            )
    for name, block in experiment.learners.items():
        _check_learner(experiment, name, block)
    _check_axes(experiment)


def _check_learner(experiment: Experiment, name: str, block: Settings) -> None:
    tune = block.get(TUNE, {}) if isinstance(block, dict) else None
    lists = list(tune.values()) if isinstance(tune, dict) else [None]
    if not all(isinstance(v, list) and 0 < len(v) == len({*map(str, v)}) for v in lists):
        raise RunError(
            f"learners.{name} must be a mapping of settings, and its tune must map dotted keys "
            "to lists of different values."
        )
    if TUNE_WITH in block and not (lists and isinstance(block[TUNE_WITH], dict)):
        raise RunError(f"learners.{name}.tune_with must be a mapping of settings beside tune.")
    if {*_SET_BY_EXPERIMENT} & set(block):
        raise RunError(f"learners.{name} must not set {', '.join(_SET_BY_EXPERIMENT)}.")
    count, tuning = num_trials(block), experiment.tuning
    if tuning.trials not in (None, count):
        raise RunError(
            f"learners.{name} must have {tuning.trials} trials (tuning.trials), got {count}."
        )
    both = set(tuning.seeds) & set(experiment.seeds)
    if count and both:
        raise RunError(f"tuning.seeds must not be among seeds, got {min(both)} in both.")


def _check_axes(experiment: Experiment) -> None:
    """Refuses published values and scaling that do not fit the axes."""
    axes = {name: list(labels) for name, labels in experiment.axes.items()}
    scaling = experiment.scaling
    for metric, ranges in experiment.published.items():
        if metric not in experiment.metrics:
            hint = did_you_mean(metric, experiment.metrics)
            raise RunError(f"published must give values of `metrics`, got {metric!r}.{hint}")
        is_full = [*map(len, axes.values())] == [len(ranges)]
        if not is_full or any(lowest > highest for lowest, highest in ranges):
            raise RunError(
                "published must give [lowest, highest] of a metric for each value of the axis, "
                f"got {metric}: {ranges}."
            )
    if scaling is None:
        return
    for what, name in (("dimension", scaling.dimension), ("samples", scaling.samples)):
        numbers = pd.to_numeric(pd.Series(axes.pop(name, [])), errors="coerce")
        if len(numbers) < 2 or not numbers.between(0, math.inf, inclusive="neither").all():
            raise RunError(
                f"scaling.{what} must be an axis of at least two positive numbers, got {name!r}."
            )
    if any(len(labels) > 1 for labels in axes.values()):
        raise RunError(f"axes beside those of scaling must have one value, got {list(axes)}.")
