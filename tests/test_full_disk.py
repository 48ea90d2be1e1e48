"""A full or read-only disk: one line, nothing lost, and the run continues later."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.runs import TINY, assert_same_run, error_line, fit, summary

# Python turns the signal of a file beyond the limit into an OSError.
LIMITED = """
import resource, sys
from bfc_lightning.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
sys.exit(main())
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    assert fit(root) == 0
    return root / "tiny"


def assert_continues(whole: Path, folder: Path, *argv: str) -> None:
    for path in folder.glob("checkpoints/*.ckpt"):
        torch.load(path, weights_only=True)
    assert not list(folder.rglob(".*.tmp"))
    assert fit(folder.parent, "--resume", "auto", *argv) == 0
    assert_same_run(whole, folder)


# The checkpoints have about 19 kB. The events of TensorBoard grow beyond 20 kB if every step is
# logged, after a checkpoint has been saved.
@pytest.mark.slow
@pytest.mark.parametrize(("size", "steps"), [(9_000, 0), (20_000, 20)])
def test_run_that_reaches_a_limit_of_file_size_continues_without_it(tmp_path, size, steps):
    every = ["--trainer.log_every_n_steps", "1"]
    assert fit(tmp_path / "whole", *every) == 0
    argv = ["fit", "-c", TINY, "--run.root", str(tmp_path), *every]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(size), *argv],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "File too large" in error_line(done.stderr)
    assert "to continue: bfc fit -c" in done.stderr
    assert steps <= summary(tmp_path / "tiny")["steps"] < 60
    assert_continues(tmp_path / "whole" / "tiny", tmp_path / "tiny", *every)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no command to mount a file system")
    if done.returncode:
        pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("free_kilobytes", [4, 36, 72])
def test_full_disk_is_exit_code_1_and_the_run_continues_later(
    whole, small_disk, capsys, free_kilobytes
):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1024 * (256 - free_kilobytes)))
    assert fit(small_disk) == 1
    assert "No space left on device" in error_line(capsys.readouterr().err)
    filler.unlink()
    assert_continues(whole, small_disk / "tiny")


def test_read_only_folder_is_refused_and_unchanged(small_disk, capsys):
    assert fit(small_disk, "--trainer.max_steps", "40") == 0
    before = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    capsys.readouterr()
    for argv in (
        ["--run.name", "new"],
        ["--run.name", "tiny", "--run.overwrite", "true"],
        ["--resume", "auto", "--trainer.max_steps", "40"],
    ):
        assert fit(small_disk, *argv) == 2
        assert "Read-only file system" in error_line(capsys.readouterr().err)
    assert {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()} == before
