"""Checkpoints that are damaged, missing or dangerous: what is gone on from, and what is refused."""

import errno
import math
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bfc_lightning.callbacks import checkpoints
from bfc_lightning.cli import main
from tests.interventions import SimulatedKillError
from tests.runs import checkpoint, fit, intervene, same_weights


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """`whole` was never disturbed, `killed` was killed at step 50."""
    root = tmp_path_factory.mktemp("runs")
    assert fit(root, "--run.name", "whole") == 0
    with pytest.raises(SimulatedKillError):
        fit(root, "--run.name", "killed", *intervene("RaiseAt", step=50))
    return root


@pytest.fixture
def killed(runs, tmp_path) -> Path:
    shutil.copytree(runs / "killed", tmp_path / "killed")
    return tmp_path / "killed"


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip_a_bit_of_a_weight(path: Path) -> None:
    with zipfile.ZipFile(path) as parts:
        weights = [part for part in parts.infolist() if "/data/" in part.filename]
    largest = max(weights, key=lambda part: part.file_size)
    content = bytearray(path.read_bytes())
    header = content[largest.header_offset : largest.header_offset + 30]
    start = sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    content[largest.header_offset + 30 + start + 4] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # torch does not see it


@pytest.mark.parametrize("damage", [cut_off, empty, flip_a_bit_of_a_weight, os.unlink])
def test_run_goes_back_to_the_checkpoint_before_a_damaged_one(runs, killed, capsys, damage):
    damage(killed / "checkpoints" / "last.ckpt")
    before = checkpoint(killed, "previous")["global_step"]
    assert 0 < before < 40
    capsys.readouterr()
    assert fit(killed.parent, "--run.name", "killed", "--resume", "auto") == 0
    error = capsys.readouterr().err
    warnings = [line for line in error.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert str(killed / "checkpoints" / "last.ckpt") in warnings[0]
    assert f"Going back to {killed}/checkpoints/previous.ckpt." in warnings[0]
    assert f"going on from step {before}" in error
    assert same_weights(runs / "whole", killed)
    for name in ("best", "last"):
        assert checkpoint(killed, name)["global_step"] == 60
    rows = (killed / "metrics.csv").read_text()
    assert rows == (runs / "whole" / "metrics.csv").read_text()


def test_damaged_checkpoint_is_never_kept_as_the_one_before(killed):
    cut_off(killed / "checkpoints" / "last.ckpt")
    words = ["--run.name", "killed", "--resume", "auto", *intervene("RaiseAt", step=45)]
    with pytest.raises(SimulatedKillError):
        fit(killed.parent, *words)
    assert checkpoint(killed, "last")["global_step"] == 40
    assert checkpoint(killed, "previous")["global_step"] < 40


def test_checkpoint_of_a_later_step_than_the_run_is_not_kept_as_the_one_before(killed):
    """One goes on from an older file: what lies there would leave a gap in the metrics."""
    folder = killed / "checkpoints"
    shutil.copy(folder / "previous.ckpt", folder / "mine.ckpt")
    words = ["--run.name", "killed", "--resume", str(folder / "mine.ckpt")]
    with pytest.raises(SimulatedKillError):
        fit(killed.parent, *words, *intervene("RaiseAt", step=25))
    assert not (folder / "previous.ckpt").exists()


def test_run_with_no_whole_checkpoint_is_refused_with_a_way_out(killed, capsys):
    cut_off(killed / "checkpoints" / "last.ckpt")
    cut_off(killed / "checkpoints" / "previous.ckpt")
    before = sorted(path.name for path in killed.rglob("*"))
    assert fit(killed.parent, "--run.name", "killed", "--resume", "auto") == 2
    assert capsys.readouterr().err.count("\n") == 1
    (killed / "checkpoints" / "previous.ckpt").unlink()
    assert fit(killed.parent, "--run.name", "killed", "--resume", "auto") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "which is damaged" in error
    assert "--run.overwrite true starts afresh" in error
    assert sorted({path.name for path in killed.rglob("*")} | {"previous.ckpt"}) == before


@pytest.mark.parametrize("damage", [cut_off, empty, flip_a_bit_of_a_weight])
@pytest.mark.parametrize("command", ["fit", "test"])
def test_damaged_checkpoint_by_its_path_is_one_line(killed, capsys, damage, command):
    path = killed / "checkpoints" / "best.ckpt"
    damage(path)
    option = {"fit": "--resume", "test": "--ckpt_path"}[command]
    words = [command, "-c", str(killed / "config.yaml"), option, str(path)]
    assert main([*words, "--trainer.callbacks", "null"]) == 2
    error = capsys.readouterr().err
    assert f"the checkpoint must be readable, got {path}, which is damaged" in error
    assert error.count("\n") == 1


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("is_bare", [False, True])
def test_code_in_a_checkpoint_is_not_run(killed, tmp_path, capsys, is_bare):
    path, trace = killed / "checkpoints" / "last.ckpt", tmp_path / "trace"
    content = checkpoint(killed)
    content["bfc_lightning"]["identity"]["seed_everything"] = Payload(trace)
    if is_bare:
        path = tmp_path / "bare.ckpt"
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    words = (
        [["--resume", str(path)]] if is_bare else [["--resume", "auto"], ["--resume", str(path)]]
    )
    for resume in words:
        assert fit(tmp_path, "--run.name", "killed", *resume) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert is_bare or "must hold nothing but data" in error
        assert not trace.exists()


@pytest.mark.parametrize("content", [[1], {"a": 1}, {"bfc_lightning": {"format": 3}}, None])
def test_checkpoint_of_something_else_is_one_line(tmp_path, capsys, content):
    torch.save(content, tmp_path / "other.ckpt")
    assert fit(tmp_path, "--resume", str(tmp_path / "other.ckpt")) == 2
    assert "must come from bfc fit" in capsys.readouterr().err


def test_no_moment_is_without_a_last_checkpoint(tmp_path, monkeypatch):
    """At every call that changes names, `last.ckpt` is there and whole, once it was."""
    last = tmp_path / "tiny" / "checkpoints" / "last.ckpt"
    seen = []

    def watched(call):
        def watching(source, goal):
            call(source, goal)
            if last.exists():
                seen.append(torch.load(last, weights_only=True)["global_step"])
            else:
                assert not seen

        return watching

    monkeypatch.setattr(checkpoints.os, "link", watched(os.link))
    monkeypatch.setattr(checkpoints.os, "replace", watched(os.replace))
    monkeypatch.setattr(checkpoints, "_SYNC_SECONDS", 0.0)
    assert fit(tmp_path) == 0
    assert sorted(set(seen)) == [20, 40, 60]
    assert checkpoint(tmp_path / "tiny", "previous")["global_step"] == 40


def test_file_system_without_hard_links_keeps_the_checkpoint_before_too(tmp_path, monkeypatch):
    def refuse(source, goal):
        raise OSError("no hard links")

    monkeypatch.setattr(checkpoints.os, "link", refuse)
    monkeypatch.setattr(checkpoints, "_SYNC_SECONDS", math.inf)  # the first one only
    assert fit(tmp_path) == 0
    assert checkpoint(tmp_path / "tiny", "previous")["global_step"] == 20


def test_checkpoint_of_a_users_callback_is_written_beside_its_place(tmp_path, monkeypatch):
    files, path = checkpoints.CheckpointFiles(), tmp_path / "new" / "mine.ckpt"
    files.save_checkpoint({"step": 1}, path)
    write = checkpoints.write_checkpoint

    def fail_halfway(content, beside):
        write(content, beside)
        os.truncate(beside, 100)
        raise OSError("full")

    monkeypatch.setattr(checkpoints, "write_checkpoint", fail_halfway)
    with pytest.raises(OSError, match="full"):
        files.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["mine.ckpt"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_checkpoint_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(
    killed, capsys, monkeypatch, number
):
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number), "last.ckpt")

    before = (killed / "metrics.csv").read_text()
    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    capsys.readouterr()
    assert main(["fit", "-c", str(killed / "config.yaml"), "--resume", "auto"]) == 2
    told = capsys.readouterr().err
    assert os.strerror(number) in told
    assert "damaged" not in told
    assert "overwrite" not in told
    assert (killed / "metrics.csv").read_text() == before


