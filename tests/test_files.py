"""Files are replaced atomically."""

import json
from pathlib import Path

import pytest

from bfc_lightning.files import remove_unfinished, replacing, write_atomically, write_json


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_write_replaces_the_text_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "summary.txt"
    write_atomically(path, "old")
    with path.open() as reader:
        write_atomically(path, "néw\n")
        assert reader.read() == "old"
    assert path.read_text(encoding="utf-8") == "néw\n"
    assert names(tmp_path) == ["summary.txt"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failed_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "picture.png"
    path.write_text("old")

    def fail_halfway():
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        fail_halfway()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["picture.png"]


def test_symbolic_link_is_replaced_and_not_its_target(tmp_path):
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    write_atomically(link, "new")
    assert (link.read_text(), link.is_symlink()) == ("new", False)
    assert target.read_text() == "old"


def test_json_holds_null_for_numbers_that_are_not_finite(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"a": float("nan"), "b": [{"c": float("inf")}, (1.5, float("-inf"))]})
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n")
    expected = {"a": None, "b": [{"c": None}, [1.5, None]]}
    assert json.loads(text, parse_constant=pytest.fail) == expected


def test_unfinished_files_and_folders_are_removed_and_all_others_kept(tmp_path):
    removed = [".a.csv.123.tmp", "below/.last.ckpt.tmp", "below/.run-seed0.123.tmp/config.yaml"]
    kept = [".hidden", "a.tmp", "below/.summary.json", "below/deeper/.b.123.tmp"]
    for path in (tmp_path / name for name in removed + kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    remove_unfinished(tmp_path)
    assert not any((tmp_path / name).exists() for name in removed)
    assert all((tmp_path / name).exists() for name in kept)
    assert not (tmp_path / "below/.run-seed0.123.tmp").exists()
