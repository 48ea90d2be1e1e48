"""Mutated inputs run or are refused in one line, and a command that does neither is found."""

import signal
import sys
import warnings
from pathlib import Path
from random import Random

import pytest

from tests.faults import forked, inputs
from tests.faults.cases import KINDS, TINY, draw_case
from tests.faults.inputs import try_inputs, wrong_end
from tests.faults.mutations import alike, command_line, mutated_tree


@pytest.fixture(autouse=True)
def _warnings_stay_warnings():
    """Commands are forked from this process, in which pytest has made errors of warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


@pytest.mark.slow
def test_mutated_inputs_run_or_are_refused_in_one_line(tmp_path):
    forked.warm_up()
    *_, tally = try_inputs(12, 5, tmp_path)
    assert tally.lost == []
    assert tally.ran.total() + tally.refused.total() == 12
    assert tally.refused.total() > 0


def _refuses(root: Path) -> int:
    print("bfc: error: depth must be at least 1, got 0.", file=sys.stderr)
    return 2


def _hangs(root: Path) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass


def _leaves_a_folder(root: Path) -> int:
    (root / "mine").mkdir(parents=True)
    return _refuses(root)


def _prints_more(root: Path) -> int:
    print("UserWarning: look at this", file=sys.stderr)
    return _refuses(root)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (_refuses, None),
        (lambda root: {}["lr"], "traceback"),
        (_hangs, "hangs"),
        (_leaves_a_folder, "a new folder"),
        (_prints_more, "more than one line"),
        (lambda root: 2, "no clear line"),
        (lambda root: 1, "exit code 1"),
        (lambda root: root.mkdir() or 0, "a folder without settings"),
    ],
)
def test_a_command_that_ends_badly_is_found(tmp_path, monkeypatch, command, problem):
    def main(argv: list[str]) -> int:
        if "trained" in argv and argv[0] == "fit":
            (tmp_path / "trained").mkdir()
            return 0
        return command(Path("logs"))

    monkeypatch.setattr(forked, "main", main)
    monkeypatch.setattr(inputs, "_SECONDS", 0.5)
    monkeypatch.setattr(inputs, "_STOP_SECONDS", 0.2)
    *_, tally = try_inputs(2, 0, tmp_path)
    assert [line.partition(": ")[0] for _, line in tally.lost] == [problem] * 2 * bool(problem)
    assert tally.refused.total() == (0 if problem else 2)
    assert len(list(tmp_path.glob("input-*"))) == len(tally.lost)


@pytest.mark.parametrize(
    ("command", "printed", "problem"),
    [
        ("compare", "bfc: 1 of 2 runs failed; to run them again: bfc compare -c a\n", ""),
        ("claims", "  wide-seed0 failed: only here (see a.txt)\n", ""),
        ("compare", "bfc: error: another process runs in this folder.\n", "exit code 1"),
        ("fit", "bfc: 1 of 2 runs failed; to run them again: bfc compare -c a\n", "exit code 1"),
    ],
)
def test_only_experiments_may_fail_and_only_if_runs_failed(command, printed, problem):
    assert wrong_end(1, printed, is_long=False, command=command) == problem


def test_a_mutation_follows_from_its_seed_and_leaves_the_original():
    before = repr(TINY)
    texts = [repr(mutated_tree(TINY, Random(seed))) for seed in range(50)]
    assert texts == [repr(mutated_tree(TINY, Random(seed))) for seed in range(50)]
    assert repr(TINY) == before
    assert len({*texts} - {before}) > 45


@pytest.mark.parametrize("value", [True, 3, 0.5, [3, 2], ["a"], "Gaussian"])
def test_nudged_values_keep_their_type(value):
    nudged = [alike(value, ("inputs", "class_path"), Random(seed)) for seed in range(50)]
    assert {type(each) for each in nudged} == {type(value)}
    assert any(each != value for each in nudged)


def test_cases_are_of_every_kind_and_keep_their_command():
    cases = [draw_case(Random(seed)) for seed in range(100)]
    assert {case.kind for case in cases} == {*KINDS}
    lines = [command_line(["sweep", "-c", "CONFIG"], Random(seed)) for seed in range(50)]
    assert {line[0] for line in lines} == {"sweep"}
