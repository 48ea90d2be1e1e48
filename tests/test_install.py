"""The wheel has everything that the commands need, away from the source tree."""

import os
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LIMIT_SECONDS = 300


def run(command: list[str], folder: Path, **kwargs) -> str:
    """The output of a command that must succeed; it does not see the source tree."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
        **kwargs,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bfc(tmp_path_factory) -> str:
    """The console script of a fresh environment with the wheel and our own dependencies."""
    root = tmp_path_factory.mktemp("install")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = root / "source"
    tracked = run(["git", "ls-files", "-co", "--exclude-standard"], Path.cwd()).splitlines()
    for name in filter(os.path.isfile, tracked):  # setuptools writes into the tree that it builds
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(Path(name).read_bytes())
    run([*pip, "wheel", "--no-deps", "--wheel-dir", str(root), str(source)], root)
    venv.create(root / "env")
    python = str(root / "env" / "bin" / "python")
    (wheel,) = root.glob("*.whl")
    run([*pip, "--python", python, "install", "--no-deps", "--no-index", str(wheel)], root)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run([python, "-c", code], root).strip())
    others = dict.fromkeys([sysconfig.get_path("purelib"), *site.getsitepackages()])
    (packages / "others.pth").write_text("\n".join(others))
    return str(root / "env" / "bin" / "bfc")


def test_package_is_that_of_the_wheel(bfc, tmp_path):
    code = "import bfc_lightning; print(bfc_lightning.__file__)"
    python = Path(bfc).with_name("python")
    assert run([str(python), "-c", code], tmp_path).startswith(str(python.parent.parent))


def test_quickstart_trains(bfc, tmp_path):
    output = run([bfc, "fit", "-c", "quickstart", "--trainer.max_steps", "40"], tmp_path)
    assert "logs/quickstart: finished" in output
    folder = tmp_path / "logs" / "quickstart"
    assert {"config.yaml", "metrics.csv", "summary.json"} <= {p.name for p in folder.iterdir()}


def test_experiments_and_claims_are_listed(bfc, tmp_path):
    assert run([bfc, "compare", "-c", "sweep/gap", "--list"], tmp_path).startswith("bfc fit -c ")
    names = {
        line.partition(":")[0] for line in run([bfc, "claims", "--list"], tmp_path).splitlines()
    }
    assert {"gap", "layerwise"} <= names


def test_shipped_configs_are_those_of_the_source_tree(bfc, tmp_path):
    run([bfc, "init", "mine"], tmp_path)
    found = {path.relative_to(tmp_path / "mine") for path in (tmp_path / "mine").rglob("*.yaml")}
    assert found == {path.relative_to("configs") for path in Path("configs").rglob("*.yaml")}


def test_version_is_that_of_the_wheel(bfc, tmp_path):
    assert run([bfc, "--version"], tmp_path).startswith("bfc_lightning ")
