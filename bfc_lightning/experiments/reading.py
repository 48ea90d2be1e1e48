"""From the YAML of an experiment to the list of its runs, each fully resolved."""

import itertools
import json
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from bfc_lightning.baselines import Baseline
from bfc_lightning.experiments.spec import (
    Axis,
    Experiment,
    ExperimentFile,
    ExperimentOptions,
    RunSpec,
    trial_name,
)
from bfc_lightning.runs.config import Study, digest
from bfc_lightning.runs.folder import LONGEST_NAME, RunError
from bfc_lightning.runs.yaml_files import find_config, read_yaml

TUNE, TUNE_WITH, BASELINE = "tune", "tune_with", "baseline"
_COLUMNS = ("run", "learner", "seed", "status", "steps", "samples_seen", "wall_seconds", "trial")

Settings = Mapping[str, Any]


def experiment_parser() -> ArgumentParser:
    """A parser of the keys of an experiment's file."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_class_arguments(ExperimentFile)
    return parser


def read_files(configs: Sequence[Path]) -> dict[str, Any]:
    """The content of an experiment's files, later ones over earlier ones; `base` as paths."""
    source: dict[str, Any] = {}
    for path in configs:
        content = read_yaml(path)
        if "base" in content:
            names = content["base"] if isinstance(content["base"], list) else [content["base"]]
            content["base"] = [str(find_config(str(name), path.parent)) for name in names]
        source = merged(source, content)
    return source


def make_experiment(given: Namespace) -> tuple[Experiment, ExperimentOptions]:
    """The experiment that parsed settings describe, and its folder."""
    if not given.base:
        raise RunError("base must name at least one config.")
    for group in ("tuning", "limits", "run"):
        if not isinstance(given[group], Namespace):
            raise RunError(f"{group} must be a mapping of settings, got {given[group]!r}.")
    base: Settings = {}
    for path in given.base:
        base = merged(base, read_yaml(Path(path)))
    built = experiment_parser().instantiate(given)
    source = {
        **{key: value for key, value in vars(given).items() if not isinstance(value, Namespace)},
        **{key: asdict(built[key]) for key in ("tuning", "limits", "run")},
        "scaling": built.scaling and asdict(built.scaling),
    }
    experiment = Experiment(
        base={key: value for key, value in base.items() if key != "run"},
        learners={str(name): block or {} for name, block in given.learners.items()} or {"": {}},
        axes=_axes(given.grid, given.points),
        seeds=tuple(given.seeds),
        metrics=tuple(given.metrics),
        tuning=built.tuning,
        limits=built.limits,
        scaling=built.scaling,
        test=given.test,
        workers=given.workers,
        threads=built.run.threads,
        source=source,
    )
    _check(experiment)
    return experiment, built.run


def expand(experiment: Experiment) -> tuple[list[RunSpec], list[RunSpec]]:
    """Every run of the experiment: those of the tuning, and its own, seed by seed.

    A learner that is tuned has one run for every trial among its own; `chosen_runs` selects.
    """
    resolve = _Resolver()
    trials, runs = [], []
    for learner, block in experiment.learners.items():
        tried = _trials(block)
        for labels, values in _points(experiment.axes):
            for trial in tried or [{}]:
                make = partial(resolve, learner=learner, labels=labels, trial=trial)
                if tried:
                    tuned = _layered(experiment, block, values, trial, block.get(TUNE_WITH, {}))
                    seeds = experiment.tuning.seeds
                    trials += [make(tuned, seed, is_trial=True) for seed in seeds]
                settings = _layered(experiment, block, values, trial)
                runs += [make(settings, seed) for seed in experiment.seeds]
    order = {seed: number for number, seed in enumerate(experiment.seeds)}
    return trials, sorted(runs, key=lambda run: order[run.seed])


def chosen_runs(runs: Iterable[RunSpec], chosen: Mapping[Any, Settings]) -> list[RunSpec]:
    """The runs of the trials that won, and those of learners that are not tuned."""
    return [run for run in runs if not run.trial or chosen.get(run.point) == run.trial]


