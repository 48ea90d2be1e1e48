"""Mutated input, each in a process of its own: it runs, or is refused in one line."""

import json
import shutil
import signal
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import yaml
from hypothesis import strategies as st

from tests.faults.forked import start
from tests.faults.mutations import SMALL, command_lines, config_texts, merged, shipped

KINDS = ("fit config", "fit words", "evaluation config", "evaluation words", "compare config")
_WORK_SECONDS = 15.0
_GIGABYTES = 6.0
_LONGEST_LINE = 800
_TINY = {
    "inputs": {"class_path": "Gaussian", "init_args": {"input_dim": 8}},
    "target": {
        "class_path": "HierarchicalTarget",
        "init_args": {"widths": [3, 2], "level_scales": 0.5},
    },
    "model": {"width": 8},
}
_COMPARISON = {
    "base": ["small.yaml"],
    "seeds": [0],
    "learners": {
        "joint": {},
        "wide": {"model": {"width": 9}, "tune": {"model.optimizer.init_args.lr": [1e-3]}},
    },
    "tuning": {"seeds": [100]},
    "limits": {"seconds": 60},
    "grid": {"ratio": {"key": "target.init_args.level_scales", "values": [0.1]}},
    "metrics": ["val/nmse"],
    "workers": 1,
}


@dataclass
class Tally:
    """What became of each input."""

    ran: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    lost: list[tuple[str, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        kinds = [kind for kind in KINDS if self._tried(kind)]
        table = [f"{'input':<20}{'tried':>8}{'ran':>8}{'refused':>9}{'lost':>6}"]
        for kind in kinds:
            numbers = (self._tried(kind), self.ran[kind], self.refused[kind], self._lost(kind))
            table.append("{:<20}{:>8}{:>8}{:>9}{:>6}".format(kind, *numbers))
        numbers = (
            sum(map(self._tried, kinds)),
            self.ran.total(),
            self.refused.total(),
            len(self.lost),
        )
        return [*table, "{:<20}{:>8}{:>8}{:>9}{:>6}".format("together", *numbers)]

    def _lost(self, kind: str) -> int:
        return sum(lost == kind for lost, _ in self.lost)

    def _tried(self, kind: str) -> int:
        return self.ran[kind] + self.refused[kind] + self._lost(kind)


def try_inputs(count: int, seed: int, folder: Path) -> Tally:
    """Tries mutated input.

    Args:
        count: how many.
        seed: of the mutations.
        folder: an empty one; what was lost stays in it.
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
    def try_one(case: "Case") -> None:
        hypothesis.assume(case not in seen)  # it likes to come back to what it has tried
        seen.add(case)
        _try(case, trained, folder, tally)

    try_one()
    return tally


@dataclass(frozen=True)
class Case:
    """A command of `bfc` and the content of its config file; CONFIG and ROOT stand for paths."""

    kind: str
    words: tuple[str, ...]
    text: bytes


@st.composite
def cases(draw) -> Case:
    kind = draw(st.sampled_from([*KINDS[:2] * 3, *KINDS]))
    base = draw(
        st.sampled_from([_TINY, *shipped(), *shipped("demos"), *shipped("three_layer_targets")])
    )
    problem = yaml.safe_load(base.read_text()) if isinstance(base, Path) else base
    tree = merged(problem, SMALL)
    command = "fit"
    if kind.startswith("evaluation"):
        command = draw(st.sampled_from(["validate", "test", "predict"]))
        tree = merged(_TINY, SMALL)
    elif kind.startswith("compare"):
        command, tree = "compare", _COMPARISON
    words = [command, "-c", "CONFIG", "--run.root", "ROOT"]
    if kind.startswith("evaluation"):
        words += ["--run.name", "trained", "--ckpt_path", draw(st.sampled_from(["best", "last"]))]
    if kind.endswith("words"):
        text = yaml.safe_dump(tree, sort_keys=False).encode()
        return Case(kind, tuple(draw(command_lines(words))), text)
    return Case(kind, tuple(words), draw(config_texts(tree)))


def _train(folder: Path) -> Path:
    """A run to evaluate."""
    (folder / "small.yaml").write_text(yaml.safe_dump(merged(_TINY, SMALL)))
    words = ["fit", "-c", str(folder / "small.yaml"), "--run.root", str(folder)]
    command = start([*words, "--run.name", "trained"], folder / "trained.txt")
    assert command.wait(60) == 0, command.printed()
    return folder / "trained"


def _try(case: Case, trained: Path, folder: Path, tally: Tally) -> None:
    here = Path(tempfile.mkdtemp(prefix="input-", dir=folder))
    root = here / "logs"
    (here / "mutated.yaml").write_bytes(case.text)
    shutil.copy(folder / "small.yaml", here)
    if case.kind.startswith("evaluation"):
        shutil.copytree(trained, root / "trained")
    paths = {"CONFIG": str(here / "mutated.yaml"), "ROOT": str(root)}
    words = [paths.get(word, word) for word in case.words]
    (here / "words.json").write_text(json.dumps(words))
    before = _names(root)
    command = start(words, here / "stderr.txt", folder=here, gigabytes=_GIGABYTES)
    status = command.wait_working(_WORK_SECONDS)
    is_long = status is None
    if is_long:  # a long run is one, too: it must stop when it is told
        command.send(signal.SIGTERM)
        status = command.wait_working(2 * _WORK_SECONDS)
    command.end()
    problem = _problem(status, is_long, command.printed(), _names(root) - before)
    if problem:
        tally.lost.append((case.kind, f"{problem}: {here}"))
        return
    (tally.refused if status in (2, 4) else tally.ran)[case.kind] += 1
    shutil.rmtree(here)


def _names(root: Path) -> set[Path]:
    return set(root.rglob("*")) if root.is_dir() else set()


def _problem(status: int | None, is_long: bool, printed: str, made: set[Path]) -> str:
    """What is wrong with how a command ended; empty if nothing."""
    if status is None:
        return "hangs"
    if "Traceback" in printed:
        return "traceback"
    allowed = (143, -signal.SIGTERM) if is_long else (0, 2, 3, 4)
    if status not in allowed and status != 0:
        return f"exit status {status}"
    if status not in (2, 4):
        return ""
    lines = printed.splitlines()
    mistakes = [line for line in lines if line.startswith(("bfc: error: ", "bfc: out of memory: "))]
    if len(mistakes) != 1 or lines[-1] != mistakes[0] or len(mistakes[0]) > _LONGEST_LINE:
        return "no clear line"
    if not all(line.startswith("bfc: ") for line in lines):
        return "more than one line"
    if mistakes[0].removeprefix("bfc: error: ").strip(" .") == "":
        return "empty message"
    is_begun = any(path.name == "config.yaml" for path in made)
    return "half-made folder" if made and not (status == 4 and is_begun) else ""
