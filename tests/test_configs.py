"""Every shipped config can be parsed, and says what it is and how to run it."""

import re
from pathlib import Path

import pytest
import yaml

from bfc_lightning.cli import main
from bfc_lightning.cli.options import parse
from bfc_lightning.runs.settings import flatten

ALL = {path: yaml.safe_load(path.read_text()) for path in sorted(Path("configs").rglob("*.yaml"))}
CLAIMS = [path for path in ALL if path.parent.name == "claims"]
EXPERIMENTS = [path for path, content in ALL.items() if "seeds" in content and path not in CLAIMS]
CONFIGS = [path for path in ALL if path not in (*EXPERIMENTS, *CLAIMS)]


def command_of(path: Path) -> list[str]:
    """The arguments of the command in the first lines of a config."""
    found = re.search(r"^#   bfc (.*?)(  |$)", path.read_text(), re.MULTILINE)
    assert found, path
    return found[1].split()


def test_the_documented_configs_exist():
    names = {path.relative_to("configs").with_suffix("").as_posix() for path in ALL}
    assert names >= {
        *("quickstart", "two_levels", "depth3", "depth3_long", "depth4", "roots", "sgd", "ddp"),
        *("classification", "non_spherical", "mixture", "rich_representation", "finite_sample"),
        *("backward_correction", "compare/schemes", "sweep/gap"),
    }


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_config_is_parsed_to_its_values(path):
    command, *argv = command_of(path)
    assert command == "fit"
    name = path.relative_to("configs").with_suffix("").as_posix()
    assert argv[-1] in (name, str(path))
    config = flatten(parse(argv, command="fit").settings())
    for key, value in flatten(ALL[path]).items():
        if "class_path" not in key and "activation" not in key:
            assert config[key] == value, key


@pytest.mark.parametrize(
    "path",
    [EXPERIMENTS[0], *(pytest.param(path, marks=pytest.mark.slow) for path in EXPERIMENTS[1:])],
    ids=str,
)
def test_experiment_lists_its_runs(path, tmp_path, capsys):
    assert main(["compare", "-c", str(path), "--run.root", str(tmp_path), "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith(("bfc fit ", "bfc baseline ")) for line in lines)