class _Resolver:
    """Makes runs from settings; settings that differ only in the seed are parsed once."""

    def __init__(self) -> None:
        self._studies = {False: Study(), True: Study(extra={BASELINE: Baseline})}
        self._configs: dict[str, dict[str, Any]] = {}

    def __call__(
        self,
        settings: Settings,
        seed: int,
        *,
        learner: str,
        labels: Mapping[str, str],
        trial: Settings,
        is_trial: bool = False,
    ) -> RunSpec:
        parts = [*filter(None, [learner]), *(f"{axis}={label}" for axis, label in labels.items())]
        if trial:
            parts.append(f"{'trial' if is_trial else 'tuned'}({trial_name(trial)})")
        stem = "-".join(parts) or "run"
        if len(f"{stem}-seed{seed}".encode()) > LONGEST_NAME:
            raise RunError(f"the name of run {stem}-seed{seed} is too long: use shorter labels.")
        config = self._config(settings, stem)
        return RunSpec(
            name=f"{stem}-seed{seed}",
            learner=learner,
            labels=labels,
            seed=seed,
            config=config,
            digest=digest({**config, "seed_everything": seed}),
            is_baseline=BASELINE in settings,
            trial=trial,
            is_trial=is_trial,
        )

    def _config(self, settings: Settings, stem: str) -> dict[str, Any]:
        key = json.dumps(settings, sort_keys=True, default=str)
        if key not in self._configs:
            is_baseline = BASELINE in settings
            study = self._studies[is_baseline]
            try:
                study.read(settings)
            except (ArgumentError, ValueError) as error:
                raise RunError(f"run {stem}: {error}") from error
            if study.config.model.num_replicas != 1:
                raise RunError("model.num_replicas must be 1 in an experiment, which has seeds.")
            config = study.settings()
            if is_baseline and config["model"]["init_scale"] is None:
                config["model"]["init_scale"] = 1.0
            kept = (key for key in config if key not in ("run", "seed_everything"))
            self._configs[key] = {key: config[key] for key in kept}
        return self._configs[key]


def _layered(experiment: Experiment, block: Settings, *layers: Settings) -> dict[str, Any]:
    """Base, learner, values of the grid and trial, each overriding the one before."""
    own = {key: value for key, value in block.items() if key not in (TUNE, TUNE_WITH)}
    settings = merged(experiment.base, own)
    for layer in layers:
        for key, value in layer.items():
            settings = merged(settings, nested(key, value))
    return settings


def _trials(block: Settings) -> list[dict[str, Any]]:
    """Every combination of the values of `tune`; none without it."""
    tune = block.get(TUNE) or {}
    combinations = itertools.product(*tune.values()) if tune else []
    return [dict(zip(tune, values, strict=True)) for values in combinations]


