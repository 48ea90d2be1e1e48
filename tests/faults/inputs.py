"""Mutated inputs, each in a process of its own: a command runs, or ends with one line."""

import json
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import yaml

from tests.faults.cases import KINDS, TINY, Case, draw_case
from tests.faults.forked import start

_SECONDS, _STOP_SECONDS = 30.0, 180.0
_GIGABYTES = 6.0
_LONGEST_LINE = 800
# A folder with one of these files can be continued.
_MARKS = ("config.yaml", "compare.yaml", "claims.json")
_EXPERIMENTS = ("compare", "sweep", "claims")
_RUNS_FAILED = re.compile("^bfc: .+ failed: ", flags=re.MULTILINE)


@dataclass
class Tally:
    """How commands ended, by kind; `lost` has those that ended badly."""

    ran: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    lost: list[tuple[str, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        lost = Counter(kind for kind, _ in self.lost)
        rows = [("input", "ran", "refused", "lost")]
        rows += [(kind, self.ran[kind], self.refused[kind], lost[kind]) for kind in KINDS]
        rows.append(("all", self.ran.total(), self.refused.total(), lost.total()))
        return ["{:<12}{:>9}{:>9}{:>9}".format(*row) for row in rows]


def try_inputs(count: int, seed: int, folder: Path) -> Iterator[Tally]:
    """Tries mutated inputs; yields the tally after each one.

    `folder` is empty, and in the end holds what was lost, and `refused.txt` with the messages.
    """
    random, tally = Random(seed), Tally()
    (folder / "small.yaml").write_text(yaml.safe_dump(TINY, sort_keys=False))
    argv = ["fit", "-c", str(folder / "small.yaml"), "--run.root", str(folder)]
    command = start([*argv, "--run.name", "trained"], folder / "trained.txt")
    assert command.wait(120) == 0, command.printed()
    for _ in range(count):
        _try(draw_case(random), folder, tally)
        yield tally


def _try(case: Case, folder: Path, tally: Tally) -> None:
    here = Path(tempfile.mkdtemp(prefix="input-", dir=folder))
    shutil.copy(folder / "small.yaml", here)
    for name, content in case.files:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(content)
    if case.kind == "evaluate":
        shutil.copytree(folder / "trained", here / "logs" / "trained")
    paths = {"CONFIG": str(here / "mutated.yaml"), "ROOT": str(here / "logs")}
    argv = [re.sub("CONFIG|ROOT", lambda found: paths[found[0]], each) for each in case.argv]
    (here / ".argv.json").write_text(json.dumps(argv))
    before = _names(here)
    command = start(argv, here / ".stderr.txt", folder=here, gigabytes=_GIGABYTES)
    code = command.wait(_SECONDS)
    is_long = code is None
    if is_long:  # a run may be long, but it must stop when it is asked to
        command.send(signal.SIGTERM)
        code = command.wait(_STOP_SECONDS)
    command.end()
    printed = command.printed()
    problem = _wrong_end(code, printed, is_long=is_long, command=argv[0])
    problem = problem or _wrong_files(code, _names(here) - before)
    if problem:
        tally.lost.append((case.kind, f"{problem}: {here}"))
        return
    (tally.refused if code in (2, 4) else tally.ran)[case.kind] += 1
    if code in (2, 4):
        with (folder / "refused.txt").open("a", encoding="utf-8") as file:
            file.write(f"{case.kind}: {' '.join(case.argv)!r}\n    {printed}")
    shutil.rmtree(here)


def _names(root: Path) -> set[Path]:
    """Everything in a folder except the files of this test."""
    return {path for path in root.rglob("*") if path.parent != root or path.name[0] != "."}


def _wrong_end(code: int | None, printed: str, *, is_long: bool, command: str) -> str:
    """What is wrong with how a command ended; empty if nothing."""
    if code is None:
        return "hangs"
    if "Traceback" in printed:
        return "traceback"
    if is_long and code not in (2, 4):  # it may have ended just before the signal
        return "" if code in (0, 143) else f"exit code {code} when stopped"
    if code == 1 and command in _EXPERIMENTS and _RUNS_FAILED.search(printed):
        return ""
    if code not in (0, 2, 3, 4):
        return f"exit code {code}"
    return _unclear(printed) if code in (2, 4) else ""


def _unclear(printed: str) -> str:
    """What is wrong with a message; empty if nothing."""
    lines = printed.splitlines()
    errors = [line for line in lines if line.startswith("bfc: error: ")]
    if len(errors) != 1 or lines[-1] != errors[0] or len(errors[0]) > _LONGEST_LINE:
        return "no clear line"
    is_plain = all(line.startswith("bfc: ") for line in lines)
    return "" if is_plain or "every run refused" in lines[-1] else "more than one line"


def _wrong_files(code: int | None, made: set[Path]) -> str:
    """What is wrong with the files that a command has left; empty if nothing."""
    if code == 2 and made:
        return "a new folder"
    is_begun = any(path.name in _MARKS for path in made)
    return "a folder without settings" if any(map(Path.is_dir, made)) and not is_begun else ""
