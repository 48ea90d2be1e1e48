"""From sizes to `bench.json`: who takes part, and what is written after every round."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bfc_lightning.callbacks.summary import git_revision
from bfc_lightning.experiments.bench.bare import BareLoop, CompiledLoop
from bfc_lightning.experiments.bench.fitting import FitRun
from bfc_lightning.experiments.bench.limit import Limit
from bfc_lightning.experiments.bench.report import (
    RESULT,
    TEXT,
    as_markdown,
    machine,
    size_result,
)
from bfc_lightning.experiments.bench.rounds import Contestant, Name, Skipped, Times, take_turns
from bfc_lightning.experiments.bench.workload import Workload
from bfc_lightning.files import write_atomically, write_json


@dataclass(frozen=True)
class Size:
    """One problem that is timed.

    Attributes:
        workload: the problem.
        words: with which `bfc fit` trains it.
        config: every setting.
    """

    workload: Workload
    words: Sequence[str]
    config: Mapping[str, Any]


class Record:
    """What is known so far, and the files that say it.

    Args:
        folder: of the files.
        command: that was given.
        num_rounds: of each size.
    """

    def __init__(self, folder: Path, *, command: str, num_rounds: int) -> None:
        self.folder = folder
        self.content: dict[str, Any] = {
            "status": "running",
            "command": command,
            "rounds": num_rounds,
            "machine": machine(),
            "git": git_revision(),
            "sizes": {},
        }

    def add(self, size: Size, times: Times) -> None:
        """Takes in what is known of a size, and writes.

        Args:
            size: the size.
            times: so far.
        """
        result = size_result(size.workload, times, config=size.config)
        self.content["sizes"][size.workload.name] = result
        self.write()

    @property
    def files(self) -> tuple[str, str]:
        """Their names."""
        return RESULT, TEXT

    def write(self) -> None:
        """Writes `bench.json` and `bench.md`."""
        write_json(self.folder / RESULT, self.content)
        write_atomically(self.folder / TEXT, as_markdown(self.content))

    def finish(self) -> None:
        """Says in the files that nothing is missing."""
        self.content["status"] = "finished"
        self.write()


def time_size(
    size: Size,
    record: Record,
    *,
    names: Sequence[str],
    num_replicas: int | None,
    run_fit: Callable[[Sequence[str]], int],
    told: Callable[[str], None],
) -> None:
    """Times the contestants of one size.

    Args:
        size: the problem.
        record: gets what is known after every round.
        names: of the contestants.
        num_replicas: of the contestant `replicas`, which takes no part where not given.
        run_fit: runs `bfc fit`.
        told: gets a line whenever one of them has run.
    """
    torch.set_num_threads(size.workload.threads)
    fit = partial(FitRun, size.workload, run_fit=run_fit, folder=record.folder)
    makers: dict[Name, Callable[[], Contestant]] = {
        "fit": partial(fit, size.words),
        "fit_plain": partial(fit, [*size.words, "--training_path", "plain"]),
        "bare": partial(BareLoop, size.workload),
        "compiled": partial(CompiledLoop, size.workload),
        "jax": partial(_jax_loop, size.workload),
        "limit": partial(Limit, size.workload),
    }
    if num_replicas is not None:
        makers["replicas"] = partial(fit, size.words, num_replicas=num_replicas)
    take_turns(
        {name: make for name, make in makers.items() if name in names},
        record.content["rounds"],
        told=lambda line: told(f"{size.workload.name} {line}"),
        after_round=lambda times: record.add(size, times),
    )


def _jax_loop(workload: Workload) -> Contestant:
    """The loop in JAX, which is imported only here.

    Raises:
        Skipped: if it is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("jax", "jaxlib")):
        raise Skipped("not installed")

    from bfc_lightning.experiments.bench.jax_loop import JaxLoop

    return JaxLoop(workload)
