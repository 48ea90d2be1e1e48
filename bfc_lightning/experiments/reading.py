"""From the YAML of an experiment to the list of its runs, each fully resolved."""

import itertools
import json
import math
from argparse import ArgumentError
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import fields, replace
from functools import cache, partial, reduce
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
    trials_of,
)
from bfc_lightning.runs.config import Study
from bfc_lightning.runs.folder import LONGEST_NAME, RunError, named_folder
from bfc_lightning.runs.settings import digest, find_config, flatten, read_yaml

TUNE, TUNE_WITH, BASELINE = "tune", "tune_with", "baseline"
_RESERVED = ("run", "resume", "seed_everything")  # set by the experiment
_MAX_SEED = 2**32 - 1  # as in `bfc fit`, which seeds NumPy
# Settings that `Study.read` checks together.
_CHECKED_TOGETHER = {"trainer.val_check_interval", "trainer.accumulate_grad_batches"}
_COLUMNS = ("run", "learner", "seed", "status", "steps", "samples_seen", "wall_seconds", "trial")


def read_files(configs: Sequence[Path]) -> dict[str, Any]:
    """The content of an experiment's files, later ones over earlier ones; `base` as paths."""
    _require(configs, "a config must be given; try: bfc compare -c compare/schemes")
    source: dict[str, Any] = {}
    for path in configs:
        content = read_yaml(path)
        _require(
            not {"trainer", "model", "data", "inputs", "target"} & content.keys(),
            f"{path} is a config of bfc fit; name it in `base` of an experiment.",
        )
        if content.get("base"):
            names = map(str, _as_list(content["base"]))
            content["base"] = [str(find_config(name, path.parent)) for name in names]
        source = merged(source, content)
    return source


def make_experiment(given: Namespace, command: str) -> Experiment:
    """The experiment that parsed settings describe, in its folder."""
    source = ExperimentFile(**{each.name: given[each.name] for each in fields(ExperimentFile)})
    _require(source.base, "base must name at least one config.")
    settings = reduce(merged, (read_yaml(Path(path)) for path in source.base))
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
    _require(
        (folder / mark).is_file() or not any(folder.glob("[!.]*")),
        f"{folder} holds something else: choose another run.name.",
    )
    return folder


def expand(experiment: Experiment) -> list[RunSpec]:
    """Every run of the experiment: those of the tuning, and its own, seed by seed."""
    trials, runs = [], []
    for learner, block in experiment.learners.items():
        own = {key: value for key, value in block.items() if key not in (TUNE, TUNE_WITH)}
        settings = merged(experiment.settings, own)
        for point in itertools.product(*(axis.items() for axis in experiment.axes.values())):
            labels = dict(zip(experiment.axes, (label for label, _ in point), strict=True))
            values = {key: value for _, given in point for key, value in given.items()}
            for trial, tried in (trials_of(block) or {"": {}}).items():
                make = partial(_runs, experiment, settings, learner, labels, trial)
                changes = {**values, **tried}
                runs += make(changes)
                if trial:
                    trials += make({**changes, **block.get(TUNE_WITH, {})}, is_trial=True)
    runs = trials + sorted(runs, key=lambda run: experiment.seeds.index(run.seed))
    counts = Counter(map(_shape, runs))
    return [replace(run, num_alike=counts[_shape(run)]) for run in runs]


def _shape(run: RunSpec) -> str:
    """What determines the shape of a training step, roughly: enough to count what is alike."""
    config = run.config
    model = [config["model"].get(key) for key in ("width", "depth", "activation")]
    inputs = config["inputs"]["init_args"].get("input_dim")
    return str([model, inputs, config["data"]["batch_size"], run.num_seeds])


