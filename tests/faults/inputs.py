"""Mutated input, each in a process of its own: it runs, or is refused in one line."""

import json
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from unittest import mock

import hypothesis
import yaml

from bfc_lightning.cli.refusals import parsing
from tests.faults.cases import KINDS, TINY, Case, cases
from tests.faults.forked import start

_WORK_SECONDS = 15.0
_GIGABYTES = 6.0
_LONGEST_LINE = 800
_LATE = ("baseline", "bench_sizes", "learner_settings", "sweep_settings")
_PARSERS = ("application", "comparing", "sweeping", "claiming", "benching")
_PARSED = ".parsed"
# What bears one of these files is whole: it says how it was made, and can be gone on with.
_MARKS = ("config.yaml", "compare.yaml", "sweep.yaml", "claims.json", "bench.json")
_EXPERIMENTS = ("compare", "sweep", "claims")
# The last word of an experiment of which some runs failed; nothing else may end one with 1.
_RUNS_FAILED = re.compile(
    r"^bfc: (\d+ of \d+ runs failed; again: .+|runs that failed: \d+; what they printed .+)\n\Z",
    re.MULTILINE,
)


@dataclass
class Tally:
    """What became of each input."""

    ran: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    parsed: Counter = field(default_factory=Counter)
    lost: list[tuple[str, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        titles = ("tried", "parsed", "ran", "refused", "lost")
        rows = {kind: self._row(kind) for kind in KINDS if self._row(kind)[0]}
        rows["together"] = tuple(map(sum, zip(*rows.values(), strict=True)))
        table = {"input": titles, **rows}
        return [
            f"{kind:<20}" + "".join(f"{cell:>9}" for cell in cells) for kind, cells in table.items()
        ]

    def _row(self, kind: str) -> tuple[int, ...]:
        num_lost = sum(lost == kind for lost, _ in self.lost)
        ran, refused = self.ran[kind], self.refused[kind]
        return (ran + refused + num_lost, self.parsed[kind], ran, refused, num_lost)


def try_inputs(count: int, seed: int, folder: Path) -> Tally:
    """Tries mutated input.

    Args:
        count: how many.
        seed: of the mutations.
        folder: an empty one; what was lost stays in it, and `refused.txt` has the refusals.
    """
    tally, trained = Tally(), _train(folder)
    seen: set[Case] = set()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(cases())
    def try_one(case: Case) -> None:
        hypothesis.assume(case not in seen)
        seen.add(case)
        num_lost = len(tally.lost)
        _try(case, trained, folder, tally)
        sys.stderr.write(f"\rinput {len(seen)} of {count}, {len(tally.lost)} lost ")
        if len(tally.lost) > num_lost:
            sys.stderr.write(f"\n{': '.join(tally.lost[-1])}\n")

    with _marking():
        try_one()
    return tally


@contextmanager
def _marking() -> Iterator[None]:
    """Makes each command leave a file once its parser has let its words and configs pass.

    What some commands import late is imported here, once for all.
    """

    @contextmanager
    def marked() -> Iterator[None]:
        with parsing():
            yield
        Path(_PARSED).touch()

    for name in _LATE:
        import_module(f"bfc_lightning.cli.{name}")
    with ExitStack() as stack:
        for name in _PARSERS:
            module = import_module(f"bfc_lightning.cli.{name}")
            stack.enter_context(mock.patch.object(module, "parsing", marked))
        yield


def _train(folder: Path) -> Path:
    """A run to evaluate."""
    (folder / "small.yaml").write_text(yaml.safe_dump(TINY, sort_keys=False))
    words = ["fit", "-c", str(folder / "small.yaml"), "--run.root", str(folder)]
    command = start([*words, "--run.name", "trained"], folder / "trained.txt")
    assert command.wait(120) == 0, command.printed()
    return folder / "trained"


def _try(case: Case, trained: Path, folder: Path, tally: Tally) -> None:
    here = Path(tempfile.mkdtemp(prefix="input-", dir=folder))
    root = here / "logs"
    shutil.copy(folder / "small.yaml", here)
    for name, content in case.files:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)
    if case.kind.startswith("evaluation"):
        shutil.copytree(trained, root / "trained")
    paths = {"CONFIG": str(here / "mutated.yaml"), "ROOT": str(root)}
    words = [_put(word, paths) for word in case.words]
    before = _names(here)
    (here / ".words.json").write_text(json.dumps(words))
    command = start(words, here / ".stderr.txt", folder=here, gigabytes=_GIGABYTES)
    status = command.wait_working(_WORK_SECONDS)
    is_long = status is None
    if is_long:  # a long run is one, too: it must stop when it is told
        command.send(signal.SIGTERM)
        status = command.wait_working(2 * _WORK_SECONDS)
    command.end()
    tally.parsed[case.kind] += (here / _PARSED).exists()
    printed = command.printed()
    problem = _problem(status, printed, is_long=is_long, command=words[0])
    problem = problem or _left(status, _names(here) - before)
    if problem:
        tally.lost.append((case.kind, f"{problem}: {here}"))
        return
    is_refused = status in (2, 4)
    (tally.refused if is_refused else tally.ran)[case.kind] += 1
    if is_refused:
        with (folder / "refused.txt").open("a", encoding="utf-8") as file:
            file.write(f"{case.kind}: {' '.join(case.words)!r}\n    {printed}")
    shutil.rmtree(here)


def _put(word: str, paths: dict[str, str]) -> str:
    for name, path in paths.items():
        word = word.replace(name, path)
    return word


def _names(root: Path) -> set[Path]:
    """Everything in a folder but what belongs to this trial."""
    return {path for path in root.rglob("*") if path.parent != root or path.name[0] != "."}


def _problem(status: int | None, printed: str, *, is_long: bool, command: str) -> str:
    """What is wrong with how a command ended; empty if nothing."""
    if status is None:
        return "hangs"
    if "Traceback" in printed:
        return "traceback"
    if is_long and status not in (2, 4):  # it may come to its end just before it is stopped
        return "" if status in (0, 143, -signal.SIGTERM) else f"exit status {status} when stopped"
    if status == 1 and command in _EXPERIMENTS and _RUNS_FAILED.search(printed):
        return ""
    if status not in (0, 2, 3, 4):
        return f"exit status {status}"
    return _unclear(printed, command) if status in (2, 4) else ""


def _unclear(printed: str, command: str) -> str:
    """What is wrong with what is printed beside a mistake; empty if nothing."""
    lines = printed.splitlines()
    if command in _EXPERIMENTS and "every run was refused" in printed:
        lines = lines[-1:]  # above it stands what became of each
    mistakes = [line for line in lines if line.startswith(("bfc: error: ", "bfc: out of memory: "))]
    if len(mistakes) != 1 or lines[-1] != mistakes[0] or len(mistakes[0]) > _LONGEST_LINE:
        return "no clear line"
    if not all(line.startswith("bfc: ") for line in lines):
        return "more than one line"
    words = mistakes[0].split(": ", 2)[2].split()
    return "empty message" if len(words) < 2 or words[-1].endswith(":") else ""


def _left(status: int | None, made: set[Path]) -> str:
    """What is wrong with what a command has left; empty if nothing."""
    folders = {path for path in made if path.is_dir() and path.parent not in made}
    is_begun = any(path.name in _MARKS for path in made)
    if status == 2 and made:
        return "half-made folder"
    is_half_made = status in (0, 3, 4, 143) and folders and not is_begun
    return "half-made folder" if is_half_made else ""
