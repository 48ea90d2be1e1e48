"""Every shipped config is parsed, explains its keys, and holds only what differs."""

import re
from pathlib import Path

import pytest
import yaml

from bfc_lightning.cli.application import Application
from bfc_lightning.cli.comparing import parse_comparison
from bfc_lightning.cli.learner_settings import check_learners
from bfc_lightning.cli.sweep_settings import parse_points
from bfc_lightning.cli.sweeping import parse_sweep
from bfc_lightning.experiments.sweeps.sweep import sweep_points

ALL = sorted(Path("configs").rglob("*.yaml"))
COMPARISONS = [path for path in ALL if "learners" in yaml.safe_load(path.read_text())]
CLAIMS = [path for path in ALL if path.parent.name == "claims"]
SWEEPS = [path for path in ALL if path.parent.name == "sweep"]
CONFIGS = [path for path in ALL if path not in (*COMPARISONS, *CLAIMS, *SWEEPS)]


def leaves(tree: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= leaves(value, f"{prefix}.{key}".lstrip("."))
    return flat


@pytest.fixture
def parse(monkeypatch):
    """Parses as `bfc fit` does, and stops before any object is made."""

    def parse(path: Path):
        """With the command that the file names, which may lay it over another one."""
        words = re.search(r"^#   bfc (fit .*?)(  |$)", path.read_text(), re.MULTILINE)[1].split()
        monkeypatch.setattr(Application, "before_instantiate_classes", lambda self: None)
        monkeypatch.setattr(Application, "instantiate_classes", lambda self: None)
        monkeypatch.setattr(Application, "_run_subcommand", lambda self, command: None)
        return Application(words, started=0.0).config.fit

    return parse


def test_the_promised_configs_are_there():
    names = {path.stem for path in CONFIGS}
    assert names >= {
        *("quickstart", "depth3", "depth3_long", "depth4", "roots", "sgd", "classification"),
        *("non_spherical", "mixture", "rich_representation", "backward_correction"),
        *("finite_sample", "single_index", "quadratic_feature", "depth_separation"),
    }
    assert Path("configs/compare/schemes.yaml") in COMPARISONS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_parsed_to_what_it_says(path, parse):
    config = parse(path)
    for key, value in leaves(yaml.safe_load(path.read_text())).items():
        if not isinstance(value, list) and "class_path" not in key and "activation" not in key:
            assert config.get(key) == value, key


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_says_what_it_is_and_how_to_run_it(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert re.search(rf"^#   bfc fit .*-c {path}\b", text, re.MULTILINE)


def test_first_level_of_every_config_is_known(parse):
    known = {"inputs", "labels", "target", "model", "scheme", "data", "run", "trainer"}
    known |= {"num_measures"}
    for path in CONFIGS:
        assert set(yaml.safe_load(path.read_text())) <= known, path


@pytest.mark.slow
@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparison_is_parsed_with_all_its_learners(path):
    comparison, _ = parse_comparison(["-c", str(path)])
    content = yaml.safe_load(path.read_text())
    assert comparison.learners == content["learners"]
    assert len(comparison.seeds) >= (3 if comparison.grid else 5)
    check_learners(comparison)


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparison_says_what_it_is_and_how_to_run_it(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert f"#   bfc compare -c {path}" in text


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_is_parsed_at_all_its_points(path):
    sweep, _ = parse_sweep(["-c", str(path)])
    content = yaml.safe_load(path.read_text())
    assert (sweep.grid or sweep.points) == (content.get("grid") or content["points"])
    assert len(sweep.seeds) >= 3
    assert parse_points(sweep).keys() == sweep_points(sweep).keys()


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_says_what_it_is_and_how_to_run_it(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert f"#   bfc sweep -c {path}" in text


def test_there_is_a_sweep_of_one_key_one_of_two_and_a_list():
    kinds = [yaml.safe_load(path.read_text()) for path in SWEEPS]
    assert {len(content["grid"]) for content in kinds if "grid" in content} == {1, 2}
    assert any("points" in content for content in kinds)


def test_only_comparisons_have_learners_and_a_base():
    assert {path.parent.name for path in COMPARISONS} <= {"compare", "demos", "quick", "full"}
    assert not any("base" in yaml.safe_load(path.read_text()) for path in CONFIGS)