def _runs(
    experiment: Experiment,
    settings: Settings,
    learner: str,
    labels: Mapping[str, str],
    trial: str,
    changes: Settings,
    *,
    is_trial: bool = False,
) -> list[RunSpec]:
    """The runs at a point: one for each seed, or one with a replica for each."""
    seeds = experiment.tuning.seeds if is_trial else experiment.seeds
    parts = [learner, *(f"{axis}={label}" for axis, label in labels.items())]
    parts += [f"{'trial' if is_trial else 'tuned'}({trial})"] if trial else []
    stem = "-".join(filter(None, parts)) or "run"
    try:
        _require(
            len(f"{stem}-seeds{seeds[0]}-{max(seeds)}".encode()) <= LONGEST_NAME,
            "the name of the run is too long: use shorter labels.",
        )
        config = _resolved(settings, changes)
        is_trained, model = BASELINE not in config, dict(config["model"])
        _require(model["num_replicas"] == 1, "model.num_replicas must be 1: use `replicas`.")
        if not is_trained:
            model["init_scale"] = baseline_init_scale(model["init_scale"])
            _require(
                config["data"]["num_train_samples"] is not None,
                "data.num_train_samples must be given for a baseline.",
            )
    except (ArgumentError, ValueError) as error:
        raise ArgumentError(None, f"{error}\n(run {stem})") from error
    count = len(seeds) if experiment.replicas and is_trained else 1
    config = {**config, "model": {**model, "num_replicas": count}}
    return [
        RunSpec(
            stem=stem,
            seed=seed,
            config=config,
            digest=digest({**config, "seed_everything": seed}),
            learner=learner,
            labels=labels,
            trial=trial,
            num_seeds=count,
            is_trial=is_trial,
            is_tested=experiment.test and is_trained and not is_trial,
        )
        for seed in seeds[::count]
    ]


def _resolved(settings: Settings, changes: Settings) -> Settings:
    """Every setting but seed and folder, with other values of dotted keys."""
    for key in changes:
        _require(
            key.split(".")[0] not in _RESERVED, f"{key} must not be set: use `seeds` or `run`."
        )
    whole = _changed(settings, changes)
    numbers = {key: value for key, value in changes.items() if _is_number(value)}
    others = {key: value for key, value in changes.items() if key not in numbers}
    base = _changed(settings, others)
    # Parsing everything takes 40 ms. Many points differ in numbers, which take 10 ms by themselves.
    with suppress(ArgumentError, ValueError):  # without the numbers, something may be missing
        parsed = _parsed(_as_json(base))
        can_be_changed = flatten(parsed).keys() - _CHECKED_TOGETHER
        if numbers.keys() <= can_be_changed and _changed(base, numbers) == whole:
            return _with_numbers(parsed, numbers)
    return _parsed(_as_json(whole))


def _is_number(value: object) -> bool:
    """Whether the class of a setting cannot depend on a value: numbers, flags, lists of them."""
    return all(isinstance(each, int | float) for each in _as_list(value))


def _with_numbers(parsed: Settings, numbers: Settings) -> Settings:
    """Parsed settings with other numbers; only the groups of these are parsed again."""
    groups = {"inputs", "target", BASELINE, *(key.partition(".")[0] for key in numbers)}
    given = _changed({group: parsed[group] for group in groups & parsed.keys()}, numbers)
    parser = _study(BASELINE in parsed).parser
    found = parser.parse_object(deepcopy(given), defaults=False)  # which it changes
    return _changed(parsed, {key: json.loads(_as_json(found[key])) for key in numbers})


def _changed(settings: Settings, values: Settings) -> dict[str, Any]:
    """Settings with other values of dotted keys."""
    return reduce(merged, (nested(key, value) for key, value in values.items()), dict(settings))


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _as_json(settings: object) -> str:
    return json.dumps(settings, default=str)


@cache
def _study(is_baseline: bool) -> Study:
    return Study(extra={BASELINE: Baseline} if is_baseline else {})


@cache
def _parsed(text: str) -> Settings:
    """Every setting but seed and folder, from settings in JSON."""
    settings = json.loads(text)
    study = _study(BASELINE in settings)
    study.read(settings)
    config = study.settings()
    return {key: config[key] for key in config if key not in ("run", "seed_everything")}


def _axes(grid: Settings, points: Sequence[Settings]) -> dict[str, dict[str, Settings]]:
    """The axes of a grid, `key: values` or `name: {key, values}`, or the one of points."""
    _require(not (grid and points), "an experiment has a grid or points, got both.")
    if points:
        return {"point": _points(points)}
    axes = {}
    for name, axis in grid.items():
        is_named = isinstance(axis, dict) and "key" in axis
        key, values = (axis["key"], axis.get("values")) if is_named else (name, axis)
        _require(
            isinstance(values, list | dict) and values and isinstance(key, str),
            f"grid.{name} must be a list of values or a mapping label: value.",
        )
        pairs = values.items() if isinstance(values, dict) else [(label_of(v), v) for v in values]
        labeled: dict[str, Settings] = {str(label): {key: value} for label, value in pairs}
        _require(len(labeled) == len(values), f"grid.{name} must have different values.")
        axes[name if is_named else short_name(name, grid)] = labeled
    return axes