def _points(axes: Sequence[Axis]) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Labels and values of every point; the last axis varies fastest."""
    names = [axis.name for axis in axes]
    found = []
    for pairs in itertools.product(*(axis.values.items() for axis in axes)):
        labels = dict(zip(names, (label for label, _ in pairs), strict=True))
        found.append((labels, {key: v for _, values in pairs for key, v in values.items()}))
    return found


def _axes(grid: Settings, points: Sequence[Settings]) -> tuple[Axis, ...]:
    """The axes of a grid, `key: values` or `name: {key, values}`, or the one of points."""
    if grid and points:
        raise RunError("an experiment has a grid or points, got both.")
    if points:
        return (_axis_of_points(points),)
    named = {name for name, axis in grid.items() if isinstance(axis, dict) and "key" in axis}
    short = short_names(name for name in grid if name not in named)
    axes = []
    for name, axis in grid.items():
        key, values = (axis["key"], axis.get("values")) if name in named else (name, axis)
        if not isinstance(values, list | dict) or not values:
            raise RunError(f"grid.{name} must be a list of values or a mapping label: value.")
        pairs = values.items() if isinstance(values, dict) else [(label_of(v), v) for v in values]
        labeled = {str(label): {key: value} for label, value in pairs}
        if len(labeled) < len(values):
            raise RunError(f"grid.{name} must have different values, got {list(values)}.")
        axes.append(Axis(short.get(name, name), labeled))
    return tuple(axes)


def _axis_of_points(points: Sequence[Settings]) -> Axis:
    keys = list(points[0])
    names = short_names(keys)
    values = {
        ",".join(f"{names.get(key, key)}={label_of(v)}" for key, v in point.items()): dict(point)
        for point in points
    }
    if any(list(point) != keys for point in points) or len(values) < len(points):
        raise RunError("points must all have the same keys, and be different.")
    return Axis("point", values)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last words of each dotted key, as few as tell it apart from the others."""
    lengths = dict.fromkeys(keys, 1)
    while True:
        names = {key: ".".join(key.split(".")[-length:]) for key, length in lengths.items()}
        repeated = [key for key in names if list(names.values()).count(names[key]) > 1]
        if not repeated:
            return names
        lengths.update({key: lengths[key] + 1 for key in repeated})


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
    for name in ("seeds", "metrics"):
        values = getattr(experiment, name)
        if not values or len(set(values)) < len(values):
            raise RunError(f"{name} must be a list of different values, got {list(values)}.")
    if max((*experiment.seeds, *experiment.tuning.seeds)) >= 2**32:
        raise RunError(f"seeds must be in [0, 2^32), got {max(experiment.seeds)}.")
    labels = [label for axis in experiment.axes for label in axis.values if axis.name != "point"]
    for name in [*filter(None, experiment.learners), *(a.name for a in experiment.axes), *labels]:
        is_plain = name == name.strip() and name.isprintable() and not name.startswith(".")
        if not name or not is_plain or any(sign in name for sign in "/\\=") or name in _COLUMNS:
            raise RunError(
                "names of learners, axes and labels must be plain text without / and =, and not "
                f"columns of the table, got {name!r}."
            )
    _check_tuning(experiment)
    _check_scaling(experiment)


def _check_tuning(experiment: Experiment) -> None:
    counts = {}
    for name, block in experiment.learners.items():
        tune = block.get(TUNE, {}) if isinstance(block, dict) else None
        if not isinstance(tune, dict) or not all(isinstance(v, list) and v for v in tune.values()):
            raise RunError(
                f"learners.{name} must be a mapping of settings, and its tune must map dotted keys "
                "to lists of values."
            )
        counts[name] = len(_trials(block))
        if {"run", "resume", "seed_everything"} & set(block):
            raise RunError(f"learners.{name} must not set run, resume or seed_everything.")
    if not isinstance(experiment.tuning.metric, str):
        raise RunError(f"tuning.metric must be text, got {experiment.tuning.metric!r}.")
    wanted = experiment.tuning.trials
    for name, count in counts.items():
        if wanted not in (None, count):
            raise RunError(
                f"learners.{name} must have {wanted} trials (tuning.trials), got {count}."
            )
    both = set(experiment.tuning.seeds) & set(experiment.seeds)
    if any(counts.values()) and both:
        raise RunError(f"tuning.seeds must not be among seeds, got {min(both)} in both.")


def _check_scaling(experiment: Experiment) -> None:
    scaling = experiment.scaling
    if scaling is None:
        return
    axes = {axis.name: list(axis.values) for axis in experiment.axes}
    for what, name in (("dimension", scaling.dimension), ("samples", scaling.samples)):
        labels = axes.pop(name, [])
        if len(labels) < 2 or not all(_is_positive(label) for label in labels):
            raise RunError(
                f"scaling.{what} must be an axis of at least two positive numbers, got {name!r}."
            )
    if any(len(labels) > 1 for labels in axes.values()):
        raise RunError(f"axes beside those of scaling must have one value, got {list(axes)}.")


def _is_positive(label: str) -> bool:
    try:
        return 0 < float(label) < float("inf")
    except ValueError:
        return False