def test_refused_resumption_keeps_every_row(killed, capsys):
    before = (killed / "metrics.csv").read_text()
    words = ["--resume", str(killed / "checkpoints" / "previous.ckpt"), "--training_path", "fast"]
    words += ["--trainer.detect_anomaly", "true"]
    assert main(["fit", "-c", str(killed / "config.yaml"), *words]) == 2
    assert "detect_anomaly" in capsys.readouterr().err
    assert (killed / "metrics.csv").read_text() == before


def test_best_checkpoint_is_on_the_disk_at_the_end_though_it_is_no_new_one(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(checkpoints, "sync_to_disk", lambda path: synced.append(path.name))
    callback = checkpoints.Checkpoints(tmp_path, monitor="val/nmse", record={})
    trainer = SimpleNamespace(loggers=[])
    for is_best, sync in ((True, False), (False, True), (False, True)):
        beside = tmp_path / ".last.ckpt.tmp"
        beside.write_bytes(b"whole")
        callback._put_in_place(trainer, beside, is_best=is_best, sync=sync)
    assert synced == [".last.ckpt.tmp", "best.ckpt", ".last.ckpt.tmp"]


def test_trainer_writes_checkpoints_of_a_users_callback_as_ours(tmp_path, monkeypatch):
    folder, written = tmp_path / "mine", []
    write = checkpoints.write_checkpoint

    def watched(content, path):
        write(content, path)
        if path.parent == folder:
            written.append((path.name, content["global_step"], sorted(os.listdir(folder))))

    monkeypatch.setattr(checkpoints, "write_checkpoint", watched)
    words = ["--trainer.callbacks+", "lightning.pytorch.callbacks.ModelCheckpoint"]
    options = {"dirpath": folder, "filename": "{step}", "every_n_train_steps": 25, "save_top_k": -1}
    for key, value in options.items():
        words += [f"--trainer.callbacks.{key}", str(value)]
    assert fit(tmp_path, *words) == 0
    first, second = (f".step={step}.ckpt.{os.getpid()}.tmp" for step in (25, 50))
    assert written == [(first, 25, [first]), (second, 50, [second, "step=25.ckpt"])]
    assert sorted(os.listdir(folder)) == ["step=25.ckpt", "step=50.ckpt"]
    assert torch.load(folder / "step=50.ckpt", weights_only=True)["global_step"] == 50
