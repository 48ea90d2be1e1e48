"""Which runs are trained together, as replicas in one process, and in what they differ."""

import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from bfc_lightning.experiments.plan import PlannedRun
from bfc_lightning.runs.identity import flatten
from bfc_lightning.runs.overrides import SEED, may_differ

MOST = 16
"""Runs of a group: a step of one takes 0.16 ms among 5, 0.12 among 15, 0.11 among 60 (`tiny`)."""
_STEP = 2_500_000  # multiplications in the time that the smallest step takes
_SLACK = 0.1  # of a worker's share, as work is known roughly
_MOST_OF_NAME = 100  # bytes; a run's name may have 230
# What is another run's own, and changes no number.
_NAMES = ("run.", "resume")
# Where a Trainer has these, a run may end at another step or write elsewhere than it would alone.
_TRAINER_KEYS = ("callbacks", "logger", "max_time", "profiler")
_OWN_OPTIONS = ("--seed_everything", "--run.name")

Commands = Callable[[PlannedRun], list[list[str]]]
ReadFit = Callable[[Sequence[str]], Mapping[str, Any] | None]
"""All settings that the words after `bfc fit` mean, or None where they are refused."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but seeds and what else replicas may differ in.

    Args:
        runs: two or more; in a plan one, where it is to be trained alone.
        overrides: the `replica_overrides`: the seed of each run, and what else is not the same.
        mark: of all settings of all runs: another where one of them has changed.
    """

    runs: tuple[PlannedRun, ...]
    overrides: tuple[Mapping[str, Any], ...]
    mark: str

    @property
    def name(self) -> str:
        """Of the folder of the replicas, the same for the same runs with the same settings only."""
        point = self.runs[0].point.name.encode()[:_MOST_OF_NAME].decode(errors="ignore")
        return f"{point}-{len(self.runs)}runs-{self.mark}"


@dataclass(frozen=True)
class _Settings:
    """What `bfc fit` is told.

    Attributes:
        shared: what is equal in all runs of a group, as a text.
        own: what may differ, by dotted key.
        is_alone: whether replicas would not be what the run is alone.
        work: about how long it takes, in units of its own.
    """

    shared: str
    own: Mapping[str, Any]
    is_alone: bool
    work: float


class Grouping:
    """Groups runs by what `bfc fit` makes of their words, not by the words themselves.

    Configs are laid over each other, classes replaced and values converted as in the runs, so that
    a setting is the same for both, wherever and however it is given.

    Args:
        commands: that make a run, the words after `bfc` of each; the first one trains.
        read_fit: parses what follows `fit`; asked once for all seeds.
    """

    def __init__(self, commands: Commands, read_fit: ReadFit) -> None:
        self._commands = commands
        self._read = cache(read_fit)
        self._settings = cache(self._read_settings)

    def groups(self, runs: Iterable[PlannedRun], num_workers: int) -> list[Group]:
        """Runs that may be trained together, shared out so that no worker goes without.

        Runs that can be together, and are about a worker's share of all the work or more, are
        spread over several.

        Args:
            runs: that have not been begun.
            num_workers: runs at a time.

        Returns:
            Groups, by the first of their runs. What is in none is trained alone.
        """
        alike: dict[str, list[PlannedRun]] = {}
        for run in runs:
            settings = self._settings(run)
            if not settings.is_alone:
                alike.setdefault(settings.shared, []).append(run)
        several = [each for each in alike.values() if len(each) > 1]
        size = min(MOST, max((len(each) for each in several), default=0))
        while size > 1 and sum(-(-len(each) // size) for each in several) < num_workers:
            size -= 1
        if size < 2:
            return []
        works = [len(each) * self._settings(each[0]).work for each in several]
        groups = []
        for each, work in zip(several, works, strict=True):
            shares = math.ceil(num_workers * work / sum(works) - _SLACK)
            count = max(math.ceil(len(each) / size), min(shares, len(each) // 2))
            parts = [part for part in _evenly(each, count) if len(part) > 1]
            groups += [group for part in parts if (group := self.group(part))]
        return groups

    def group(self, runs: Sequence[PlannedRun]) -> Group | None:
        """The group of some runs.

        Args:
            runs: one or more.

        Returns:
            The group, or None where they cannot be together.
        """
        found = [self._settings(run) for run in runs]
        first = found[0]
        if len(runs) > 1 and any(each.is_alone or each.shared != first.shared for each in found):
            return None
        keys = [
            key
            for key, value in first.own.items()
            if key == SEED or any(each.own[key] != value for each in found)
        ]
        told = [
            [run.name, each.shared, dict(each.own)] for run, each in zip(runs, found, strict=True)
        ]
        mark = f"{zlib.crc32(json.dumps(told, sort_keys=True).encode()):08x}"
        overrides = tuple({key: each.own[key] for key in keys} for each in found)
        return Group(tuple(runs), overrides, mark)

    def _read_settings(self, run: PlannedRun) -> _Settings:
        """What is asked of a run; it is alone where it is no `bfc fit` or one that is refused."""
        command, *words = self._commands(run)[0]
        given = self._read(tuple(_shared_words(words))) if command == "fit" else None
        shared, own = {}, {SEED: run.seed}
        for key, value in flatten({} if given is None else given).items():
            if may_differ(key, value):
                own[key] = run.seed if key == SEED else value
            elif not key.startswith(_NAMES):
                shared[key] = value
        told = json.dumps([shared, sorted(own)], sort_keys=True, default=str)
        if given is None:
            return _Settings(told, own, is_alone=True, work=0.0)
        return _Settings(told, own, _is_alone(given), _work(given))


def _shared_words(words: Sequence[str]) -> list[str]:
    """The words of a command that do not name one run."""
    pairs = zip(words[::2], words[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in _OWN_OPTIONS for word in pair]


def _is_alone(settings: Mapping[str, Any]) -> bool:
    is_watched = any(settings["trainer"][key] for key in _TRAINER_KEYS)
    scheme = settings["scheme"].get("init_args") or {}
    needs_autograd = (
        settings["training_path"] == "plain"
        or settings["model"]["linearized"]
        or scheme.get("control") not in (None, "restart")
    )
    return is_watched or needs_autograd


def _work(settings: Mapping[str, Any]) -> float:
    """About the multiplications of all steps, whatever the depth, with what the smallest costs."""
    width = settings["model"]["width"]
    neurons: int = sum(width) if isinstance(width, list) else width
    dim = settings["inputs"].get("init_args", {}).get("input_dim")
    inputs = neurons + (dim if isinstance(dim, int) else 0)  # laws of one's own may have any
    batch_size: int = settings["data"]["batch_size"]
    steps: int = settings["trainer"]["max_steps"]
    return float(max(1, steps) * (_STEP + batch_size * neurons * inputs))


def _evenly(runs: Sequence[PlannedRun], count: int) -> list[tuple[PlannedRun, ...]]:
    """So many parts, none more than one larger than another."""
    ends = [len(runs) * number // count for number in range(count + 1)]
    return [tuple(runs[start:stop]) for start, stop in itertools.pairwise(ends)]
