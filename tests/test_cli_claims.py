"""`bfc claims`, from words to verdicts."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bfc_lightning.cli import main
from bfc_lightning.experiments.own_folder import locked
from tests.claim_files import RATIO, write_claim
from tests.comparisons import write


def claims(folder: Path, *words: str) -> int:
    more = ["--configs", str(folder / "claims"), "--run.root", str(folder / "logs")]
    return main(["claims", *words, *more])


def told(folder: Path, name: str = "claims-quick") -> dict:
    return json.loads((folder / "logs" / name / "claims.json").read_text())


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A folder in which a claim was run: wide learners of tiny targets, twenty steps."""
    folder = tmp_path_factory.mktemp("claims")
    write_claim(folder)
    assert claims(folder) == 0
    return folder


def test_run_leaves_verdict_page_and_comparison(judged):
    folder = judged / "logs" / "claims-quick"
    content = told(judged)
    assert content["status"] == "finished"
    assert content["profile"] == "quick"
    entry = content["claims"][0]
    assert entry["verdict"] in ("holds", "does not hold", "undecided")
    values = entry["conditions"][0]["terms"][0]["values"]
    runs = folder / entry["runs"] / "runs"
    summary = json.loads((runs / "narrow-seed0" / "summary.json").read_text())
    assert values["0"] == summary["metrics"]["val/nmse"]
    assert "data:image/png;base64," in (folder / "claims.html").read_text()
    assert entry["verdict"].capitalize() in (folder / "claims.md").read_text()


def test_second_call_runs_nothing_and_says_the_same(judged, capsys):
    before = told(judged)["claims"]
    assert claims(judged) == 0
    assert told(judged)["claims"] == before
    printed = capsys.readouterr()
    assert "10 of 10 runs are done already" in printed.err
    assert f"{before[0]['verdict'].upper()}  width: A wide learner" in printed.out


@pytest.mark.slow
def test_two_runs_of_the_same_seeds_say_the_same(judged, tmp_path):
    write_claim(tmp_path)
    assert claims(tmp_path) == 0
    assert told(tmp_path)["claims"] == told(judged)["claims"]


@pytest.mark.slow
def test_seeds_can_be_given_and_have_a_folder_of_their_own(tmp_path):
    write_claim(tmp_path)
    assert claims(tmp_path, "--seeds", "[7, 8]", "--workers", "1") == 0
    content = told(tmp_path, "claims-quick-seeds7+8")
    terms = content["claims"][0]["conditions"][0]["terms"]
    assert [list(term["values"]) for term in terms] == [["7", "8"], ["7", "8"]]


@pytest.mark.slow
def test_claims_with_the_same_comparison_share_its_runs(tmp_path, capsys):
    write_claim(tmp_path)
    write_claim(tmp_path, "other", sentence="Another.")
    assert claims(tmp_path) == 0
    assert "comparison 1 of 1: few" in capsys.readouterr().err
    assert [claim["name"] for claim in told(tmp_path)["claims"]] == ["other", "width"]


@pytest.mark.slow
def test_failed_run_is_told_and_the_others_are_judged(tmp_path, capsys):
    broken = {
        "callbacks": [{"class_path": "tests.interventions.RaiseAt", "init_args": {"step": 3}}]
    }
    learners = {"narrow": {"trainer": broken}, "wide": {}}
    write(tmp_path, "broken", learners=learners, seeds=[0, 1, 2, 3, 4])
    write_claim(tmp_path, "a", runs={"quick": "broken.yaml", "full": "broken.yaml"})
    write_claim(tmp_path, "b")
    assert claims(tmp_path) == 1
    first, second = told(tmp_path)["claims"]
    assert first["verdict"] == "undecided"
    assert first["conditions"][0]["reason"].startswith("no val/nmse of narrow: seed 0 failed, ")
    assert second["conditions"][0]["value"] > 0
    assert "runs that failed: 5" in capsys.readouterr().err


def test_second_comparison_is_checked_before_the_first_is_run(tmp_path, capsys):
    write(tmp_path, "wrong", learners={"narrow": {"model": {"wdth": 3}}, "wide": {}})
    write_claim(tmp_path, "a")
    write_claim(tmp_path, "b", runs={"quick": "wrong.yaml", "full": "few.yaml"})
    assert claims(tmp_path) == 2
    assert "wdth" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_two_comparisons_of_one_name_are_refused(tmp_path, capsys):
    write_claim(tmp_path, "a")
    (tmp_path / "more").mkdir()
    write(tmp_path / "more", "few")
    write_claim(tmp_path, "b", runs={"quick": "more/few.yaml", "full": "few.yaml"})
    assert claims(tmp_path) == 2
    assert "comparisons must have different names, got few.yaml twice" in capsys.readouterr().err


