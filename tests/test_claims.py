"""Claims: what a file may say, effects with intervals, verdicts, and the files that tell them."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bfc_lightning.cli.comparing import parse_comparison
from bfc_lightning.experiments.bootstrap import Estimate
from bfc_lightning.experiments.claims.claim import (
    PROFILES,
    Condition,
    Ratio,
    Term,
    Value,
    check_claim,
    find_claims,
    read_claim,
)
from bfc_lightning.experiments.claims.page import as_html, encoded
from bfc_lightning.experiments.claims.pictures import claim_figure
from bfc_lightning.experiments.claims.results import as_json, as_markdown, effect_in_words, number
from bfc_lightning.experiments.claims.verdicts import effect_of, judge, verdict_on
from bfc_lightning.runs.folder import RunError
from tests.claim_files import RATIO, WORDS, rows_with, write_claim
from tests.comparisons import parse

SHIPPED = find_claims(Path("configs/claims"))
TERM = Term("a", "val/nmse")


def condition(**changes: object) -> dict:
    return {"conditions": [{**RATIO, **changes}]}


MISTAKES = {
    "key too many": ({"color": "red"}, "must have the keys sentence, source, shows"),
    "empty sentence": ({"sentence": " "}, "sentence must be words, got ' '"),
    "unknown profile": (
        {"runs": {"quick": "few.yaml", "slow": "few.yaml"}},
        "runs must have the keys quick, full, got",
    ),
    "no such comparison": (
        {"runs": {"quick": "few.yaml", "full": "many.yaml"}},
        "runs must name comparisons, got .*many.yaml",
    ),
    "nothing that must hold": ({"conditions": []}, "conditions must be a list, got"),
    "no effect": ({"conditions": [{"what": "x"}]}, "conditions.0 must have one of value, ratio"),
    "no bound": (
        {"conditions": [{k: v for k, v in RATIO.items() if k != "at_least"}]},
        "conditions.0 must have at_least or at_most",
    ),
    "bounds that exclude each other": (condition(at_most=0.5), "in this order, got"),
    "bound that is no number": (condition(at_least="ten"), "must be a finite number, got 'ten'"),
    "bound that can't be reached": (
        condition(at_least=math.inf),
        "must be a finite number, got inf",
    ),
    "bound that is nothing": (condition(at_least=math.nan), "must be a finite number, got nan"),
    "bound that is true": (condition(at_least=True), "must be a finite number, got True"),
    "ratio of nothing": (condition(ratio={"of": 1}), "conditions.0.ratio must have the keys of, t"),
    "no metric": (
        condition(ratio={"of": {"learner": "wide"}, "to": {"learner": "wide"}}),
        "conditions.0.ratio.of must have the keys learner, metric",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_in_a_claim_is_named(name, tmp_path):
    changes, message = MISTAKES[name]
    with pytest.raises(RunError, match=message):
        read_claim(write_claim(tmp_path, **changes))


def test_claim_is_read_as_it_is_written(tmp_path):
    claim = read_claim(write_claim(tmp_path))
    effect = Ratio(Term("narrow", "val/nmse"), Term("wide", "val/nmse"))
    assert claim.name == "width"
    assert claim.sentence == WORDS["sentence"]
    assert claim.conditions == (Condition(RATIO["what"], effect, at_least=1.0),)


def test_folder_without_claims_is_refused(tmp_path):
    with pytest.raises(RunError, match="configs must be a folder with claims"):
        find_claims(tmp_path)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"learner": "wider", "metric": "x"}, "learner must be one of narrow, wide, got 'wider'"),
        (
            {"learner": "wide", "metric": "x", "at": {"d": 1}},
            r"at of wide must have \[\], got \['d'\]",
        ),
    ],
)
def test_claim_must_fit_its_comparison(term, message, tmp_path):
    path = write_claim(tmp_path, conditions=[{"what": "x", "value": term, "at_most": 1}])
    with pytest.raises(RunError, match=message):
        check_claim(read_claim(path), parse(tmp_path / "few.yaml"))


def test_exponent_needs_a_comparison_with_scaling(tmp_path):
    entry = {"what": "x", "exponent": {"of": "wide", "minus": "narrow"}, "at_most": 0}
    claim = read_claim(write_claim(tmp_path, conditions=[entry]))
    with pytest.raises(RunError, match="exponents need a comparison with scaling"):
        check_claim(claim, parse(tmp_path / "few.yaml"))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (2.0, 3.0, "holds"),
        (1.0, 4.0, "holds"),
        (0.9, 3.0, "undecided"),
        (2.0, 4.1, "undecided"),
        (0.1, 5.0, "undecided"),
        (0.1, 0.9, "does not hold"),
        (4.1, 9.0, "does not hold"),
    ],
)
def test_verdict_is_where_the_interval_lies(low, high, verdict):
    asked = Condition("x", Value(TERM), at_least=1.0, at_most=4.0)
    assert verdict_on(asked, Estimate((low + high) / 2, low, high)) == verdict


def test_interval_of_equal_seeds_is_a_point():
    found = effect_of(lambda medians: medians[0] / medians[1], np.array([[6.0] * 5, [2.0] * 5]))
    assert (found.value, found.low, found.high) == (3.0, 3.0, 3.0)


def test_seeds_are_drawn_together_for_all_terms():
    """One term is twice the other on every seed: unpaired draws would make an interval of it."""
    values = np.array([1.0, 10.0, 100.0, 1000.0, 10000.0])
    found = effect_of(lambda medians: medians[0] / medians[1], np.stack([2 * values, values]))
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_interval_is_that_of_all_draws():
    """Of five seeds, three or more draws of the smallest have a chance of 5.8 %: above 2.5 %."""
    found = effect_of(lambda medians: medians[0], np.array([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    assert (found.value, found.low, found.high) == (3.0, 1.0, 5.0)
    many = effect_of(lambda medians: medians[0], np.arange(101.0)[None])
    assert many.value == 50.0
    assert 30 < many.low < 45 < 55 < many.high < 70


@pytest.mark.parametrize(
    ("narrow", "verdict"),
    [
        ([2.0, 3.0, 3.0, 4.0, 5.0], "holds"),
        ([0.1, 0.1, 0.2, 0.2, 0.3], "does not hold"),
        ([0.5, 2.0, 3.0, 3.0, 3.0], "undecided"),
    ],
)
def test_claim_is_judged_by_its_runs(narrow, verdict, tmp_path):
    claim = read_claim(write_claim(tmp_path))
    comparison = parse(tmp_path / "few.yaml")
    judgment = judge(claim, comparison, rows_with(comparison, {"narrow": narrow, "wide": [1] * 5}))
    assert judgment.verdict == verdict
    assert judgment.findings[0].estimate.value == pytest.approx(sorted(narrow)[2])


def test_claim_holds_only_if_all_its_conditions_do(tmp_path):
    wrong = {**RATIO, "at_least": 100.0}
    open_one = {**RATIO, "at_least": 2.5}
    comparison = None
    for conditions, verdict in (
        ([RATIO, RATIO], "holds"),
        ([RATIO, open_one], "undecided"),
        ([wrong, open_one], "does not hold"),
    ):
        claim = read_claim(write_claim(tmp_path, conditions=conditions))
        comparison = parse(tmp_path / "few.yaml")
        rows = rows_with(comparison, {"narrow": [2.0, 3.0, 3.0, 3.0, 3.0], "wide": [1] * 5})
        assert judge(claim, comparison, rows).verdict == verdict


@pytest.mark.parametrize(
    ("status", "told"), [("diverged", "seed 1 diverged"), ("out_of_time", "seed 1 out of time")]
)
def test_run_without_a_number_leaves_the_claim_undecided(status, told, tmp_path):
    claim = read_claim(write_claim(tmp_path))
    comparison = parse(tmp_path / "few.yaml")
    rows = rows_with(comparison, {"narrow": [2.0, 3.0, 3.0, 3.0, 3.0], "wide": [1] * 5})
    rows[1] = replace(rows[1], status=status)
    judgment = judge(claim, comparison, rows)
    assert judgment.verdict == "undecided"
    assert judgment.findings[0].reason == f"no val/nmse of narrow: {told}."


def test_metric_that_was_never_logged_leaves_the_claim_undecided(tmp_path):
    claim = read_claim(write_claim(tmp_path))
    comparison = parse(tmp_path / "few.yaml")
    rows = rows_with(comparison, {"narrow": [None, 3.0, 3.0, 3.0, 3.0], "wide": [1] * 5})
    judgment = judge(claim, comparison, rows)
    assert judgment.findings[0].reason == "no val/nmse of narrow: seed 0 has none."


def test_few_seeds_leave_the_claim_undecided(tmp_path):
    claim = read_claim(write_claim(tmp_path))
    comparison = replace(parse(tmp_path / "few.yaml"), seeds=[0, 1, 2, 3])
    rows = rows_with(comparison, {"narrow": [2.0] * 4, "wide": [1] * 4})
    judgment = judge(claim, comparison, rows)
    assert judgment.verdict == "undecided"
    assert judgment.findings[0].reason == "no interval from fewer than 5 seeds."


def test_ratio_to_zero_leaves_the_claim_undecided(tmp_path):
    claim = read_claim(write_claim(tmp_path))
    comparison = parse(tmp_path / "few.yaml")
    judgment = judge(claim, comparison, rows_with(comparison, {"narrow": [1] * 5, "wide": [0] * 5}))
    assert judgment.verdict == "undecided"
    assert judgment.findings[0].reason == "the effect is not finite: a median is 0."


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (Value(TERM), "val/nmse: a"),
        (Ratio(TERM, Term("b", "val/nmse", (("d", "8"),))), "val/nmse: a / b (d 8)"),
        (Ratio(TERM, Term("a", "other")), "a: val/nmse / other"),
        (Ratio(TERM, Term("b", "other")), "val/nmse of a / other of b"),
    ],
)
def test_effect_is_told_in_words(effect, words):
    assert effect_in_words(Condition("x", effect, at_most=1)) == words


@pytest.fixture
def told(tmp_path):
    """What the files of one judged claim are made from, and its figure."""
    claim = read_claim(write_claim(tmp_path))
    comparison = parse(tmp_path / "few.yaml")
    rows = rows_with(comparison, {"narrow": [20.0, 25.0, 25.0, 30.0, 30.0], "wide": [1.0] * 5})
    judgment = judge(claim, comparison, rows)
    content = {
        **{"status": "finished", "profile": "quick", "command": "bfc claims"},
        **{
            "versions": {"torch": "2"},
            "git": None,
            "claims": [as_json(judgment, runs="runs/few")],
        },
    }
    return json.loads(json.dumps(content)), claim_figure(judgment, comparison, rows)


def test_json_holds_effect_bounds_and_the_values_behind_them(told):
    entry = told[0]["claims"][0]["conditions"][0]
    assert entry["value"] == 25.0
    assert entry["interval"] == [20.0, 30.0]
    assert entry["at_least"] == 1.0
    assert "at_most" not in entry
    assert entry["terms"][0]["values"] == {"0": 20.0, "1": 25.0, "2": 25.0, "3": 30.0, "4": 30.0}


def test_markdown_tells_verdict_effect_and_limits(told):
    text = as_markdown(told[0])
    assert f"**{WORDS['sentence']}** Holds." in text
    assert "| val/nmse: narrow / wide | ≥ 1 | 25 [20, 30] | holds |" in text
    assert "What it does not show: Why." in text


def test_page_opens_without_a_server(told):
    content, figure = told
    text = as_html(content, {"width": encoded(figure)})
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,|#)', text) == []
    assert "<link" not in text
    assert "<script" not in text
    assert "@import" not in text
    assert text.count("data:image/png;base64,") == 1


def test_page_says_which_code_made_the_runs(told):
    content = {**told[0], "git": "a" * 40 + "-dirty", "revisions": ["b" * 40, "c" * 40]}
    text = as_html(content, {})
    assert "aaaaaaaaaa-dirty" in text
    assert "bbbbbbbbbb, cccccccccc" in text


def test_page_shows_words_as_they_are(told):
    text = as_html(told[0], {})
    assert "That width &lt;helps&gt;." in text
    assert "25 [20, 30]" in text
    assert "<img" not in text


def test_picture_has_a_dot_for_every_seed_of_every_learner(told):
    panel = told[1].axes[0]
    dots = [line.get_xdata() for line in panel.lines if line.get_marker() == "o"]
    assert [list(values) for values in dots] == [[20.0, 25.0, 25.0, 30.0, 30.0], [1.0] * 5]
    assert [label.get_text() for label in panel.get_yticklabels()] == ["narrow", "wide"]
    assert panel.get_xscale() == "log"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_claim_fits_its_comparisons(name):
    claim = read_claim(SHIPPED[name])
    for profile in PROFILES:
        comparison, _ = parse_comparison(["-c", str(claim.runs[profile])])
        check_claim(claim, comparison)
        assert len(comparison.seeds) >= 5
    assert f"#   bfc claims {name}" in SHIPPED[name].read_text()


def test_all_promised_claims_are_there():
    assert SHIPPED.keys() >= {
        *("joint", "layerwise", "kernels", "tangent_kernels", "random_features", "two_layers"),
        *("correction", "richness", "gap", "classification", "in_order", "three_layers", "scaling"),
    }


def test_document_is_made_from_the_json_beside_it():
    content = json.loads(Path("docs/claims.json").read_text(encoding="utf-8"))
    assert Path("docs/claims.md").read_text(encoding="utf-8") == as_markdown(content)
    told = {claim["name"]: claim["sentence"] for claim in content["claims"]}
    assert told == {name: read_claim(path).sentence for name, path in SHIPPED.items()}


@pytest.mark.parametrize("profile", PROFILES)
def test_comparisons_of_a_profile_have_names_of_their_own(profile):
    files = {read_claim(path).runs[profile].resolve() for path in SHIPPED.values()}
    assert len({file.stem for file in files}) == len(files)


@pytest.mark.parametrize(
    ("value", "words"),
    [(28712.3, "28,700"), (999.6, "1,000"), (44.76, "44.8"), (-1.9, "-1.9"), (7.4e-5, "7.4e-05")],
)
def test_numbers_have_three_figures(value, words):
    assert number(value) == words
