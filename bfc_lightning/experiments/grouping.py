"""Which runs are trained together, as replicas in one process, and in what they differ."""

import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

from jsonargparse import get_loader

from bfc_lightning.experiments.plan import PlannedRun
from bfc_lightning.experiments.settings import merged, nested
from bfc_lightning.runs.identity import flatten
from bfc_lightning.runs.overrides import SEED, is_possible, whole_key

MOST = 16
"""Runs of a group: a step of one takes 0.16 ms among 5, 0.12 among 15, 0.11 among 60 (`tiny`)."""
_CONFIG = "-c"
_NAMES = ("run.name",)
# Where a Trainer has these, a run may end at another step or write elsewhere than it would alone.
_TRAINER_KEYS = ("callbacks", "logger", "max_time", "profiler")

Commands = Callable[[PlannedRun], list[list[str]]]


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but seeds and what else replicas may differ in.

    Args:
        runs: two or more; in a plan one, where it is to be trained alone.
    """

    runs: tuple[PlannedRun, ...]

    @property
    def name(self) -> str:
        """Of the folder of the replicas, the same for the same runs only."""
        mark = f"{zlib.crc32(','.join(run.name for run in self.runs).encode()):08x}"
        return f"{self.runs[0].point.name}-{len(self.runs)}runs-{mark}"


@dataclass(frozen=True)
class _Settings:
    """What `bfc fit` is told.

    Attributes:
        shared: what is equal in all runs of a group, as a text.
        own: what may differ, by dotted key.
        is_alone: whether replicas would not be what the run is alone.
    """

    shared: str
    own: Mapping[str, Any]
    is_alone: bool


def groups_of(runs: Iterable[PlannedRun], commands: Commands, num_workers: int) -> list[Group]:
    """Runs that may be trained together, as many at a time as leave no worker without.

    Args:
        runs: that have not been begun.
        commands: that make a run, the words after `bfc` of each; the first one trains.
        num_workers: runs at a time.

    Returns:
        Groups, by the first of their runs. What is in none is trained alone.
    """
    alike: dict[str, list[PlannedRun]] = {}
    for run in runs:
        command, *words = commands(run)[0]
        settings = _read(words) if command == "fit" else None
        if settings is not None and not settings.is_alone:
            alike.setdefault(settings.shared, []).append(run)
    several = [each for each in alike.values() if len(each) > 1]
    size = min(MOST, max((len(each) for each in several), default=0))
    while several and size > 1 and sum(-(-len(each) // size) for each in several) < num_workers:
        size -= 1
    parts = [Group(part) for each in several for part in _evenly(each, size)]
    return [part for part in parts if len(part.runs) > 1]


def overrides_of(group: Group, commands: Commands) -> list[dict[str, Any]]:
    """The `replica_overrides` of a group: the seed of each run, and what else is not the same.

    Args:
        group: from `groups_of`.
        commands: that make a run.

    Returns:
        One mapping a run.
    """
    owns = [_read(commands(run)[0][1:]).own for run in group.runs]
    first = owns[0]
    keys = [key for key in first if key == SEED or any(own[key] != first[key] for own in owns)]
    return [{key: own[key] for key in keys} for own in owns]


def _evenly(runs: Sequence[PlannedRun], size: int) -> list[tuple[PlannedRun, ...]]:
    """Parts of at most a size, none more than one larger than another."""
    count = -(-len(runs) // size)
    ends = [len(runs) * number // count for number in range(count + 1)]
    return [tuple(runs[start:stop]) for start, stop in itertools.pairwise(ends)]


def _read(words: Sequence[str]) -> _Settings:
    """What the words after `bfc fit` say, each config and option by itself.

    They are shared one by one, not laid over each other: a class that replaces another keeps some
    of its arguments, so that the order counts.
    """
    shared, own = [], {SEED: 0}
    for source in _sources(words):
        rest = {}
        for key, value in flatten(source).items():
            whole = whole_key(key)
            if whole is not None and is_possible(whole, value):
                own[whole] = value
            elif key not in _NAMES:
                rest[key] = value
        if rest:
            shared.append(rest)
    told = json.dumps([shared, sorted(own)], sort_keys=True, default=str)
    return _Settings(told, own, _is_alone(reduce(merged, _sources(words), {})))


def _is_alone(settings: Mapping[str, Any]) -> bool:
    model, trainer = settings.get("model") or {}, settings.get("trainer") or {}
    is_watched = any(trainer.get(key) for key in _TRAINER_KEYS)
    is_slow = settings.get("training_path") == "plain" or bool(model.get("linearized"))
    return is_watched or is_slow


def _sources(words: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The configs and options of a command, in their order."""
    for name, value in zip(words[::2], words[1::2], strict=True):
        if name == _CONFIG:
            yield _parsed(Path(value).read_text(encoding="utf-8")) or {}
        else:
            yield nested(name.removeprefix("--"), _parsed(value))


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Any:  # noqa: ANN401, as YAML has it
    """What a text says to `bfc fit`; shared by those who ask, who leave it as it is."""
    return get_loader("yaml")(text)