def test_folder_at_work_is_left_to_the_one_who_works_there(judged, capsys):
    with locked(judged / "logs" / "claims-quick"):
        assert claims(judged) == 2
    assert "is being worked on by another bfc" in capsys.readouterr().err


def test_folder_of_something_else_is_left_alone(tmp_path, capsys):
    write_claim(tmp_path)
    precious = tmp_path / "logs" / "claims-quick" / "thesis.tex"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    assert claims(tmp_path, "--run.overwrite", "true") == 2
    assert "run.name must be free in" in capsys.readouterr().err
    assert precious.exists()


def test_folder_with_nothing_but_a_half_written_result_is_taken(tmp_path):
    write_claim(tmp_path)
    half = tmp_path / "logs" / "claims-quick" / ".claims.json.999999999.tmp"
    half.parent.mkdir(parents=True)
    half.write_text("{")
    assert claims(tmp_path) == 0
    assert told(tmp_path)["status"] == "finished"
    assert not half.exists()


@pytest.mark.slow
def test_metric_that_no_run_logged_is_told(tmp_path, capsys):
    term = {"learner": "wide", "metric": "val/nmze"}
    write_claim(tmp_path, conditions=[{"what": "x", "value": term, "at_most": 1}])
    assert claims(tmp_path) == 0
    assert "no run of few logged val/nmze; known: " in capsys.readouterr().err


@pytest.mark.slow
def test_overwriting_runs_everything_again(judged, tmp_path, capsys):
    shutil.copytree(judged, tmp_path, dirs_exist_ok=True)
    before = told(tmp_path)["claims"]
    assert claims(tmp_path, "--run.overwrite", "true") == 0
    assert "done already" not in capsys.readouterr().err
    assert told(tmp_path)["claims"] == before


MISTAKES = {
    "unknown claim": (["nope"], "a claim must be one of width, got 'nope'"),
    "unknown profile": (["--profile", "fast"], "profile"),
    "no claims there": (["--configs", "nowhere"], "configs must be a folder with claims"),
    "name with a slash": (["--run.name", "a/b"], "run.name must be a plain folder name, got 'a/b'"),
    "no workers": (["--workers", "0"], "workers must be at least 1, got 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_clear_line(name, tmp_path, capsys):
    words, message = MISTAKES[name]
    write_claim(tmp_path)
    configs = ["--configs", str(tmp_path / "claims")]
    assert main(["claims", "--run.root", str(tmp_path / "logs"), *configs, *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "logs").exists()


def test_unknown_learner_lists_the_known_ones(tmp_path, capsys):
    term = {"learner": "wider", "metric": "val/nmse"}
    write_claim(tmp_path, conditions=[{"what": "x", "value": term, "at_most": 1}])
    assert claims(tmp_path) == 2
    assert "learner must be one of narrow, wide, got 'wider'" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_list_prints_names_and_sentences(tmp_path, capsys):
    write_claim(tmp_path)
    assert claims(tmp_path, "--list", "true") == 0
    assert capsys.readouterr().out == "width: A wide learner is better than a narrow one.\n"
    assert not (tmp_path / "logs").exists()


def test_help_is_quick():
    code = (
        "import sys; from bfc_lightning.cli import main; status = main(['claims', '--help']);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "claims.html" in done.stdout


@pytest.mark.slow
def test_stopped_run_goes_on_where_it_was(judged, tmp_path):
    write(tmp_path, "more", seeds=[0, 1, 2, 3, 4])
    entry = {**RATIO, "at_least": 0.5}
    write_claim(
        tmp_path, "more", conditions=[entry], runs={"quick": "more.yaml", "full": "few.yaml"}
    )
    write_claim(tmp_path)
    command = [str(Path(sys.executable).with_name("bfc")), "claims", "--workers", "1"]
    command += ["--configs", str(tmp_path / "claims"), "--run.root", str(tmp_path / "logs")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        runs = tmp_path / "logs" / "claims-quick" / "runs" / "more" / "runs"
        deadline = time.monotonic() + 120
        while not list(runs.glob("*/summary.json")) and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert "go on: bfc claims" in process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert told(tmp_path)["status"] == "running"
    assert told(tmp_path)["claims"] == []
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    whole = {claim["name"]: claim for claim in told(tmp_path)["claims"]}
    assert whole.keys() == {"more", "width"}
    assert whole["width"] == told(judged)["claims"][0]
