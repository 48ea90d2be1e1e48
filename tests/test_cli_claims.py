"""`bfc claims`, from arguments to verdicts."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bfc_lightning.cli import main
from tests.claim_files import RATIO, write_claim
from tests.experiments import callback, gate, write
from tests.runs import error_of


def claims(folder: Path, *argv: str) -> int:
    options = ["--configs", str(folder / "claims"), "--run.root", str(folder / "logs")]
    return main(["claims", *argv, *options])


def written(folder: Path, name: str = "claims-quick") -> dict:
    return json.loads((folder / "logs" / name / "claims.json").read_text())


def prepare(folder: Path, **content: object) -> Path:
    """A claim about two learners with two seeds."""
    write_claim(folder)
    write(folder, **content)
    return folder


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("claims"), seeds=[0, 1, 2, 3, 4])
    assert claims(folder) == 0
    return folder


def test_claims_leave_verdict_page_and_runs(judged):
    folder = judged / "logs" / "claims-quick"
    content = written(judged)
    assert content["status"] == "finished"
    assert content["profile"] == "quick"
    (entry,) = content["claims"]
    assert entry["verdict"] in ("holds", "does not hold", "undecided")
    values = entry["conditions"][0]["terms"][0]["values"]
    run = folder / entry["runs"] / "runs" / "narrow-seed0"
    assert values["0"] == json.loads((run / "summary.json").read_text())["metrics"]["val/nmse"]
    assert "data:image/png;base64," in (folder / "claims.html").read_text()
    assert entry["verdict"].capitalize() in (folder / "claims.md").read_text()


def test_verdict_follows_from_the_bounds(judged, tmp_path, capsys):
    shutil.copytree(judged, tmp_path, dirs_exist_ok=True)
    ratio = written(judged)["claims"][0]["conditions"][0]
    low, high = ratio["interval"]
    for at_least, verdict in ((low / 2, "HOLDS"), (high * 2, "DOES NOT HOLD")):
        write_claim(tmp_path, conditions=[{**RATIO, "at_least": at_least}])
        assert claims(tmp_path) == 0
        assert f"\n{verdict}  width: A wide learner" in capsys.readouterr().out


def test_the_same_command_again_runs_nothing(judged, capsys):
    before = written(judged)["claims"]
    assert claims(judged) == 0
    assert written(judged)["claims"] == before
    assert "10/10 runs were finished before." in capsys.readouterr().err


def test_seeds_have_a_folder_of_their_own_and_claims_share_runs(tmp_path, capsys):
    other = {**RATIO["ratio"], "of": {"learner": "narrow", "metric": "val/nmze"}}
    conditions = [RATIO, {**RATIO, "ratio": other}]
    write_claim(prepare(tmp_path), "other", sentence="Another.", conditions=conditions)
    assert claims(tmp_path, "--seeds", "[7]") == 0
    error = capsys.readouterr().err
    assert "experiment 1 of 1: few" in error
    assert "without metric 'val/nmze'. Did you mean 'val/nmse'?" in error
    found = written(tmp_path, "claims-quick-seeds7")["claims"]
    assert [claim["name"] for claim in found] == ["other", "width"]
    terms = found[0]["conditions"][0]["terms"]
    assert [list(term["values"]) for term in terms] == [["7"], ["7"]]
    assert found[0]["verdict"] == "undecided"


def test_failed_runs_leave_their_claim_undecided(tmp_path):
    broken = {"narrow": callback("FailAt", step=3, message="only here"), "wide": {}}
    prepare(tmp_path, learners=broken, seeds=[0])
    assert claims(tmp_path) == 1
    (entry,) = written(tmp_path)["claims"]
    assert entry["verdict"] == "undecided"
    values = [term["values"].keys() for term in entry["conditions"][0]["terms"]]
    assert values == [set(), {"0"}]


def test_every_experiment_is_checked_before_the_first_one_runs(tmp_path, capsys):
    prepare(tmp_path)
    learners = {"narrow": {"model": {"wdth": 3}}, "wide": {}}
    write(tmp_path, "wrong", learners=learners)
    write_claim(tmp_path, "z", runs={"quick": "wrong.yaml", "full": "few.yaml"})
    assert claims(tmp_path) == 2
    assert "wdth" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path, capsys):
    thesis = prepare(tmp_path) / "logs" / "claims-quick" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("precious")
    assert claims(tmp_path, "--run.overwrite", "true") == 2
    assert "choose another run.name" in capsys.readouterr().err
    assert [path.name for path in thesis.parent.iterdir()] == ["thesis.tex"]


def test_list_prints_names_and_sentences(tmp_path, capsys):
    assert claims(prepare(tmp_path), "--list") == 0
    assert capsys.readouterr().out == "width: A wide learner is better than a narrow one.\n"
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["widht"], "unknown claim 'widht'. Did you mean 'width'"),
        (["--profile", "fast"], "profile: expected one of 'quick', 'full'"),
        (["--configs", "nowhere"], "configs must be a folder with claims"),
        (["-c", "nowhere"], "configs must be a folder with claims"),
        (["--run.name", "a/b"], "run.name must be a plain folder name, got 'a/b'"),
        (["--seed", "[1]"], "Did you mean 'seeds'"),
        (["--seeds", "1"], "seeds"),
    ],
)
def test_wrong_arguments_are_one_line(argv, part, tmp_path, capsys):
    prepare(tmp_path)
    options = ["--configs", str(tmp_path / "claims"), "--run.root", str(tmp_path / "logs")]
    assert part in error_of(capsys, "claims", *options, *argv)
    assert not (tmp_path / "logs").exists()


def test_an_unknown_learner_of_a_claim_lists_the_known_ones(tmp_path, capsys):
    prepare(tmp_path)
    term = {"learner": "wider", "metric": "val/nmse"}
    write_claim(tmp_path, conditions=[{"what": "x", "value": term, "at_most": 1}])
    assert claims(tmp_path) == 2
    assert "learner must be one of narrow, wide, got 'wider'" in capsys.readouterr().err


@pytest.mark.slow
def test_stopped_claims_continue(tmp_path):
    go, gated = gate(tmp_path)
    prepare(tmp_path, learners={"narrow": gated, "wide": {}}, seeds=[0, 1, 2])
    argv = ["--configs", str(tmp_path / "claims"), "--run.root", str(tmp_path / "logs")]
    process = subprocess.Popen(
        [sys.executable, "-m", "bfc_lightning", "claims", *argv], stderr=subprocess.PIPE, text=True
    )
    runs = tmp_path / "logs" / "claims-quick" / "runs" / "few" / "runs"
    while not list(runs.glob("*/checkpoints/last.ckpt")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "to continue: bfc claims" in process.communicate(timeout=60)[1]
    go.touch()
    assert process.returncode == 143
    assert written(tmp_path)["status"] == "running"
    assert written(tmp_path)["claims"] == []
    assert claims(tmp_path) == 0
    stopped = written(tmp_path)["claims"]
    shutil.rmtree(tmp_path / "logs")
    assert claims(tmp_path) == 0
    assert written(tmp_path)["claims"] == stopped