def _points(points: Sequence[Settings]) -> dict[str, Settings]:
    """Points by label."""
    keys = list(points[0])
    values = {
        ",".join(f"{short_name(key, keys)}={label_of(point[key])}" for key in point): point
        for point in points
    }
    _require(
        keys and all(list(point) == keys for point in points) and len(values) == len(points),
        "points must set values of the same keys, and be different.",
    )
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


def _require(is_met: object, text: str) -> None:
    if not is_met:
        raise RunError(text)


def _check(experiment: Experiment) -> None:
    """Refuses empty lists, names that cannot be folders, unfair tuning, scaling without axes."""
    seeds = {"seeds": experiment.seeds, "tuning.seeds": experiment.tuning.seeds}
    for key, values in {"metrics": experiment.metrics, **seeds}.items():
        _require(
            0 < len(values) == len(set(values)),
            f"{key} must be a list of different values, got {values}.",
        )
    for key, numbers in seeds.items():
        _require(
            max(numbers) <= _MAX_SEED, f"{key} must be at most {_MAX_SEED}, got {max(numbers)}."
        )
        consecutive = [*range(numbers[0], numbers[0] + len(numbers))]
        _require(
            numbers == consecutive or not experiment.replicas,
            f"{key} must be consecutive with replicas, got {numbers}.",
        )
    labels = [
        label for axis in experiment.axes if axis != "point" for label in experiment.axes[axis]
    ]
    for name in [*filter(None, experiment.learners), *experiment.axes, *labels]:
        is_plain = name == name.strip() and name.isprintable() and not name.startswith(".")
        _require(
            name and is_plain and not {*"/\\="} & {*name} and name not in _COLUMNS,
            "names of learners, axes and labels must be plain text without / and =, and not "
            f"columns of the table, got {name!r}.",
        )
    for name, block in experiment.learners.items():
        _check_learner(experiment, f"learners.{name}", block)
    _check_axes(experiment)


def _check_learner(experiment: Experiment, name: str, block: Settings) -> None:
    tune = block.get(TUNE, {}) if isinstance(block, dict) else None
    lists = tune.values() if isinstance(tune, dict) else [None]
    _require(
        all(isinstance(v, list) and 0 < len(v) == len({*map(str, v)}) for v in lists),
        f"{name} must be a mapping of settings, and tune one of keys to lists of different values.",
    )
    _require(
        TUNE_WITH not in block or (tune and isinstance(block[TUNE_WITH], dict)),
        f"{name}.tune_with must be a mapping of settings beside tune.",
    )
    _require(not {*_RESERVED} & block.keys(), f"{name} must not set {', '.join(_RESERVED)}.")
    count, tuning = len(trials_of(block)), experiment.tuning
    _require(
        tuning.trials in (None, count),
        f"{name} must have {tuning.trials} trials (tuning.trials), got {count}.",
    )
    both = sorted({*tuning.seeds} & {*experiment.seeds})
    _require(not (count and both), f"tuning.seeds must not be among seeds, got {both} in both.")


def _check_axes(experiment: Experiment) -> None:
    """Refuses published values and scaling that do not fit the axes."""
    axes = {name: list(labels) for name, labels in experiment.axes.items()}
    for metric, ranges in experiment.published.items():
        _require(
            metric in experiment.metrics
            and [*map(len, axes.values())] == [len(ranges)]
            and all(lowest <= highest for lowest, highest in ranges),
            "published must give [lowest, highest] of one of `metrics` for each value of the only "
            f"axis, got {metric}: {ranges}.",
        )
    if experiment.scaling is None:
        return
    for key in ("dimension", "samples"):
        name = getattr(experiment.scaling, key)
        numbers = pd.to_numeric(pd.Series(axes.pop(name, [])), errors="coerce")
        _require(
            len(numbers) > 1 and numbers.between(0, math.inf, inclusive="neither").all(),
            f"scaling.{key} must be an axis of at least two positive numbers, got {name!r}.",
        )
    _require(
        all(len(labels) == 1 for labels in axes.values()),
        f"axes beside those of scaling must have one value, got {list(axes)}.",
    )
