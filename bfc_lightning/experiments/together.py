"""Which runs are trained together, as replicas in one process, and what that takes."""

import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bfc_lightning.experiments.plan import PlannedRun, Point
from bfc_lightning.experiments.settings import RUNS, TOGETHER, merged, nested
from bfc_lightning.files import write_atomically

AND = "&&"
ALSO = ";"
PLAN = "plan.json"
SPLIT = "split"
"""What a worker is told, to make a run folder of each replica: run folder, root, names."""
_CONFIG = "-c"
# Where a Trainer has these, a run may end at another step or write elsewhere than it would alone.
_TRAINER_KEYS = ("callbacks", "logger", "max_time", "profiler")

Commands = Callable[[PlannedRun], list[list[str]]]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed.

    Args:
        runs: two or more; in a plan one, where it is to be trained alone.
    """

    runs: tuple[PlannedRun, ...]

    @property
    def name(self) -> str:
        """Of the folder of the replicas, the same for the same seeds only."""
        seeds = ",".join(str(run.seed) for run in self.runs)
        mark = f"{zlib.crc32(seeds.encode()):08x}"
        return f"{self.runs[0].point.name}-{len(self.runs)}seeds-{mark}"


@dataclass(frozen=True)
class KeptPlan:
    """Who is trained with whom, in a file, so that a stopped experiment goes on as it was begun.

    Seeds that are trained with others, or alone, get numbers that are equal only to rounding.

    Args:
        path: of the file; there is one while an experiment is not at its end.
    """

    path: Path

    def read(self, runs: Iterable[PlannedRun]) -> list[Group]:
        """What was planned of some runs; what takes part in more than these is forgotten."""
        known = {run.name: run for run in runs}
        whole = [names for names in self._parts() if known.keys() >= set(names)]
        return [Group(tuple(known[name] for name in names)) for names in whole]

    def write(self, groups: Iterable[Group]) -> None:
        """Keeps a plan in place of the one before."""
        self.path.parent.mkdir(exist_ok=True)
        self._write([[run.name for run in group.runs] for group in groups])

    def part(self, group: Group) -> None:
        """Plans the runs of a group to be trained alone, each by itself."""
        names = [run.name for run in group.runs]
        others = [part for part in self._parts() if part != names]
        self._write([*others, *([name] for name in names)])

    def _write(self, parts: list[list[str]]) -> None:
        write_atomically(self.path, json.dumps(parts, indent=1) + "\n")

    def _parts(self) -> list[list[str]]:
        try:
            parts: list[list[str]] = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        return parts


def groups_of(runs: Iterable[PlannedRun], commands: Commands, num_workers: int) -> list[Group]:
    """Runs that may be trained together, as many at a time as leave no worker without.

    Args:
        runs: that have not been begun; those of the tuning are trained alone.
        commands: that make a run, the words after `bfc` of each.
        num_workers: runs at a time.

    Returns:
        Groups, by the first of their runs. What is in none is trained alone.
    """
    by_point: dict[Point, list[PlannedRun]] = {}
    for run in runs:
        if run.trial is None:
            by_point.setdefault(run.point, []).append(run)
    several = [each for each in by_point.values() if len(each) > 1 and _is_fit(commands(each[0]))]
    size = max((len(each) for each in several), default=0)
    while several and size > 1 and sum(-(-len(each) // size) for each in several) < num_workers:
        size -= 1
    parts = [Group(part) for each in several for part in _evenly(each, size)]
    return [part for part in parts if len(part.runs) > 1]


def _evenly(runs: Sequence[PlannedRun], size: int) -> list[tuple[PlannedRun, ...]]:
    """Parts of at most a size, none more than one larger than another."""
    count = -(-len(runs) // size)
    ends = [len(runs) * number // count for number in range(count + 1)]
    return [tuple(runs[start:stop]) for start, stop in itertools.pairwise(ends)]


def group_words(group: Group, commands: Commands, folder: Path) -> tuple[str, ...]:
    """What a worker is told, to train a group and leave the folders that its runs would have left.

    Args:
        group: the runs.
        commands: that make a run; the first one is its `fit`.
        folder: of the experiment.

    Returns:
        Words; commands between `;` are done whatever became of those before them, those after `&&`
        only where all before succeeded.
    """
    replicas = {
        "run.root": str(folder / TOGETHER),
        "run.name": group.name,
        "model.num_replicas": str(len(group.runs)),
        "replica_overrides": json.dumps([{"seed_everything": run.seed} for run in group.runs]),
    }
    fit, *_ = commands(group.runs[0])
    fit = [*fit, *(word for key, value in replicas.items() for word in (f"--{key}", value))]
    names = [run.name for run in group.runs]
    split = [SPLIT, str(folder / TOGETHER / group.name), str(folder / RUNS), *names]
    rest = [command for run in group.runs for command in commands(run)[1:]]
    words = [*fit, AND, *split]
    if rest:
        words += [AND, *joined(rest, ALSO)]
    return tuple(words)


def joined(commands: Iterable[Sequence[str]], sign: str = AND) -> tuple[str, ...]:
    """The words of several commands in one row, with a sign between them."""
    words = [word for command in commands for word in (sign, *command)]
    return tuple(words[1:])


def parted(words: Sequence[str], sign: str) -> list[list[str]]:
    """The words between one sign and the next."""
    parts: list[list[str]] = [[]]
    for word in words:
        if word == sign:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _is_fit(commands: Sequence[Sequence[str]]) -> bool:
    """Whether a run is a `bfc fit` whose replicas would be what it is alone."""
    command, *words = commands[0]
    if command != "fit":
        return False
    settings = _settings(words)
    model, trainer = settings.get("model") or {}, settings.get("trainer") or {}
    is_watched = any(trainer.get(key) for key in _TRAINER_KEYS)
    is_slow = settings.get("training_path") == "plain" or bool(model.get("linearized"))
    return not is_watched and not is_slow


def _settings(words: Sequence[str]) -> Mapping[str, Any]:
    """The configs and options of a command, laid over each other, as they stand there."""
    settings: dict[str, Any] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name == _CONFIG:
            given = yaml.safe_load(Path(value).read_text(encoding="utf-8")) or {}
        else:
            given = nested(name.removeprefix("--"), yaml.safe_load(value))
        settings = merged(settings, given)
    return settings
