"""No space, and no leave to write: one line, no harm to what was there, and the run can go on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bfc_lightning.cli import main
from tests.faults.folders import differences, unreadable
from tests.runs import TINY, fit, summary

# Python makes an error of the signal that a file beyond the limit brings.
LIMITED = """
import resource, sys
from bfc_lightning.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
sys.exit(main())
"""
# Of the tiny run, a checkpoint has 19 kB, TensorBoard's events end at 25 kB.
SIZES = {"first checkpoint": 9_000, "events": 21_000}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    assert fit(root) == 0
    return root / "tiny"


def assert_told(told: str, *words: str) -> None:
    """One line says what is wrong, and no traceback."""
    assert "Traceback" not in told
    lines = [line for line in told.splitlines() if line.startswith("bfc: error")]
    assert len(lines) == 1, told
    assert all(word in lines[0] for word in words), lines[0]


def assert_goes_on(whole: Path, folder: Path) -> None:
    assert fit(folder.parent, "--resume", "auto") == 0
    assert differences(whole, folder) == []
    assert unreadable(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize("where", SIZES)
def test_run_that_reaches_a_limit_of_file_size_goes_on_without_it(whole, tmp_path, where):
    words = ["fit", "-c", TINY, "--run.root", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(SIZES[where]), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 1
    assert_told(done.stderr, "no space is left", "File too large")
    assert "go on: bfc fit -c" in done.stderr
    folder = tmp_path / "tiny"
    assert summary(folder)["steps"] < 60
    assert list((folder / "checkpoints").glob(".*")) == []
    assert_goes_on(whole, folder)


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
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("free_kilobytes", [4, 24, 28, 36, 56, 72])
def test_run_on_a_full_disk_goes_on_when_there_is_space(whole, small_disk, capsys, free_kilobytes):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1024 * (256 - free_kilobytes)))
    assert fit(small_disk) == 1
    assert_told(capsys.readouterr().err, "no space is left", "No space left on device")
    filler.unlink()
    for path in small_disk.rglob("*.ckpt"):  # the one of before, if any, and whole
        assert unreadable(path.parent) == []
    assert_goes_on(whole, small_disk / "tiny")


def test_comparison_on_a_full_disk_ends_in_one_line(small_disk, tmp_path, capsys):
    (small_disk / "filler").write_bytes(bytes(1024 * 248))
    (tmp_path / "few.yaml").write_text(
        f"base: [{Path(TINY).resolve()}]\nseeds: [0]\nlearners: {{a: {{}}, b: {{}}, c: {{}}}}\n"
    )
    words = ["compare", "-c", str(tmp_path / "few.yaml"), "--run.root", str(small_disk)]
    assert main(words) == 1
    assert_told(capsys.readouterr().err, "no space is left")


def test_folder_that_may_only_be_read_is_refused_and_left_as_it_is(whole, small_disk, capsys):
    assert fit(small_disk, "--trainer.max_steps", "40") == 0
    before = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    capsys.readouterr()
    assert fit(small_disk, "--run.name", "new") == 2
    assert_told(capsys.readouterr().err, "must be a folder that can be written", "Read-only")
    assert fit(small_disk, "--run.name", "tiny", "--run.overwrite", "true") == 2
    assert_told(capsys.readouterr().err, "Read-only file system")
    assert fit(small_disk, "--resume", "auto", "--trainer.max_steps", "40") == 2
    assert_told(capsys.readouterr().err, "must be writable: Read-only file system")
    assert {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()} == before
