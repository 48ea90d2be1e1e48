"""Files that are never half written."""

import json
from pathlib import Path

import pytest

from bfc_lightning.files import write_atomically, write_json


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
