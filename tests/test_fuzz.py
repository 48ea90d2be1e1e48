"""Mutated input runs or is refused in one line; and a product that does neither is found out."""

import signal
import sys
import warnings
from pathlib import Path
from random import Random

import pytest

from tests.faults import forked, inputs
from tests.faults.cases import TINY
from tests.faults.inputs import try_inputs
from tests.faults.mutations import alike, command_line, mutated_tree


@pytest.fixture(autouse=True)
def _warnings_stay_warnings():
    """The commands are forked from this process, where pytest has made errors of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


def test_mutated_input_runs_or_is_refused_in_one_line(tmp_path):
    forked.warm_up()
    tally = try_inputs(12, 5, tmp_path)
    assert tally.lost == []
    tried = tally.lines()[-1].split()
    assert tried[:2] == ["together", "12"]
    assert 0 < tally.refused.total() <= 12
    assert tally.parsed.total() > 0


def _raises(root):
    raise KeyError("lr")


def _hangs(root):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        pass


def _refuses(root):
    print("bfc: error: depth must be at least 1, got 0.", file=sys.stderr)
    return 2


def _refuses_with_a_folder_left(root):
    (root / "mine").mkdir(parents=True)
    return _refuses(root)


def _refuses_at_length(root):
    print("UserWarning: look at this", file=sys.stderr)
    return _refuses(root)


def _refuses_silently(root):
    return 2


def _fails(root):
    print("bfc: error: something.", file=sys.stderr)
    return 1


def _ends_with_half_a_run(root):
    (root / "mine" / "checkpoints").mkdir(parents=True)
    return 0


@pytest.mark.parametrize(
    ("product", "problem"),
    [
        (_raises, "traceback"),
        (_hangs, "hangs"),
        (_refuses_with_a_folder_left, "half-made folder"),
        (_refuses_at_length, "more than one line"),
        (_refuses_silently, "no clear line"),
        (_fails, "exit status 1"),
        (_ends_with_half_a_run, "half-made folder"),
    ],
)
def test_product_that_takes_bad_input_badly_is_found_out(tmp_path, monkeypatch, product, problem):
    tally = _try_on(product, tmp_path, monkeypatch)
    assert [line.partition(": ")[0] for _, line in tally.lost] == [problem] * 2
    assert all(Path(line.partition(": ")[2]).is_dir() for _, line in tally.lost)


FAILED = "bfc: 1 of 2 runs failed; again: bfc compare -c mine.yaml\n"
FAILED_CLAIMS = "bfc: runs that failed: 1; what they printed is in logs/claims/runs/*/logs.\n"


@pytest.mark.parametrize(
    ("command", "printed"),
    [("compare", FAILED), ("sweep", f"bfc: warning: no.\n{FAILED}"), ("claims", FAILED_CLAIMS)],
)
def test_experiment_may_end_with_1_where_its_runs_failed(command, printed):
    assert inputs._problem(1, printed, is_long=False, command=command) == ""


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("compare", "bfc: error: another process runs in this folder.\n"),
        ("sweep", "bfc: 3 of 3 runs are done already.\n"),
        ("claims", ""),
        ("compare", f"{FAILED}bfc: error: no space is left.\n"),
        ("fit", FAILED),
    ],
)
def test_experiment_that_ends_with_1_for_another_reason_is_found_out(command, printed):
    assert inputs._problem(1, printed, is_long=False, command=command) == "exit status 1"


def test_product_that_refuses_in_one_line_loses_nothing(tmp_path, monkeypatch):
    tally = _try_on(_refuses, tmp_path, monkeypatch)
    assert tally.lost == []
    assert tally.refused.total() == 2
    assert (tmp_path / "refused.txt").read_text().count("depth must be at least 1") == 2
    assert not list(tmp_path.glob("input-*"))


def _try_on(product, folder, monkeypatch):
    """Two inputs for something that takes the place of `bfc`."""

    def main(words):
        if "trained" in words and words[0] == "fit":
            (folder / "trained").mkdir()
            return 0
        return product(Path("logs"))

    monkeypatch.setattr(forked, "main", main)
    monkeypatch.setattr(inputs, "_WORK_SECONDS", 0.2)
    return try_inputs(2, 0, folder)


def test_mutation_follows_from_its_seed_and_leaves_the_original():
    before = repr(TINY)
    texts = [repr(mutated_tree(TINY, Random(seed), "strange")) for seed in range(50)]
    assert texts == [repr(mutated_tree(TINY, Random(seed), "strange")) for seed in range(50)]
    assert repr(TINY) == before
    assert len({*texts} - {before}) > 45


@pytest.mark.parametrize("value", [True, 3, 0.5, [3, 2], ["a"], "Gaussian"])
def test_nudged_values_keep_their_type(value):
    nudged = [alike(value, ("inputs", "class_path"), Random(seed)) for seed in range(50)]
    assert {type(each) for each in nudged} == {type(value)}
    assert any(each != value for each in nudged)


def test_class_is_replaced_by_another_of_its_role():
    names = {alike("Gaussian", ("inputs", "class_path"), Random(seed)) for seed in range(50)}
    assert names == {"Gaussian", "GaussianMixture", "InputDistribution"}


def test_command_line_keeps_its_command():
    words = ["bench", "-c", "CONFIG"]
    lines = [command_line(words, Random(seed), 3) for seed in range(50)]
    assert {line[0] for line in lines} == {"bench"}
    assert words == ["bench", "-c", "CONFIG"]
    assert all(isinstance(word, str) for line in lines for word in line)
