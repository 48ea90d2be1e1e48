"""Mutated inputs run or are refused in one line, and a command that does neither is found."""

import signal
import sys
import warnings
from pathlib import Path

import pytest

from tests.faults import forked, inputs
from tests.faults.inputs import try_inputs


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
    *_, tally = try_inputs(1, 0, tmp_path)
    assert [line.partition(": ")[0] for _, line in tally.lost] == [problem] * bool(problem)
    assert tally.refused.total() == (0 if problem else 1)
    assert len(list(tmp_path.glob("input-*"))) == len(tally.lost)
