"""Files that are never half written."""

import json
import os
import sys
import threading
from pathlib import Path

import pytest

from bfc_lightning.cli import main
from bfc_lightning.files import remove_unfinished, replacing, write_atomically, write_json
from tests.comparisons import write
from tests.runs import TINY, fit


def test_write_replaces_the_text_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "summary.txt"
    write_atomically(path, "old")
    write_atomically(path, "néw\n")
    assert path.read_text(encoding="utf-8") == "néw\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.txt"]


def test_reader_of_the_old_file_keeps_the_old_text(tmp_path):
    path = tmp_path / "summary.txt"
    path.write_text("old and longer")
    with path.open() as reader:
        write_atomically(path, "new")
        assert reader.read() == "old and longer"
    assert path.read_text() == "new"


def test_interrupted_write_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "summary.txt"
    path.write_text("old")

    def fail(self, other):
        raise OSError("interrupted")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="interrupted"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_json_comes_back_with_null_for_what_it_cannot_hold(tmp_path):
    path = tmp_path / "summary.json"
    write_json(
        path,
        {
            "status": "diverged",
            "steps": 3,
            "flag": True,
            "metrics": {"nmse": float("nan"), "error": 0.25},
            "replicas": [{"loss": float("inf")}, (1.5, float("-inf"))],
        },
    )
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert json.loads(text, parse_constant=pytest.fail) == {
        "status": "diverged",
        "steps": 3,
        "flag": True,
        "metrics": {"nmse": None, "error": 0.25},
        "replicas": [{"loss": None}, [1.5, None]],
    }


def test_content_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"steps": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json(path, {"steps": {1, 2}})
    assert json.loads(path.read_text()) == {"steps": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]


def test_failed_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("old")

    def fail_halfway():
        with replacing(path) as beside:
            beside.write_text("half of the n")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail_halfway()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["picture.png"]


NOBODY = 99999999
"""A number above those of all processes."""


def touch(folder: Path, *names: str) -> list[Path]:
    (folder / "below").mkdir()
    paths = [folder / name for name in names]
    for path in paths:
        path.write_text("")
    return paths


def grow_old(path: Path, seconds: float) -> None:
    changed = path.stat().st_mtime - seconds
    os.utime(path, (changed, changed))


def test_what_a_killed_process_left_is_removed_and_nothing_of_the_users(tmp_path):
    gone = touch(tmp_path, f".a.csv.{NOBODY}.tmp", f"below/.b.{NOBODY}.tmp", "below/.last.ckpt.tmp")
    grow_old(gone[-1], 120)
    tree = tmp_path / "below" / f".a-seed0.{NOBODY}.tmp"
    (tree / "checkpoints").mkdir(parents=True)
    users = (".hidden", "a.tmp", ".notes.tmp", "below/.summary.json", f"b.{NOBODY}.tmp")
    kept = [tmp_path / name for name in users]
    for path in kept:
        path.write_text("")
    remove_unfinished(tmp_path)
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in (*gone, tree))


def test_what_a_living_process_is_writing_stays(tmp_path):
    names = [f".a.csv.{os.getppid()}.tmp", "below/.last.ckpt.tmp"]
    other, checkpoint, own = touch(tmp_path, *names, f".a.csv.{os.getpid()}.tmp")
    remove_unfinished(tmp_path)
    assert other.exists()
    assert checkpoint.exists()
    assert not own.exists()  # of one that was killed, and had the number that is ours now


WRITTEN: list[str] = []
"""What is opened for writing, while `IS_WATCHING`: an audit hook cannot be taken away again."""
IS_WATCHING = threading.Event()


def note(event, arguments):
    if event == "open" and IS_WATCHING.is_set():
        path, mode, flags = arguments
        if isinstance(path, str | Path) and flags & (os.O_WRONLY | os.O_RDWR) and mode != "a":
            WRITTEN.append(str(path))


sys.addaudithook(note)


@pytest.mark.slow
def test_no_file_of_a_run_or_comparison_is_written_in_its_place(tmp_path):
    comparison = write(tmp_path, learners={"wide": {}}, seeds=[0])
    WRITTEN.clear()
    IS_WATCHING.set()
    try:
        assert fit(tmp_path / "logs", "--run.figures", "true") == 0
        for command in ("validate", "test", "predict"):
            assert main([command, "-c", TINY, "--run.root", str(tmp_path / "logs")]) == 0
        assert main(["compare", "-c", str(comparison)]) == 0
    finally:
        IS_WATCHING.clear()
    here = [Path(path) for path in WRITTEN if Path(path).is_relative_to(tmp_path / "logs")]
    in_place = {path.name for path in here if not path.name.endswith(".tmp")}
    assert {path for path in in_place if not path.startswith("events.")} == set()
    names = {
        path.name.removeprefix(".").removesuffix(".tmp").rstrip("0123456789.") for path in here
    }
    assert names >= {"config.yaml", "summary.json", "metrics.csv", "last.ckpt", "best.ckpt"}
    assert names >= {"validate.json", "test.json", "predictions.npz", "learning_curves.png"}
    assert names >= {"compare.csv", "compare.md", "compare.png", "compare.yaml"}
    assert not list((tmp_path / "logs").rglob("*.tmp"))
