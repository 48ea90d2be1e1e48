"""Claims: what a file may say, effects with intervals, verdicts, and the files that report them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from bfc_lightning.experiments.bootstrap import Estimate
from bfc_lightning.experiments.claims.claim import (
    PROFILES,
    Condition,
    Term,
    check_claim,
    find_claims,
    read_claim,
)
from bfc_lightning.experiments.claims.report import (
    claim_figure,
    encoded,
    rendered,
    tally,
    write_report,
)
from bfc_lightning.experiments.claims.verdicts import effect_of, judge_all, verdict_on
from bfc_lightning.experiments.spec import Scaling
from tests.claim_files import RATIO as ENTRY
from tests.claim_files import write_claim
from tests.results import experiment, results

SHIPPED = find_claims(Path("configs/claims"))
TERM = Term("a", "val/nmse")
GOOD = [2.0, 3.0, 3.0, 4.0, 5.0]


def condition(**changes: object) -> dict:
    return {"conditions": [{**ENTRY, **changes}]}


def judged(folder, narrow, wide=(1.0,) * 5, **changes):
    """The judgment of a claim, with val/nmse, all metrics or a status of each seed."""
    claim = read_claim(write_claim(folder, **changes))
    spec = experiment(["narrow", "wide"], seeds=range(len(narrow)))
    rows = results(spec, lambda name, seed: {"narrow": narrow, "wide": wide}[name][seed])
    return judge_all([claim], spec, rows)[0]


TERM_OF_WIDE = {"learner": "wide", "metric": "x"}
SLOPE = {"learner": "a", "metric": "x", "axis": "d", "labels": ["4", "9"]}
MISTAKES = {
    "key too many": ({"color": "red"}, "'color' is not accepted"),
    "unknown profile": ({"runs": {"quick": "few.yaml", "slow": "few.yaml"}}, "runs .*slow"),
    "nothing that must hold": ({"conditions": []}, "conditions must not be empty"),
    "no effect": ({"conditions": [{"what": "x"}]}, "conditions.0 must have one of value, ratio"),
    "no bound": ({"conditions": [{"what": "x", "value": TERM_OF_WIDE}]}, "at_least <= at_most"),
    "bounds that exclude each other": (condition(at_most=0.5), "got 1.0 and 0.5"),
    "bound that is no number": (condition(at_least="ten"), "at_least.*ten"),
    "slope of one number": (
        {"conditions": [{"what": "x", "slope": SLOPE | {"labels": ["4"]}, "at_least": 1}]},
        "at least two positive",
    ),
    "slope of words": (
        {"conditions": [{"what": "x", "slope": SLOPE | {"labels": ["a", "b"]}, "at_least": 1}]},
        r"conditions\.0: labels must be at least two positive numbers",
    ),
    "unknown key": (condition(ratio={"of": {**TERM_OF_WIDE, "and": 1}}), "'and'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_in_a_claim_is_named(name, tmp_path):
    changes, message = MISTAKES[name]
    path = write_claim(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"(?s){message}") as caught:
        read_claim(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["- a", "a: ["])
def test_file_that_is_no_mapping_is_named(text, tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"wrong\.yaml: "):
        read_claim(path)


OF_A = {"learner": "a", "metric": "x"}
MISFITS = {
    "learner must be one of a, b, got 'c'": {"value": {**OF_A, "learner": "c", "at": {"d": 8}}},
    "claim .* d must be one of 4, 8, got '9'": {"slope": SLOPE},
    r"at of a must have \['d'\], got \[\]": {"value": OF_A},
    "d must be one of 4, 8, got '9'": {"value": {**OF_A, "at": {"d": 9}}},
    "exponents need an experiment with scaling": {"exponent": {"of": "a", "minus": "b"}},
}


@pytest.mark.parametrize(("message", "entry"), MISFITS.items())
def test_claim_must_fit_its_experiment(message, entry, tmp_path):
    claim = read_claim(write_claim(tmp_path, conditions=[{"what": "x", **entry, "at_most": 1}]))
    with pytest.raises(ValueError, match=message):
        check_claim(claim, experiment(d=["4", "8"]))


INTERVALS = {
    (1.0, 4.0): "holds",
    (0.9, 3.0): "undecided",
    (0.1, 0.9): "does not hold",
    (4.1, 9.0): "does not hold",
}


@pytest.mark.parametrize(("ends", "verdict"), INTERVALS.items())
def test_verdict_depends_on_where_the_interval_lies(ends, verdict):
    asked = Condition("x", TERM, at_least=1.0, at_most=4.0)
    assert verdict_on(asked, Estimate(sum(ends) / 2, *ends)) == verdict


def test_seeds_are_drawn_together_for_all_terms():
    """One term is twice the other on every seed: unpaired draws would make an interval of it."""
    values = np.array([1.0, 10.0, 100.0, 1000.0, 10000.0])
    found = effect_of(np.stack([2 * values, values]))
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_slope_is_that_of_logarithms_over_the_numbers():
    """x = 3 d^2 s with the same factor s of a seed at every d: the slope is 2 on every draw."""
    dims, seeds = np.array([4.0, 9.0, 20.0]), np.array([0.5, 1.0, 2.0, 3.0, 4.0])
    found = effect_of(3 * dims[:, None] ** 2 * seeds, dims)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_interval_is_that_of_all_draws():
    """Of five seeds, three or more draws of the smallest have a chance of 5.8 %: above 2.5 %."""
    found = effect_of(np.array([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    assert (found.value, found.low, found.high) == (3.0, 1.0, 5.0)
    many = effect_of(np.arange(101.0)[None])
    assert many.value == 50.0
    assert 30 < many.low < 45 < 55 < many.high < 70


def test_claim_holds_only_if_all_its_conditions_do(tmp_path):
    wrong, unclear = {**ENTRY, "at_least": 100.0}, {**ENTRY, "at_least": 2.5}
    for conditions, verdict in (
        ([ENTRY, ENTRY], "holds"),
        ([ENTRY, unclear], "undecided"),
        ([wrong, unclear], "does not hold"),
    ):
        assert judged(tmp_path, GOOD, conditions=conditions)["verdict"] == verdict


@pytest.mark.parametrize(("run", "told"), [("timeout", "timeout"), ({"other": 1.0}, "has none")])
def test_run_without_a_number_leaves_the_claim_undecided(run, told, tmp_path):
    judgment = judged(tmp_path, [2.0, run, 3.0, 3.0, 3.0])
    assert judgment["verdict"] == "undecided"
    assert judgment["conditions"][0]["reason"] == f"no val/nmse of narrow: seed 1 {told}."


def test_terms_are_taken_at_their_labels(tmp_path):
    entry = {"what": "x", "value": {**vars(TERM), "at": {"d": 8}}, "at_most": 1}
    claim = read_claim(write_claim(tmp_path, conditions=[entry]))
    spec = experiment(seeds=range(5), d=["4", "8"])
    rows = results(spec, lambda learner, d, seed: float(d) / 16 if learner == "a" else 9.0)
    check_claim(claim, spec)
    (judgment,) = judge_all([claim], spec, rows)
    assert judgment["conditions"][0]["interval"] == [0.5, 0.5]
    assert judgment["verdict"] == "holds"


def test_exponents_are_compared(tmp_path):
    entry = {"what": "x", "exponent": {"of": "a", "minus": "b"}, "at_most": -0.5}
    claim = read_claim(write_claim(tmp_path, conditions=[entry]))
    numbers = [str(10**power) for power in range(1, 6)]
    spec = experiment(seeds=range(5), n=numbers, d=["8", "16"], scaling=Scaling("d", "n", 0.1))
    powers = {"a": 1.0, "b": 2.0}
    rows = results(spec, lambda name, n, d, seed: float(d) ** powers[name] / float(n))
    check_claim(claim, spec)
    (judgment,) = judge_all([claim], spec, rows)
    assert judgment["verdict"] == "holds"
    content = judgment["conditions"][0]
    assert content["effect"] == "exponent of a - exponent of b"
    assert content["value"] == pytest.approx(-1.0)
    assert content["terms"] == []
    assert len(claim_figure(judgment, spec, rows).axes) == 1
    (lost,) = judge_all([claim], spec, rows.assign(status="diverged"))
    reason = "the exponents have no difference: fewer than two usable dimensions."
    assert lost["conditions"][0]["reason"] == reason


@pytest.fixture
def told(tmp_path):
    """The content of claims.json for a judged claim, and its figure."""
    claim = read_claim(write_claim(tmp_path))
    spec = experiment(["narrow", "wide"], seeds=range(5))
    values = {"narrow": [20.0, 25.0, 25.0, 30.0, 30.0], "wide": [1.0] * 5}
    rows = results(spec, lambda name, seed: values[name][seed])
    (judgment,) = judge_all([claim], spec, rows)
    head = {"status": "finished", "profile": "quick", "command": "bfc claims", "revisions": []}
    content = {**head, "versions": {"torch": "2"}, "git": None, "claims": [judgment]}
    return json.loads(json.dumps(content)), claim_figure(judgment, spec, rows)


def test_files_hold_the_same_verdicts(told, tmp_path):
    content, figure = told
    write_report(tmp_path, content, {"width": encoded(figure)})
    assert json.loads((tmp_path / "claims.json").read_text()) == content
    assert tally(content["claims"]) == {"holds": 1, "does not hold": 0, "undecided": 0}
    assert (tmp_path / "claims.md").read_text() == rendered("md", content, {})
    assert "<b>1</b>holds" in (tmp_path / "claims.html").read_text()


def test_page_opens_without_a_server(told):
    content, figure = told
    text = rendered("html", content, {"width": encoded(figure)})
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,|#)', text) == []
    assert not any(tag in text for tag in ("<link", "<script", "@import"))
    assert text.count("data:image/png;base64,") == 1
    assert "That width &lt;helps&gt;." in text
    assert "25 [20, 30]" in text


def test_picture_has_a_dot_for_every_seed_of_every_learner(told):
    panel = told[1].axes[0]
    dots = [list(line.get_xdata()) for line in panel.lines if line.get_marker() == "o"]
    assert dots == [[20.0, 25.0, 25.0, 30.0, 30.0], [1.0] * 5]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["narrow", "wide"]
    assert panel.get_xscale() == "log"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_claim_is_read_and_says_how_it_is_run(name):
    assert read_claim(SHIPPED[name]).runs.keys() == PROFILES
    assert f"#   bfc claims {name}" in SHIPPED[name].read_text()


def test_document_is_made_from_the_json_beside_it():
    content = json.loads(Path("docs/claims.json").read_text(encoding="utf-8"))
    assert Path("docs/claims.md").read_text(encoding="utf-8") == rendered("md", content, {})
    told = {claim["name"]: claim["sentence"] for claim in content["claims"]}
    assert told == {name: read_claim(path).sentence for name, path in SHIPPED.items()}
