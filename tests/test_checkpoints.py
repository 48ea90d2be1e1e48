"""Checkpoint files: what is in them, and that damaged or dangerous ones are refused."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from bfc_lightning.callbacks import checkpoints
from bfc_lightning.callbacks.run_files import read_metrics
from bfc_lightning.cli import main
from tests.runs import BARE, checkpoint, error_line, fit, intervene, user_callback


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("run")
    assert fit(root, *BARE, "--run.name", "stopped", *intervene("SignalAt", step=50)) == 130
    return root / "stopped"


@pytest.fixture
def stopped(run, tmp_path) -> Path:
    shutil.copytree(run, tmp_path / "stopped")
    return tmp_path / "stopped"


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def resume(folder: Path, checkpoint: str = "auto") -> int:
    config = str(folder / "config.yaml")
    return main(["fit", "-c", config, "--trainer.callbacks", "null", "--resume", checkpoint])


@pytest.mark.parametrize("size", [0, 100, 5000])
def test_truncated_checkpoint_is_one_line_and_nothing_is_overwritten(stopped, capsys, size):
    last = stopped / "checkpoints" / "last.ckpt"
    os.truncate(last, size)
    before = content_of(stopped)
    assert resume(stopped) == 2
    assert f"{last} is damaged" in error_line(capsys.readouterr().err)
    assert main(["test", "-c", str(stopped / "config.yaml"), "--ckpt_path", "last"]) == 2
    assert f"{last} is damaged" in error_line(capsys.readouterr().err)
    assert content_of(stopped) == before
    assert resume(stopped, str(stopped / "checkpoints" / "best.ckpt")) == 0


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda c, path: path.write_bytes(pickle.dumps(c))])
def test_code_in_a_checkpoint_is_refused_and_not_run(stopped, tmp_path, capsys, save):
    path, trace = stopped / "checkpoints" / "last.ckpt", tmp_path / "trace"
    content = checkpoint(stopped)
    content["bfc_lightning"]["identity"]["seed_everything"] = Payload(trace)
    save(content, path)
    before = content_of(stopped)
    for command in (["fit", "--resume", "auto"], ["test", "--ckpt_path", str(path)]):
        assert main([command[0], "-c", str(stopped / "config.yaml"), *command[1:]]) == 2
        assert str(path) in error_line(capsys.readouterr().err)
    assert not trace.exists()
    assert content_of(stopped) == before


@pytest.mark.parametrize("content", [[1], {"a": 1}, {"bfc_lightning": {}}, None])
def test_checkpoint_of_another_program_is_refused(stopped, tmp_path, capsys, content):
    torch.save(content, tmp_path / "other.ckpt")
    assert resume(stopped, str(tmp_path / "other.ckpt")) == 2
    assert "does not come from bfc fit" in error_line(capsys.readouterr().err)


def test_state_that_could_not_be_read_is_refused_at_the_first_save(tmp_path, capsys):
    assert fit(tmp_path, *BARE, *intervene("NumPyState")) == 2
    assert "the state of NumPyState must" in error_line(capsys.readouterr().err)
    assert not (tmp_path / "tiny" / "checkpoints").exists()


def test_checkpoint_that_cannot_be_read_is_not_called_damaged(stopped, capsys, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", "last.ckpt")

    before = content_of(stopped)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert resume(stopped) == 2
    message = error_line(capsys.readouterr().err)
    assert "Permission denied" in message
    assert "damaged" not in message
    monkeypatch.undo()
    assert content_of(stopped) == before


def test_best_checkpoint_has_the_lowest_score(tmp_path):
    grows = ["--model.lr_scheduler", "ExponentialLR", "--model.lr_scheduler.gamma", "1.1"]
    assert fit(tmp_path, *BARE, *grows, "--trainer.val_check_interval", "4") == 0
    rows = read_metrics(tmp_path / "tiny" / "metrics.csv")
    scores = {row["step"]: row["val/nmse"] for row in rows if "val/nmse" in row}
    assert list(scores) == list(range(4, 61, 4))
    best = min(scores, key=scores.__getitem__)
    assert best < 60
    assert checkpoint(tmp_path / "tiny", "best")["global_step"] == best
    assert checkpoint(tmp_path / "tiny", "last")["global_step"] == 60


# The callback is not part of the resumed run; Lightning says so.
@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint.*")
def test_checkpoints_of_a_users_callback_are_written_at_their_steps_and_can_be_resumed(tmp_path):
    own = tmp_path / "own"
    argv = user_callback(
        "ModelCheckpoint", every_n_train_steps=25, save_top_k=-1, dirpath=own, filename="{step}"
    )
    assert fit(tmp_path, *BARE, *argv, "--run.name", "whole") == 0
    assert sorted(os.listdir(own)) == ["step=25.ckpt", "step=50.ckpt"]
    for step in (25, 50):
        saved = torch.load(own / f"step={step}.ckpt", weights_only=True)
        assert saved["global_step"] == step
    assert fit(tmp_path, *BARE, "--run.name", "again", "--resume", str(own / "step=25.ckpt")) == 0
    one, other = (checkpoint(tmp_path / name)["state_dict"] for name in ("whole", "again"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("end", "code"),
    [([], 0), (intervene("FailAt", step=55), 1), (intervene("SignalAt", step=55), 130)],
)
def test_states_that_wait_in_memory_are_written_however_the_run_ends(
    tmp_path, monkeypatch, end, code
):
    argv = [*BARE, "--trainer.val_check_interval", "5", "--model.optimizer.lr", "0.3", *end]
    for seconds in (0.0, 1e9):
        monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN_WRITES", seconds)
        assert fit(tmp_path, *argv, "--run.name", str(seconds)) == code
    often, rarely = tmp_path / "0.0", tmp_path / "1000000000.0"
    steps = []
    for name in ("best", "last"):
        one, other = checkpoint(often, name), checkpoint(rarely, name)
        assert one["global_step"] == other["global_step"]
        steps.append(one["global_step"])
        torch.testing.assert_close(one["state_dict"], other["state_dict"], rtol=0, atol=0)
    assert steps[0] < steps[1]
